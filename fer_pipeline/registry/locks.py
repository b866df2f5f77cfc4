"""Locks between the processes of one machine that write to one registry.

Beside a database in a file the lock is all that is needed: whoever can open the file sees it. Of
a server's users on other machines it keeps nobody out: what they do at once is settled by the
registry's own order (`versions`) and by the journal of moves (`aliases`).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from fer_pipeline.errors import RegistryBusyError

if TYPE_CHECKING:
    from fer_pipeline.registry.tracking import Tracking


@contextmanager
def registry_lock(tracking: Tracking, purpose: str, timeout_s: float) -> Iterator[None]:
    """Hold a lock; the kernel frees that of a killed process.

    Args:
        tracking: the store that is written to.
        purpose: processes with other purposes do not wait for each other.
        timeout_s: how long to wait.

    Raises:
        RegistryBusyError: another process still holds it.
    """
    path = lock_file(tracking.uri, purpose)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=timeout_s):
            yield
    except Timeout:
        raise RegistryBusyError(
            f"another process has been busy with the registry for {timeout_s:g} s ({path}): "
            "wait for it, or end it, and try again"
        ) from None


def lock_file(uri: str, purpose: str) -> Path:
    """Beside a SQLite file; for a server in the folder for temporary files, by its address."""
    if uri.startswith("sqlite:///"):
        return Path(f"{uri.removeprefix('sqlite:///')}.{purpose}.lock")
    address = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"fer-{Path.home().name}-{address}.{purpose}.lock"

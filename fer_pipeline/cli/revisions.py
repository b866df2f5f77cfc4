"""Files of the graph as they are now, or as they were at a git revision or a DVC experiment."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import NoSCMError, RevError

from fer_pipeline.errors import DataError, one_line

WORKSPACE = "workspace"


@contextmanager
def checkout(revision: str, paths: Sequence[Path]) -> Iterator[Path]:
    """Give a folder in which these files and folders lie as they do in the project.

    For `workspace` that is the current folder. Otherwise it is a temporary one, filled from git
    and from DVC's cache, or its remote; neither the working tree nor DVC's locks are touched, so
    that a `dvc repro` may go on meanwhile.

    Args:
        revision: whatever git or `dvc exp` takes for one, or `workspace`.
        paths: relative to the folder of `dvc.yaml`, which is the current one.

    Raises:
        DataError: there is no such revision, or it has not all of the files.
    """
    if revision == WORKSPACE:
        _require_here(paths)
        yield Path()
        return
    with tempfile.TemporaryDirectory() as folder:
        _fetch(revision, paths, Path(folder))
        yield Path(folder)


def _require_here(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise DataError(f"{path.as_posix()} is missing: run 'dvc repro'")


def _fetch(revision: str, paths: Sequence[Path], folder: Path) -> None:
    try:
        with Repo() as repo, repo.switch(revision):
            for path in paths:
                _fetch_one(repo, revision, path, folder / path)
    except NotDvcRepoError:
        raise DataError("this is no DVC repository: run this in the project's folder") from None
    except (NoSCMError, RevError):
        raise DataError(
            f"'{revision}' is no git revision and no DVC experiment of this repository: "
            f"see 'git log --oneline' and 'dvc exp list'"
        ) from None
    except DvcException as error:
        raise DataError(f"{revision} can't be read: {one_line(error)}") from error


def _fetch_one(repo: Repo, revision: str, path: Path, target: Path) -> None:
    source = path.as_posix()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        repo.dvcfs.get(source, str(target), recursive=True)
    except DvcException:
        raise
    except Exception as error:  # the clients of remotes have no exception in common
        raise DataError(
            f"{revision} has no {source}, or DVC has it neither in its cache nor in its remote: "
            f"check that revision out and run 'dvc repro' ({one_line(error)})"
        ) from error

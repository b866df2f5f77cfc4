"""Old versions and their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fer_pipeline.registry.aliases import Aliases, heal, moving, read_aliases
from fer_pipeline.registry.versions import discard_version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fer_pipeline.registry.tracking import Tracking


def superfluous(numbers: Iterable[str], aliases: Aliases, keep: int) -> list[str]:
    """The versions that have no alias and are not among the newest `keep`, the oldest first."""
    ordered = sorted(numbers, key=int)
    newest = ordered[max(0, len(ordered) - keep) :]
    return [number for number in ordered if number not in newest and not aliases.of(number)]


def collect_garbage(tracking: Tracking, name: str, keep: int, *, dry_run: bool) -> list[str]:
    """Delete superfluous versions with their files; their runs and what these say stay.

    Returns:
        The versions that went, or with `dry_run` would go.
    """
    with moving(tracking):
        if not dry_run:
            heal(tracking, name)  # an interrupted move may need a version that has no alias yet
        found = [
            str(one.version) for one in tracking.client.search_model_versions(f"name = '{name}'")
        ]
        doomed = superfluous(found, read_aliases(tracking, name), keep)
        for number in [] if dry_run else doomed:
            discard_version(tracking, name, number)
    return doomed

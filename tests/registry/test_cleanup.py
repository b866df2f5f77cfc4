"""Old versions go with their files; whatever has an alias stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from fused_model import draw_test_split, make_version

from fer_pipeline.registry.aliases import Move, move_champion, set_challenger
from fer_pipeline.registry.tracking import Tracking
from fer_pipeline.registry.versions import collect_garbage, superfluous

ALL = [str(number) for number in range(1, 13)]


@pytest.mark.parametrize(
    ("aliased", "keep", "gone"),
    [
        (set(), 12, []),
        (set(), 99, []),
        (set(), 3, ALL[:9]),
        ({"2", "1", "4"}, 3, ["3", "5", "6", "7", "8", "9"]),
        ({"12", "11", "10"}, 3, ALL[:9]),
        ({"12"}, 0, ALL[:11]),
    ],
)
def test_versions_without_alias_go_but_for_the_newest(
    aliased: set[str], keep: int, gone: list[str]
) -> None:
    assert superfluous(ALL[::-1], aliased, keep) == gone


def test_garbage_is_collected_from_the_store(store: Tracking, tmp_path: Path) -> None:
    store.client.create_registered_model("full")
    split = draw_test_split(images=8)
    for number in range(1, 8):
        assert make_version(store, tmp_path / str(number), "full", [], split) == str(number)
    for to, came_from in (("1", ""), ("3", "1")):
        move = Move(action="promote", to=to, came_from=came_from, by="ada", reason="why not")
        move_champion(store, "full", move)
    set_challenger(store, "full", "4")
    store.client.set_registered_model_alias("full", "production", "5")

    assert collect_garbage(store, "full", 2, dry_run=True) == ["2"]
    left = store.client.search_model_versions("name = 'full'")
    assert len(left) == 7

    assert collect_garbage(store, "full", 2, dry_run=False) == ["2"]
    left = store.client.search_model_versions("name = 'full'")
    assert sorted(str(one.version) for one in left) == ["1", "3", "4", "5", "6", "7"]
    assert collect_garbage(store, "full", 2, dry_run=False) == []

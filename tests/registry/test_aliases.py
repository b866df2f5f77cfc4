"""Aliases move in an order that can be cut anywhere, and the next move recovers it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fer_pipeline.errors import RegistryBusyError, RegistryError
from fer_pipeline.registry import aliases as aliases_module
from fer_pipeline.registry.aliases import (
    Aliases,
    Move,
    alias_lock,
    begin_move,
    move_champion,
    read_aliases,
    read_moves,
    set_challenger,
)
from fer_pipeline.registry.tracking import Tracking

WRITES = 6  # run, previous, champion, challenger, the version's tag, run's end


class Killed(BaseException):
    """What a SIGKILL is to the code: nothing after it runs."""


class DyingClient:
    """A real client that is killed before its n-th write."""

    def __init__(self, client: Any, writes: int) -> None:
        self._client, self._left = client, writes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not name.startswith(("set_", "delete_", "create_", "log_", "update_")):
            return method

        def write(*arguments: Any, **options: Any) -> Any:
            if not self._left:
                raise Killed
            self._left -= 1
            return method(*arguments, **options)

        return write


def make_model(store: Tracking, name: str, versions: int = 3) -> None:
    store.client.create_registered_model(name)
    for _ in range(versions):
        store.client.create_model_version(name, "nowhere")


def promote(store: Tracking, name: str, to: str) -> Move | None:
    """Move with the lock, as `fer registry promote` does."""
    with alias_lock(store, name) as finished:
        if read_aliases(store, name).champion == to:
            return finished
        return move_champion(
            store,
            name,
            to,
            action="promote",
            by="ada",
            reason="better on Tuesdays",
            policy="promote: +1 point",
        )


def begin_other_move(store: Tracking, name: str, to: str, **fields: Any) -> Move:
    """Begin a move of another process, from version 1."""
    before = Aliases("1")
    fixed = {"by": "bob", "reason": "why not", "policy": ""}
    return begin_move(store, name, Move(action="promote", to=to, before=before, **fixed, **fields))


def test_a_model_that_does_not_exist_has_no_aliases(store: Tracking) -> None:
    assert read_aliases(store, "unheard-of") == Aliases(None, None, None)


def test_a_promotion_moves_all_three_aliases(store: Tracking) -> None:
    make_model(store, "moves")
    set_challenger(store, "moves", "1")
    promote(store, "moves", "1")
    assert read_aliases(store, "moves") == Aliases("1", None, None)
    set_challenger(store, "moves", "2")
    promote(store, "moves", "2")
    assert read_aliases(store, "moves") == Aliases("2", "1", None)


def test_another_challenger_stays(store: Tracking) -> None:
    make_model(store, "stays")
    promote(store, "stays", "1")
    set_challenger(store, "stays", "3")
    promote(store, "stays", "2")
    assert read_aliases(store, "stays") == Aliases("2", "1", "3")


def test_a_move_is_recorded_in_tags_and_in_a_run(store: Tracking) -> None:
    make_model(store, "recorded")
    promote(store, "recorded", "1")
    promote(store, "recorded", "3")
    tags = store.client.get_model_version("recorded", "3").tags
    told = "promote from {} by ada: better on Tuesdays (promote: +1 point)"
    assert tags["move"].endswith(f": {told.format(1)}")
    tag = store.client.get_model_version("recorded", "1").tags["move"]
    assert tag.endswith(f": {told.format('none')}")
    latest, first = read_moves(store, "recorded")
    assert (latest.came_from, latest.to, latest.by, latest.status) == ("1", "3", "ada", "FINISHED")
    assert (first.came_from, first.to, first.policy) == ("", "1", "promote: +1 point")
    assert tags["move"].startswith(latest.at)


@pytest.mark.parametrize("writes", range(WRITES))
def test_a_promotion_killed_before_any_write_is_recovered_by_the_next(
    writes: int, store: Tracking
) -> None:
    name = f"killed-{writes}"
    make_model(store, name, 4)
    promote(store, name, "1")
    promote(store, name, "2")
    set_challenger(store, name, "3")
    with pytest.raises(Killed):
        promote(replace(store, client=DyingClient(store.client, writes)), name, "3")  # type: ignore[arg-type]
    assert read_aliases(store, name).champion in ("2", "3")

    promote(store, name, "3")

    assert read_aliases(store, name) == Aliases("3", "2", None)
    assert "promote from 2 by" in store.client.get_model_version(name, "3").tags["move"]
    moves = read_moves(store, name)
    assert not [move for move in moves if move.status == "RUNNING"]
    made = [(move.came_from, move.to) for move in moves if move.status == "FINISHED"]
    assert made == [("2", "3"), ("1", "2"), ("", "1")]


def test_that_many_writes_are_a_whole_promotion(store: Tracking) -> None:
    make_model(store, "whole")
    promote(store, "whole", "1")
    set_challenger(store, "whole", "2")
    promote(replace(store, client=DyingClient(store.client, WRITES)), "whole", "2")  # type: ignore[arg-type]
    assert read_aliases(store, "whole") == Aliases("2", "1", None)


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_another_promotion_after_a_killed_one_leaves_no_trace_of_it(
    writes: int, store: Tracking
) -> None:
    name = f"other-{writes}"
    make_model(store, name, 4)
    promote(store, name, "1")
    promote(store, name, "2")
    with pytest.raises(Killed):
        promote(replace(store, client=DyingClient(store.client, writes)), name, "3")  # type: ignore[arg-type]
    with alias_lock(store, name):
        pass
    expected = Aliases("3", "2", None) if writes == 3 else Aliases("2", "1", None)
    assert read_aliases(store, name) == expected


def test_a_first_promotion_that_was_killed_is_taken_back(store: Tracking) -> None:
    make_model(store, "first")
    with pytest.raises(Killed):
        promote(replace(store, client=DyingClient(store.client, 2)), "first", "1")  # type: ignore[arg-type]
    with alias_lock(store, "first") as finished:
        assert finished is None
    assert read_aliases(store, "first") == Aliases(None, None, None)


def test_what_another_machine_has_just_begun_is_left_alone_for_a_minute(
    store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(store, "others")
    begin_other_move(store, "others", "2", host="elsewhere")
    with (
        pytest.raises(RegistryError, match="bob is moving others to version 2 on"),
        alias_lock(store, "others"),
    ):
        pass
    monkeypatch.setattr(aliases_module, "OTHERS_MOVE_WITHIN_S", 0.0)
    with alias_lock(store, "others") as finished:
        assert finished is None
    assert [move.status for move in read_moves(store, "others")] == ["KILLED"]


def test_two_do_not_move_at_once(store: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases_module, "LOCK_TIMEOUT_S", 0.05)
    with (
        alias_lock(store, "any"),
        pytest.raises(RegistryError, match=r"busy with the registry for 0\.05 s .*moves\.lock"),
        alias_lock(store, "any"),
    ):
        pass


def test_of_two_machines_that_begin_at_once_none_moves(
    store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine sees no other's lock: the run of the other comes after it has read the aliases."""
    make_model(store, "met")
    promote(store, "met", "1")
    others: list[Move] = []

    def begin_second(*arguments: Any) -> Move:
        if not others:
            others.append(begin_other_move(store, "met", "3"))
        return begin_move(*arguments)

    monkeypatch.setattr(aliases_module, "begin_move", begin_second)
    with pytest.raises(RegistryBusyError, match=r"bob is moving met to version 3 on"):
        promote(store, "met", "2")
    assert read_aliases(store, "met") == Aliases("1", None, None)
    assert {move.to: move.status for move in read_moves(store, "met")} == {
        "1": "FINISHED",
        "2": "KILLED",
        "3": "RUNNING",
    }


def test_a_move_on_what_has_just_changed_is_given_up(
    store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(store, "changed")
    promote(store, "changed", "1")

    def begin_late(*arguments: Any) -> Move:
        monkeypatch.undo()
        move_champion(store, "changed", "3", action="promote", by="bob", reason="at the same time")
        return begin_move(*arguments)

    monkeypatch.setattr(aliases_module, "begin_move", begin_late)
    with pytest.raises(RegistryBusyError, match="have moved at this moment"):
        promote(store, "changed", "2")
    assert read_aliases(store, "changed") == Aliases("3", "1", None)


def test_moves_have_an_experiment_of_their_own(store: Tracking) -> None:
    make_model(store, "apart")
    promote(store, "apart", "1")
    run = store.client.get_run(read_moves(store, "apart")[0].run_id)
    name = store.client.get_experiment(run.info.experiment_id).name
    assert name == "apart promotions"


def test_moves_are_found_whatever_experiment_is_used_since(store: Tracking) -> None:
    make_model(store, "renamed")
    promote(store, "renamed", "1")
    since = replace(store, experiment_id=store.client.create_experiment("since"))
    assert [move.to for move in read_moves(since, "renamed")] == ["1"]

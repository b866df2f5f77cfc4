"""Aliases move in an order that can be cut anywhere, and the next process finishes the move."""

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
    withdrawn,
)
from fer_pipeline.registry.tracking import Tracking

WRITES = 5  # run, previous, champion, challenger, run's end


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


def promotion(to: str, came_from: str, **fields: Any) -> Move:
    fixed = {"by": "ada", "reason": "better on Tuesdays", "policy": "promote: +1 point"}
    return Move(action="promote", to=to, came_from=came_from, **(fixed | fields))


def promote(store: Tracking, name: str, to: str) -> Move | None:
    """Move with the lock, as `fer registry promote` does."""
    with alias_lock(store, name) as finished:
        champion = read_aliases(store, name).champion
        if champion == to:
            return finished
        return move_champion(store, name, promotion(to, champion or ""))


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


def test_a_move_is_recorded_in_a_run(store: Tracking) -> None:
    make_model(store, "recorded")
    promote(store, "recorded", "1")
    promote(store, "recorded", "3")
    latest, first = read_moves(store, "recorded")
    assert (latest.came_from, latest.to, latest.by, latest.status) == ("1", "3", "ada", "FINISHED")
    assert (first.came_from, first.to, first.policy) == ("", "1", "promote: +1 point")
    run = store.client.get_run(latest.run_id)
    assert store.client.get_experiment(run.info.experiment_id).name == "recorded promotions"
    # They are found whatever experiment is used since.
    since = replace(store, experiment_id=store.client.create_experiment("since"))
    assert read_moves(since, "recorded") == [latest, first]


def test_the_last_move_of_a_version_says_whether_it_is_withdrawn() -> None:
    back = Move(action="rollback", to="1", came_from="2", by="ada", reason="it harms", at="today")
    moves = [replace(one, status="FINISHED") for one in (back, promotion("2", "1"))]
    assert withdrawn(moves, "2") == "today: it harms"
    assert [withdrawn(moves, number) for number in ("1", "3")] == ["", ""]
    assert withdrawn(moves[1:], "1") == ""
    given_up, again = replace(moves[0], status="KILLED"), replace(promotion("2", "1"), at="later")
    assert withdrawn([given_up, moves[1]], "2") == ""
    assert withdrawn([replace(again, status="FINISHED"), *moves], "2") == ""


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


@pytest.mark.parametrize("writes", [1, 2, 3, 4])
def test_whoever_takes_the_lock_next_finishes_a_promotion_that_was_killed(
    writes: int, store: Tracking
) -> None:
    name = f"other-{writes}"
    make_model(store, name)
    first = min(writes + 1, 3)  # the experiment of the journal is made, too, and `previous` stays
    with pytest.raises(Killed):
        promote(replace(store, client=DyingClient(store.client, first)), name, "1")  # type: ignore[arg-type]
    with alias_lock(store, name) as finished:
        assert finished is not None
        assert read_aliases(store, name) == Aliases("1", None, None)
    set_challenger(store, name, "2")
    with pytest.raises(Killed):
        promote(replace(store, client=DyingClient(store.client, writes)), name, "2")  # type: ignore[arg-type]
    with alias_lock(store, name):
        assert read_aliases(store, name) == Aliases("2", "1", None)


def test_a_move_from_another_champion_than_that_of_now_is_not_finished(store: Tracking) -> None:
    make_model(store, "by-hand")
    begin_move(store, "by-hand", promotion("2", ""))
    store.client.set_registered_model_alias("by-hand", "champion", "3")
    with alias_lock(store, "by-hand") as finished:
        assert finished is None
    assert read_aliases(store, "by-hand") == Aliases("3", None, None)
    assert [move.status for move in read_moves(store, "by-hand")] == ["KILLED"]


@pytest.mark.parametrize(
    ("writes", "deleted", "status", "left"),
    [(2, "2", "KILLED", Aliases("1")), (3, "1", "FINISHED", Aliases("2"))],
)
def test_a_version_that_was_deleted_after_a_killed_move_stands_in_no_ones_way(
    writes: int, deleted: str, status: str, left: Aliases, store: Tracking
) -> None:
    name = f"deleted-{deleted}"
    make_model(store, name)
    promote(store, name, "1")
    with pytest.raises(Killed):
        promote(replace(store, client=DyingClient(store.client, writes)), name, "2")  # type: ignore[arg-type]
    store.client.delete_model_version(name, deleted)
    with alias_lock(store, name):
        assert read_aliases(store, name)._replace(previous=None) == left
    assert read_moves(store, name)[0].status == status


def test_what_another_machine_has_just_begun_is_left_alone_for_a_minute(
    store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(store, "others")
    begin_move(store, "others", promotion("2", "", host="elsewhere"))
    with (
        pytest.raises(RegistryBusyError, match="another process is moving the champion of others"),
        alias_lock(store, "others"),
    ):
        pass
    monkeypatch.setattr(aliases_module, "OTHERS_MOVE_WITHIN_S", 0.0)
    with alias_lock(store, "others") as finished:
        assert finished is not None
    assert read_aliases(store, "others") == Aliases("2", None, None)


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
            others.append(begin_move(store, "met", promotion("3", "1")))
        return begin_move(*arguments)

    monkeypatch.setattr(aliases_module, "begin_move", begin_second)
    with pytest.raises(RegistryBusyError, match="another process is moving the champion of met"):
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
        move_champion(store, "changed", promotion("3", "1"))
        return begin_move(*arguments)

    monkeypatch.setattr(aliases_module, "begin_move", begin_late)
    with pytest.raises(RegistryBusyError, match="another process is moving"):
        promote(store, "changed", "2")
    assert read_aliases(store, "changed") == Aliases("3", "1", None)

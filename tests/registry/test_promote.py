"""Promotions by the policy, the way back, and what is said where neither is possible.

The versions here have records and no model, so their check in a fresh process is left out; it has
tests of its own, and the whole way is gone by the tests of the stage and of the server.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fused_model import draw_test_split, make_version, put_test_split

from fer_pipeline.errors import RegistryError
from fer_pipeline.params.schema import Params
from fer_pipeline.registry import promote as promote_module
from fer_pipeline.registry.aliases import (
    Aliases,
    read_aliases,
    read_moves,
    set_challenger,
    withdrawn,
)
from fer_pipeline.registry.fetch import FILES_TAG
from fer_pipeline.registry.policy import COMPARISON_TAG, GATE_TAG, compare_versions, evaluate_policy
from fer_pipeline.registry.promote import nominate, promote, read_status, roll_back
from fer_pipeline.registry.tracking import Tracking

SPLIT = draw_test_split(images=40)
ASKING = {"by": "ada", "reason": "a good day"}
FORCE: dict[str, Any] = {"by": "ada", "reason": "on my own head", "force": True}


class Model:
    """A registered model of its own for a test, and how to make versions of it."""

    def __init__(self, store: Tracking, params: Params, folder: Path) -> None:
        self.store, self.folder, self.name = store, folder, folder.name
        registry = params.registry.model_copy(update={"model_name": self.name})
        evaluation = params.evaluation.model_copy(update={"bootstrap_draws": 200})
        self.params = params.model_copy(update={"registry": registry, "evaluation": evaluation})
        store.client.create_registered_model(self.name)

    def version(self, wrong: int, split: object = SPLIT, **tags: str) -> str:
        """One that is wrong on the first so many test images."""
        folder = self.folder / f"{len(list(self.folder.iterdir()))}"
        return make_version(self.store, folder, self.name, list(range(wrong)), split, **tags)  # type: ignore[arg-type]

    def policy(self, **values: object) -> Params:
        section = self.params.promotion.model_copy(update=values)
        return self.params.model_copy(update={"promotion": section})

    def promote(self, wanted: str | None = None, **request: Any) -> object:
        return promote(self.store, self.params, wanted, **{**ASKING, **request})

    @property
    def aliases(self) -> Aliases:
        return read_aliases(self.store, self.name)


@pytest.fixture
def model(
    store: Tracking, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Model:
    monkeypatch.setattr(promote_module, "check_version", lambda *_: "not checked")
    monkeypatch.chdir(tmp_path)
    return Model(store, params, tmp_path)


def test_the_first_version_becomes_challenger_and_then_champion(model: Model) -> None:
    first = model.version(5)
    assert nominate(model.store, model.params, first) is True
    assert model.aliases == Aliases(None, None, first)
    model.promote()
    assert model.aliases == Aliases(first, None, None)
    assert read_moves(model.store, model.name)[0].policy == (
        "promote: the gate passed, and there is no champion yet"
    )


def test_the_champion_does_not_become_challenger_again(model: Model) -> None:
    first = model.version(5)
    model.promote(first)
    assert nominate(model.store, model.params, first) is False
    assert model.aliases == Aliases(first, None, None)


def test_a_better_challenger_is_promoted_and_a_worse_or_equal_one_is_not(model: Model) -> None:
    first, better, equal = model.version(5), model.version(3), model.version(3)
    model.promote(first)
    assert evaluate_policy(model.store, model.params, better).promote is True
    model.promote(better)
    for refused, gain in ((first, "-5.00"), (equal, "+0.00")):
        with pytest.raises(
            RegistryError, match=f"version {refused} is not promoted: \\{gain} points"
        ):
            model.promote(refused)
    assert model.aliases == Aliases(better, first, None)


def test_the_comparison_is_by_image_on_the_same_images(model: Model) -> None:
    first, second = model.version(6), model.version(2)
    model.promote(first)
    comparison = compare_versions(model.store, model.params, second, first)
    assert (comparison.champion, comparison.images, comparison.rescored) == (first, 40, False)
    assert comparison.gain == pytest.approx(4 / 40)
    assert comparison.mcnemar_p == pytest.approx(2 * 0.5**4)  # four images, all for one side
    assert comparison.ci95[0] > 0
    text = model.store.client.get_model_version(model.name, second).tags[COMPARISON_TAG]
    assert json.loads(text)["gain"] == comparison.gain


def test_a_comparison_with_another_champion_does_not_count(model: Model) -> None:
    first, second, third = model.version(6), model.version(4), model.version(5)
    model.promote(first)
    assert evaluate_policy(model.store, model.params, third).promote is True
    model.promote(second)
    assert evaluate_policy(model.store, model.params, third).promote is False


def test_the_policy_of_the_params_is_asked(model: Model) -> None:
    first, second = model.version(6), model.version(2)
    model.promote(first)
    for values, promoted in (
        ({"min_gain": 0.09}, True),
        ({"min_gain": 0.1}, False),
        ({"max_p": 0.125}, True),
        ({"max_p": 0.12}, False),
    ):
        decision = evaluate_policy(model.store, model.policy(**values), second)
        assert decision.promote is promoted, values


def test_a_version_without_a_passed_gate_is_not_promoted(model: Model) -> None:
    failed = model.version(0, **{GATE_TAG: "false"})
    with pytest.raises(RegistryError, match="the gate did not pass"):
        model.promote(failed)
    assert model.aliases == Aliases(None, None, None)


def test_force_overrides_the_policy_and_is_recorded(model: Model) -> None:
    first, worse = model.version(2), model.version(6)
    model.promote(first)
    model.promote(worse, **FORCE)
    assert model.aliases == Aliases(worse, first, None)
    move = read_moves(model.store, model.name)[0]
    assert (move.by, move.reason) == ("ada", "on my own head")
    assert move.policy.startswith("overridden: -10.00 points")


def test_a_version_that_fails_its_check_is_not_even_forced(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise RegistryError("fails its check")

    first, second = model.version(6), model.version(2)
    model.promote(first)
    monkeypatch.setattr(promote_module, "check_version", fail)
    with pytest.raises(RegistryError, match="fails its check"):
        model.promote(second, **FORCE)
    with pytest.raises(RegistryError, match="fails its check"):
        nominate(model.store, model.params, second)
    assert model.aliases == Aliases(first, None, None)


def test_promoting_the_champion_changes_nothing(model: Model) -> None:
    first, second = model.version(6), model.version(2)
    model.promote(first)
    model.promote(second)
    assert model.promote(second) is None
    assert model.aliases == Aliases(second, first, None)


def test_what_is_not_there_is_not_promoted(model: Model) -> None:
    with pytest.raises(RegistryError, match="has no challenger: 'dvc repro' registers one"):
        model.promote()
    with pytest.raises(RegistryError, match=f"the registry has no {model.name} version 9:"):
        model.promote("9")


def test_a_rollback_swaps_champion_and_previous_and_so_does_the_next(model: Model) -> None:
    first, second = model.version(6), model.version(2)
    model.promote(first)
    model.promote(second)
    set_challenger(model.store, model.name, model.version(1))
    roll_back(model.store, model.name, **ASKING)
    assert model.aliases == Aliases(first, second, "3")
    roll_back(model.store, model.name, **ASKING)
    assert model.aliases == Aliases(second, first, "3")
    moves = [(move.action, move.to) for move in read_moves(model.store, model.name)]
    assert moves[:2] == [("rollback", second), ("rollback", first)]


def test_a_champion_that_was_rolled_back_returns_by_force_alone(model: Model) -> None:
    first, second = model.version(6), model.version(2)
    model.promote(first)
    model.promote(second)
    roll_back(model.store, model.name, by="ada", reason="it harms")
    with pytest.raises(RegistryError, match=r"was rolled back \(20\S+: it harms\)"):
        model.promote(second)
    model.promote(second, **FORCE)
    assert model.aliases == Aliases(second, first, None)
    roll_back(model.store, model.name, **ASKING)
    roll_back(model.store, model.name, **ASKING)  # and what is brought back is champion again
    assert withdrawn(read_moves(model.store, model.name), second) == ""


def test_a_rollback_does_not_wait_until_a_model_is_loaded(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> str:
        raise AssertionError("a model was loaded")

    first, second = model.version(6), model.version(2)
    model.promote(first)
    model.promote(second)
    monkeypatch.setattr(promote_module, "check_version", load)
    roll_back(model.store, model.name, **ASKING)
    assert model.aliases == Aliases(first, second, None)


def test_without_a_previous_champion_there_is_no_way_back(model: Model) -> None:
    model.promote(model.version(3))
    with pytest.raises(RegistryError, match="has no previous champion to go back to"):
        roll_back(model.store, model.name, **ASKING)


@pytest.mark.parametrize(("written", "says"), [(None, "no bytes, not 5"), (4, "4 bytes, not 5")])
def test_a_rollback_to_a_version_that_is_not_whole_is_refused(
    written: int | None, says: str, model: Model
) -> None:
    first = model.version(6, **{FILES_TAG: '{"spec.json": [5, "ab"]}'})
    model.promote(first)
    second = model.version(2)
    model.promote(second)
    bundle = model.folder / "0" / "artifacts" / "bundle"
    bundle.mkdir()
    if written:
        (bundle / "spec.json").write_bytes(b"x" * written)
    with pytest.raises(RegistryError, match=f"version 1 is not whole: its spec.json has {says}"):
        roll_back(model.store, model.name, **ASKING)
    assert model.aliases == Aliases(second, first, None)


def test_a_champion_of_another_test_set_must_be_scored_on_this_one(model: Model) -> None:
    others = draw_test_split(seed=1, images=30)
    first, second = model.version(6, others), model.version(2)
    model.promote(first)
    decision = evaluate_policy(model.store, model.params, second, may_score=False)
    assert decision.promote is None
    assert "it is scored on these when you promote" in decision.reason
    with pytest.raises(
        RegistryError, match=r"scored on these, but data/prepared/test\.npz is missing"
    ):
        model.promote(second)
    put_test_split(others, model.folder)
    with pytest.raises(RegistryError, match=r"data/prepared/test\.npz is missing or holds others"):
        model.promote(second)
    model.promote(second, **FORCE)
    assert model.aliases == Aliases(second, first, None)


def test_the_status_has_what_a_program_needs(model: Model) -> None:
    nothing = read_status(model.store, model.params)
    assert nothing == {
        "model_name": model.name,
        "champion": None,
        "challenger": None,
        "previous": None,
        "decision": None,
    }
    first = model.version(6, accuracy="0.85", gain="0.01", recipe="paper")
    second = model.version(2, accuracy="0.95")
    model.promote(first)
    set_challenger(model.store, model.name, second)
    now = read_status(model.store, model.params)
    champion = {"version": first, "run_id": None, "accuracy": 0.85, "gain": 0.01, "recipe": "paper"}
    assert now["champion"] == champion
    assert now["previous"] is None
    assert now["decision"] == {
        "promote": True,
        "reason": "+10.00 points on champion 1 over 40 images: above the 0 required",
    }
    json.dumps(now)

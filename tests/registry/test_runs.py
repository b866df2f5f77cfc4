"""The run that trained a backbone is found by its inputs and by what it reached."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fer_pipeline.provenance import StageInputs
from fer_pipeline.registry.runs import LINEAGE_TAG, find_training_run, open_run
from fer_pipeline.registry.tracking import Tracking

INPUTS = StageInputs(
    "train@resnet50", {"seed": 0, "training.mixup": 0.1}, {"data/prepared/val.npz": "ab"}, "code"
)


@pytest.fixture(scope="module")
def runs(store: Tracking) -> dict[str, str]:
    """Trainings of one backbone, by what is particular about each."""
    found = {}
    for name, inputs, accuracy in (
        ("older", INPUTS, 0.5),
        ("same", INPUTS, 0.5),
        ("other inputs", replace(INPUTS, params={"seed": 0, "training.mixup": 0.2}), 0.5),
        ("other result", INPUTS, 0.25),
    ):
        with open_run(store, name, {"name": name}, tags={LINEAGE_TAG: inputs.lineage}) as run:
            run.metrics({"best_val_accuracy": accuracy})
        found[name] = run.run_id
    with pytest.raises(KeyError):
        fail(store)
    return found


def fail(store: Tracking) -> None:
    with open_run(store, "failed", {}, tags={LINEAGE_TAG: INPUTS.lineage}) as run:
        run.metrics({"best_val_accuracy": 0.5})
        raise KeyError


def test_the_newest_finished_training_of_the_same_inputs_and_result_is_found(
    store: Tracking, runs: dict[str, str]
) -> None:
    assert find_training_run(store, INPUTS, 0.5) == runs["same"]
    assert find_training_run(store, INPUTS, 0.25) == runs["other result"]
    assert find_training_run(store, replace(INPUTS, code="accepted"), 0.5) == runs["same"]


@pytest.mark.usefixtures("runs")
def test_a_training_of_other_inputs_is_not_taken_for_it(store: Tracking) -> None:
    assert find_training_run(store, replace(INPUTS, params={"seed": 1}), 0.5) is None
    assert find_training_run(store, replace(INPUTS, data={}), 0.5) is None
    assert find_training_run(store, replace(INPUTS, stage="train@resnet101"), 0.5) is None
    assert find_training_run(store, INPUTS, 0.75) is None

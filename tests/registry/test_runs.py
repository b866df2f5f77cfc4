"""The run that trained a backbone is found by its inputs and by what it reached."""

from __future__ import annotations

import pytest

from fer_pipeline.registry.runs import find_training_run, open_run
from fer_pipeline.registry.tracking import Tracking

INPUTS = {"seed": 0, "head": {"epochs": 2}, "head_free": None}
LOGGED = {"seed": 0, "head.epochs": 2, "head_free": None, "training.precision": "bf16"}


@pytest.fixture(scope="module")
def runs(store: Tracking) -> dict[str, str]:
    """Trainings of one backbone, by what is particular about each."""
    found = {}
    for name, params, accuracy in (
        ("older", LOGGED, 0.5),
        ("same", LOGGED, 0.5),
        ("other inputs", LOGGED | {"head.epochs": 3}, 0.5),
        ("other result", LOGGED, 0.25),
    ):
        tags = {"fer.stage": "train", "fer.backbone": "resnet50"}
        with open_run(store, name, {"name": name}, tags=tags) as run:
            run.params(params)
            run.metrics({"best_val_accuracy": accuracy})
        found[name] = run.run_id
    with pytest.raises(KeyError):
        fail(store, tags)
    return found


def fail(store: Tracking, tags: dict[str, str]) -> None:
    with open_run(store, "failed", {}, tags=tags) as run:
        run.params(LOGGED)
        run.metrics({"best_val_accuracy": 0.5})
        raise KeyError


def test_the_newest_finished_training_of_the_same_inputs_and_result_is_found(
    store: Tracking, runs: dict[str, str]
) -> None:
    assert find_training_run(store, "resnet50", INPUTS, 0.5) == runs["same"]
    assert find_training_run(store, "resnet50", INPUTS, 0.25) == runs["other result"]


def test_a_training_of_other_inputs_is_not_taken_for_it(
    store: Tracking, runs: dict[str, str]
) -> None:
    assert find_training_run(store, "resnet50", INPUTS | {"seed": 1}, 0.5) is None
    assert find_training_run(store, "resnet50", INPUTS | {"unheard_of": 1}, 0.5) is None
    assert find_training_run(store, "resnet101", INPUTS, 0.5) is None
    assert find_training_run(store, "resnet50", INPUTS, 0.75) is None

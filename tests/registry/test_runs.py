"""Runs end as their block does, an unfinished one is continued, and trainings are linked."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path

import pytest
from processes import wait_until

from fer_pipeline.errors import RegistryError
from fer_pipeline.provenance import git_state
from fer_pipeline.registry.runs import make_child, open_run
from fer_pipeline.registry.tracking import Tracking

INPUTS: dict[str, object] = {"seed": 0, "backbone": {"image_size": 32, "weights": "none"}}


def status(store: Tracking, run_id: str) -> str:
    return str(store.client.get_run(run_id).info.status)


def test_a_finished_block_leaves_a_finished_run_with_all_that_was_logged(
    store: Tracking, tmp_path: Path
) -> None:
    note = tmp_path / "note.json"
    note.write_text("{}")
    with open_run(store, "resnet50", INPUTS | {"seed": 1}, tags={"fer.stage": "train"}) as run:
        assert status(store, run.run_id) == "RUNNING"
        run.params({"seed": 1, "weights": None})
        run.metrics({"val_accuracy": 0.5, "val_loss": 1.2}, step=1)
        run.metrics({"val_accuracy": 0.6}, step=2)
        run.artifact(note)
    found = store.client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == f"resnet50 {git_state().commit[:7]}"
    assert found.data.params == {"seed": "1", "weights": "None"}
    assert found.data.metrics == {"val_accuracy": 0.6, "val_loss": 1.2}
    assert found.data.tags["fer.stage"] == "train"
    assert found.data.tags["mlflow.source.git.commit"] == git_state().commit
    history = store.client.get_metric_history(run.run_id, "val_accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.6)]
    assert [item.path for item in store.client.list_artifacts(run.run_id)] == ["note.json"]


@pytest.mark.parametrize(
    ("reason", "ends"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_block_that_fails_or_is_interrupted_says_so(
    reason: type[BaseException], ends: str, store: Tracking
) -> None:
    run_ids = []

    def work() -> None:
        with open_run(store, "resnet50", INPUTS | {"reason": reason.__name__}) as run:
            run_ids.append(run.run_id)
            raise reason

    with pytest.raises(reason):
        work()
    assert status(store, run_ids[0]) == ends


def test_an_artifact_that_can_not_be_stored_fails_the_run_in_one_line(store: Tracking) -> None:
    Path("report.html").write_text("all is well")
    run_ids = []

    def work() -> None:
        with open_run(store, "no space", INPUTS) as run:
            run_ids.append(run.run_id)
            uri = store.client.get_run(run.run_id).info.artifact_uri
            place = Path(uri.removeprefix("file://"))
            place.parent.mkdir(parents=True)
            place.write_text("a file where a folder should be")
            run.artifact(Path("report.html"))

    with pytest.raises(RegistryError, match=r"^report.html could not be stored with the run \("):
        work()
    assert status(store, run_ids[0]) == "FAILED"


def test_an_unfinished_run_of_the_same_inputs_is_continued(store: Tracking) -> None:
    """The outer block is the process that was killed; the inner one, the stage run again."""
    turned = dict(reversed(INPUTS.items()))
    with open_run(store, "resnet50", INPUTS, tags={"a": "1"}) as killed:
        killed.params({"seed": 0})
        killed.metrics({"best_val_accuracy": 0.1, "seconds": 1}, step=1)
        killed.metrics({"best_val_accuracy": 0.3, "seconds": 1}, step=2)  # as on a GPU
        with open_run(store, "resnet50", turned, tags={"a": "2"}) as again:
            assert again.run_id == killed.run_id
            again.params({"seed": 0})
            again.metrics({"best_val_accuracy": 0.1, "seconds": 2}, step=1)  # each epoch once
            again.metrics({"best_val_accuracy": 0.2, "seconds": 2}, step=2)
    found = store.client.get_run(again.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["a"] == "2"
    history = store.client.get_metric_history(again.run_id, "best_val_accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.3), (2, 0.2)]


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("resnet101", INPUTS),
        ("resnet50", INPUTS | {"seed": 7}),
        ("resnet50", INPUTS | {"seed": "0"}),
        ("resnet50", INPUTS | {"backbone": {"image_size": 40, "weights": "none"}}),
    ],
    ids=["another name", "another seed", "text for a number", "another nested value"],
)
def test_an_unfinished_run_of_other_inputs_is_left_alone(
    name: str, inputs: dict[str, object], store: Tracking
) -> None:
    with open_run(store, "resnet50", INPUTS) as killed, open_run(store, name, inputs) as other:
        assert other.run_id != killed.run_id


def test_an_unfinished_run_of_another_workspace_is_left_alone(
    store: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(store, "resnet50", INPUTS) as elsewhere:
        monkeypatch.chdir(tmp_path)
        with open_run(store, "resnet50", INPUTS) as here:
            assert here.run_id != elsewhere.run_id


def test_a_run_that_ended_is_not_continued(store: Tracking) -> None:
    run_ids = set()
    for _ in range(2):
        with open_run(store, "resnet50", INPUTS) as run:
            run_ids.add(run.run_id)
    assert len(run_ids) == 2


def test_a_run_of_which_there_is_one_is_continued_though_it_ended(store: Tracking) -> None:
    for _ in range(2):
        with open_run(store, "fusion", INPUTS, once=True) as run:
            run.metrics({"accuracy": 0.6})
    (found,) = store.client.search_runs([store.experiment_id], "attributes.run_name LIKE 'fusion%'")
    assert (found.info.run_id, found.info.status) == (run.run_id, "FINISHED")
    assert len(store.client.get_metric_history(run.run_id, "accuracy")) == 1


def test_a_run_is_named_by_recipe_seed_and_commit(
    store: Tracking, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(root / "recipes" / "paper.yaml", "params.yaml")
    shutil.copytree(root / "recipes", "recipes")
    with open_run(store, "resnet50", {}) as run:
        pass
    name = store.client.get_run(run.run_id).info.run_name
    assert name == f"resnet50 paper seed 0 {git_state().commit[:7]}"


def test_the_data_of_a_training_are_inputs_of_its_run(store: Tracking) -> None:
    for name in ("train", "val", "test"):
        path = Path(f"data/prepared/{name}.npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the images of {name}")
    with open_run(store, "trained", INPUTS | {"data": "theirs"}) as run:
        pass
    with open_run(store, "fused", INPUTS) as other:
        pass
    inputs = store.client.get_run(run.run_id).inputs.dataset_inputs
    found = {one.dataset.name: one for one in inputs}
    assert set(found) == {"train.npz", "val.npz"}
    sha256 = hashlib.sha256(b"the images of val").hexdigest()
    assert found["val.npz"].dataset.digest == sha256[:32]
    assert json.loads(found["val.npz"].dataset.source) == {
        "uri": "data/prepared/val.npz",
        "sha256": sha256,
    }
    contexts = {name: one.tags[0].value for name, one in found.items()}
    assert contexts == {"train.npz": "training", "val.npz": "validation"}
    inputs = store.client.get_run(other.run_id).inputs.dataset_inputs
    assert {one.dataset.name: one.tags[0].value for one in inputs} == {
        "val.npz": "validation",
        "test.npz": "testing",
    }


def test_the_machine_is_watched_during_a_training_and_only_then(
    store: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with open_run(store, "watched", INPUTS | {"data": "theirs"}) as run:

        def watched() -> dict[str, float] | None:
            metrics: dict[str, float] = store.client.get_run(run.run_id).data.metrics
            return metrics if "system/cpu_utilization_percentage" in metrics else None

        metrics = wait_until(watched, "the processor is measured")
    assert 0 < metrics["system/system_memory_usage_percentage"] <= 100
    with open_run(store, "unwatched", INPUTS):
        assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}


def test_a_training_of_this_store_becomes_a_child_once(store: Tracking) -> None:
    with open_run(store, "resnet50", {"trained": "here"}) as run:
        pass
    assert make_child(store, run.run_id, "first") is True
    assert make_child(store, run.run_id, "second") is True
    assert store.client.get_run(run.run_id).data.tags["mlflow.parentRunId"] == "first"
    assert make_child(store, "0" * 32, "first") is False

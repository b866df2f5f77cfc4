"""Stage `train` on several CPU processes, and the devices that it refuses."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import save_file
from workspace import TRAIN, TrainHere, Workspace, copy_workspace, tiny_backbone

from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.provenance import file_sha256

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPU cores"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="GPUs come before CPU processes"),
]


TWICE = """
import os, sys
from fer_pipeline.stages.__main__ import end_with_parent
end_with_parent()
from fer_pipeline.stages.launch import main
for folder in os.environ["FOLDERS"].split(os.pathsep):
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    status = main()
sys.exit(status)
"""
"""The stage in one folder, then in another: to start two processes costs more than a training."""


@pytest.fixture
def workspace(prepared: Workspace) -> Workspace:
    phase = {"epochs": 1, "batch_size": 14, "learning_rate": 1e-4}
    prepared.edit_params(backbones={"resnet50": tiny_backbone(phase, phase)})
    return prepared


def test_of_two_processes_one_speaks_and_what_ends_both_is_said_once(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace.edit_params(training__devices=2)
    failing = copy_workspace(workspace, tmp_path / "failing")
    spoilt = failing.folder / "spoilt.safetensors"
    state = build_backbone("resnet50", "none").state_dict()
    state["conv1.weight"].fill_(float("nan"))
    save_file({key: value.contiguous() for key, value in state.items()}, spoilt)
    failing.edit_params(
        backbones__resnet50__weights=str(spoilt),
        backbones__resnet50__weights_sha256=file_sha256(spoilt),
        backbones__resnet50__head=None,
    )
    script, folders = tmp_path / "twice.py", f"{workspace.folder}{os.pathsep}{failing.folder}"
    script.write_text(TWICE)
    done = workspace.run(sys.executable, str(script), *TRAIN[-2:], FOLDERS=folders)

    assert done.stdout.count("resnet50 on 2 x cpu") == 2
    assert done.stdout.count(" 1/2  loss") == 1
    with (workspace.folder / "plots/curves/resnet50.csv").open() as stream:
        assert [row["phase"] for row in csv.DictReader(stream)] == ["head", "finetune"]
    assert not (workspace.folder / "checkpoints/resnet50").exists()

    assert done.returncode == 1, done.stderr
    assert [line for line in done.stderr.splitlines() if "error: " in line] == [
        "error: resnet50: the loss of epoch 1 (finetune), step 1, is nan: "
        "lower backbones.resnet50.finetune.learning_rate"
    ]
    assert "Traceback" not in done.stderr
    assert not (failing.folder / "models").exists()
    store = MlflowClient(f"sqlite:///{failing.folder / 'mlflow.db'}")
    (run,) = store.search_runs([store.get_experiment_by_name("fer2013").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.params["backbones.resnet50.weights_sha256"] == file_sha256(spoilt)


@pytest.mark.parametrize(
    ("devices", "batch_size", "says"),
    [
        ((os.cpu_count() or 1) + 1, 14, "CPU cores: ask for fewer"),
        (2, 13, "batch_size is 13: it must be a multiple of the 2 devices that share it"),
        (2, 2, "with 2 images or more for each"),
    ],
)
def test_devices_that_cannot_share_the_work_are_refused_before_it(
    devices: int, batch_size: int, says: str, workspace: Workspace, train_here: TrainHere
) -> None:
    workspace.edit_params(
        backbones__resnet50__finetune__batch_size=batch_size, training__devices=devices
    )
    done = train_here(workspace)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert not (workspace.folder / "models").exists()
    assert not (workspace.folder / "checkpoints").exists()

"""Stage `train` on several CPU processes, and the devices that it refuses."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from workspace import Workspace, environment

TRAIN = (sys.executable, "-m", "fer_pipeline.stages.train", "resnet50")

pytestmark = [
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPU cores"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="GPUs come before CPU processes"),
]


@pytest.fixture(scope="module")
def prepared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("params.yaml", "data/source.lock.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(root / name, folder / name)
    workspace = Workspace(folder, environment(folder, code=root))
    phase = {"epochs": 2, "batch_size": 28, "learning_rate": 1e-4}
    workspace.edit_params(
        data__sample={"train": 56, "val": 14, "test": 14, "seed": 0},
        backbones={
            "resnet50": {
                "weights": "none",
                "image_size": 32,
                "eval_resize": 32,
                "auxiliary_weight": 0.0,
                "head": phase | {"cached_views": 0},
                "finetune": phase | {"epochs": 1},
            }
        },
    )
    for stage in ("ingest", "prepare"):
        workspace.check(sys.executable, "-m", f"fer_pipeline.stages.{stage}")
    return workspace


def curve(workspace: Workspace) -> list[dict[str, str]]:
    with (workspace.folder / "plots/curves/resnet50.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(prepared: Workspace) -> None:
    prepared.check(*TRAIN)
    alone = curve(prepared)
    done = prepared.run(*TRAIN, FER_DEVICES="2")
    assert done.returncode == 0, done.stderr
    assert "resnet50 on 2 x cpu" in done.stdout
    assert done.stdout.count(" 1/3  loss") == 1  # one process speaks
    shared = curve(prepared)
    assert [row["phase"] for row in shared] == ["head", "head", "finetune"]
    # Once batch norm trains, each process normalises its own share of a batch.
    for one, other, within in zip(alone, shared, (1e-4, 1e-4, 0.1), strict=True):
        assert float(other["train_loss"]) == pytest.approx(float(one["train_loss"]), abs=within)
        assert float(other["val_loss"]) == pytest.approx(float(one["val_loss"]), abs=within)
    assert not (prepared.folder / "checkpoints/resnet50").exists()


@pytest.mark.parametrize(
    ("env", "batch_size", "says"),
    [
        (str((os.cpu_count() or 1) + 1), 28, "CPU cores: ask for fewer"),
        ("2", 27, "batch_size is 27: it must be a multiple of the 2 devices that share it"),
        pytest.param("2", 2, "with 2 images or more for each", marks=pytest.mark.slow),
    ],
)
def test_devices_that_cannot_share_the_work_are_refused_before_it(
    env: str, batch_size: int, says: str, prepared: Workspace, tmp_path: Path
) -> None:
    shutil.copytree(prepared.folder / "data", tmp_path / "data")
    shutil.copy2(prepared.folder / "params.yaml", tmp_path)
    workspace = Workspace(tmp_path, prepared.env)
    workspace.edit_params(backbones__resnet50__finetune__batch_size=batch_size)
    done = workspace.run(*TRAIN, FER_DEVICES=env)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "checkpoints").exists()

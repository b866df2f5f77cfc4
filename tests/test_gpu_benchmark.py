"""The benchmark for GPUs runs to its end without one, on the sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from workspace import environment, tiny_backbone

PHASE = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3}


@pytest.fixture
def recipe(root: Path, tmp_path: Path) -> Path:
    yaml = YAML(typ="safe")
    params = yaml.load((root / "params.yaml").read_text(encoding="utf-8"))
    params["backbones"] = {"resnet50": tiny_backbone(PHASE, PHASE)}
    params["data"]["sample"] |= {"train": 14, "val": 7, "test": 7}
    params["fusion"] |= {"method": "uniform", "stability_draws": 2}
    params["evaluation"]["bootstrap_draws"] = 100
    yaml.dump(params, tmp_path / "tiny.yaml")
    return tmp_path / "tiny.yaml"


@pytest.mark.slow
def test_it_checks_measures_trains_and_evaluates(root: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--minutes", "0.5", "--recipe", recipe, "--out", out],
        cwd=root,
        env=environment(tmp_path, code=root) | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["single"].keys() == last["speed"].keys() == {"resnet50"}
    assert all(check["found"] <= check["limit"] for check in last["checks"]["resnet50"])
    assert last["speed"]["resnet50"]["images_per_s"] > 0
    assert sorted(path.name for path in out.iterdir()) == [
        "log.txt",
        "logits.npz",
        "results.json",
        "table.txt",
    ]
    results = json.loads((out / "results.json").read_text())
    trained = results["trainings"]["resnet50"]
    assert len(trained["history"]) == trained["epochs"] >= 2
    assert results["evaluation"]["fused"]["accuracy"] == last["fused"]
    with np.load(out / "logits.npz") as logits:
        assert logits["resnet50.test_logits"].shape == (7, 7)
    assert "FAILED" not in (out / "table.txt").read_text()

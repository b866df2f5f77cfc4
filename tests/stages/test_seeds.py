"""Stage `train` draws what its backbone's own seed says, and keeps to what it chose before."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import load_file
from workspace import TrainHere, Workspace, tiny_backbone

from fer_pipeline.choices import Choices, describe_cpu
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params.load import load_params
from fer_pipeline.paths import PARAMS
from fer_pipeline.provenance import StageInputs
from fer_pipeline.training.job import seed_of

TOO_SMALL_TO_MOVE_ANYTHING = 1e-12


pytestmark = pytest.mark.slow


@pytest.mark.skipif(torch.cuda.is_available(), reason="the choice is of this CPU")
def test_a_training_has_its_own_initial_weights_and_the_precision_that_it_had_before(
    prepared: Workspace,
    train_here: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    phase = {"epochs": 1, "batch_size": 14, "learning_rate": TOO_SMALL_TO_MOVE_ANYTHING}
    own = tiny_backbone({}, phase) | {"head": None}
    prepared.edit_params(seed=5, training__precision="auto", backbones={"resnet50": own})
    monkeypatch.chdir(prepared.folder)
    inputs = StageInputs.read("train", "resnet50", load_params(PARAMS))
    Choices(inputs.key).remember("precision", describe_cpu(), "bf16")
    with caplog.at_level(logging.INFO, "fer_pipeline"):
        assert train_here(prepared).returncode == 0
    assert "times as fast" not in caplog.text  # nothing was measured
    made = json.loads((prepared.folder / "provenance/resnet50.json").read_text())
    assert (made["precision"], made["threads"]) == ("bf16", torch.get_num_threads())
    assert not (prepared.folder / "checkpoints/resnet50").exists()
    assert Choices(inputs.key).recall("precision", describe_cpu()) == "bf16"

    trained = load_file(prepared.folder / "models/resnet50/model.safetensors")
    torch.manual_seed(seed_of("resnet50", 5))
    drawn = dict(build_backbone("resnet50", "none").named_parameters())
    for name in ("conv1.weight", "layer4.2.conv3.weight", "fc.weight"):
        torch.testing.assert_close(trained[name], drawn[name].detach(), rtol=0, atol=1e-6)

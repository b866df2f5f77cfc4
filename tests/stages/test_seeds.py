"""Stage `train` draws by chance what its backbone's own seed says."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from workspace import TrainHere, Workspace, tiny_backbone

from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.training.job import seed_of

TOO_SMALL_TO_MOVE_ANYTHING = 1e-12


@pytest.mark.slow
def test_the_initial_weights_are_of_the_backbones_own_seed(
    prepared: Workspace, train_here: TrainHere
) -> None:
    phase = {"epochs": 1, "batch_size": 14, "learning_rate": TOO_SMALL_TO_MOVE_ANYTHING}
    own = tiny_backbone({}, phase) | {"head": None}
    prepared.edit_params(seed=5, backbones={"resnet50": own})
    assert train_here(prepared).returncode == 0
    trained = load_file(prepared.folder / "models/resnet50/model.safetensors")
    torch.manual_seed(seed_of("resnet50", 5))
    drawn = dict(build_backbone("resnet50", "none").named_parameters())
    for name in ("conv1.weight", "layer4.2.conv3.weight", "fc.weight"):
        torch.testing.assert_close(trained[name], drawn[name].detach(), rtol=0, atol=1e-6)

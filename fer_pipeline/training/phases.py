"""The two phases of transfer learning: which weights move, and in which mode the network is."""

from __future__ import annotations

from torch import nn

from fer_pipeline.models.backbones import head_of
from fer_pipeline.training.records import Phase


def enter_phase(model: nn.Module, backbone: str, phase: Phase) -> list[nn.Parameter]:
    """Freeze or free the weights, set train or eval mode, and give the weights that move.

    In the head phase the frozen part is in eval mode, so that its batch norm statistics stay.
    """
    model.requires_grad_(phase == "finetune")
    model.train(phase == "finetune")
    head = head_of(model, backbone)
    head.requires_grad_(True)
    head.train()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]

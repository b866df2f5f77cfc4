"""What one step of each phase moves, and what it must leave alone."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.training.phases import enter_phase
from fer_pipeline.training.records import Phase


@pytest.fixture(scope="module")
def untrained() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet50", "none")


@pytest.fixture
def model(untrained: nn.Module) -> nn.Module:
    return deepcopy(untrained)


def train_two_steps(model: nn.Module, phase: Phase) -> None:
    """Two, because residual branches that start at zero get no gradient in the first."""
    optimizer = torch.optim.Adam(enter_phase(model, "resnet50", phase), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        images = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
        loss = functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {key for key, now in model.state_dict().items() if not torch.equal(now, before[key])}


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_the_head_phase_moves_the_head_and_keeps_batch_norm_statistics(model: nn.Module) -> None:
    before = copy_state(model)
    train_two_steps(model, "head")
    assert moved(model, before) == {"fc.weight", "fc.bias"}


def test_the_finetune_phase_moves_every_weight_and_statistic_even_after_the_head_phase(
    model: nn.Module,
) -> None:
    train_two_steps(model, "head")
    before = copy_state(model)
    train_two_steps(model, "finetune")
    assert moved(model, before) == set(before)


def test_a_phase_gives_the_weights_that_it_moves(model: nn.Module) -> None:
    head = enter_phase(model, "resnet50", "head")
    assert [id(weight) for weight in head] == [id(model.fc.weight), id(model.fc.bias)]
    assert [module for module in model.modules() if module.training] == [model.fc]
    everything = enter_phase(model, "resnet50", "finetune")
    assert len(everything) == len(list(model.parameters()))
    assert all(module.training for module in model.modules())


def test_dropout_is_off_while_only_inceptions_head_trains() -> None:
    model = build_backbone("inception_v3", "none")
    enter_phase(model, "inception_v3", "head")
    assert [name for name, module in model.named_modules() if module.training] == ["fc"]

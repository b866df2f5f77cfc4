"""Optimisers, schedules and averages against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from bench import small_network
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from fer_pipeline.params.schema import TrainingParams
from fer_pipeline.training.optimizers import (
    FIRST_RATE,
    MovingAverage,
    Schedule,
    build_optimizer,
    build_schedule,
    rate_factor,
)


@pytest.fixture
def training(params: object) -> TrainingParams:
    return params.training  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(("name", "kind"), [("adam", Adam), ("adamw", AdamW), ("sgd", SGD)])
def test_the_optimiser_is_the_named_one(
    name: str, kind: type[torch.optim.Optimizer], training: TrainingParams
) -> None:
    chosen = training.model_copy(update={"optimizer": name})
    found = build_optimizer(nn.Linear(2, 2).parameters(), 0.1, chosen)
    assert type(found) is kind
    assert {group["lr"] for group in found.param_groups} == {0.1}


def test_weight_decay_spares_norms_and_biases(training: TrainingParams) -> None:
    model = small_network()
    decaying = training.model_copy(update={"weight_decay": 0.05})
    decayed, spared = build_optimizer(model.parameters(), 0.1, decaying).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    wanted = {id(weight) for norm in norms for weight in norm.parameters()}
    assert {id(weight) for weight in spared["params"]} == wanted | {id(model.fc.bias)}
    both = decayed["params"] + spared["params"]
    assert {id(one) for one in both} == {id(one) for one in model.parameters()}
    assert len(both) == len(list(model.parameters()))


def test_decoupled_weight_decay_shrinks_weights_without_a_gradient(
    training: TrainingParams,
) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone(), model.bias.detach().clone()
    chosen = training.model_copy(update={"optimizer": "adamw", "weight_decay": 0.05})
    optimizer = build_optimizer(model.parameters(), 0.1, chosen)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before[0] * (1 - 0.1 * 0.05))
    assert torch.equal(model.bias.detach(), before[1])


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_takes_nesterovs_steps(momentum: float, training: TrainingParams) -> None:
    """Two steps with gradients 1 and 2: v = m v + g, w -= lr (g + m v)."""
    weight = nn.Parameter(torch.zeros(1, 1))
    chosen = training.model_copy(update={"optimizer": "sgd", "momentum": momentum})
    optimizer = build_optimizer([weight], 0.1, chosen)
    wanted = velocity = 0.0
    for gradient in (1.0, 2.0):
        weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        velocity = momentum * velocity + gradient
        wanted -= 0.1 * (gradient + momentum * velocity)
        assert weight.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "warmup", "wanted"),
    [
        ("constant", 0, {0: 1.0, 50: 1.0, 100: 1.0}),
        ("constant", 10, {0: 0.04, 5: 0.52, 10: 1.0, 100: 1.0}),
        ("cosine", 0, {0: 1.0, 25: (1 + math.sqrt(0.5)) / 2, 50: 0.5, 100: 0.0}),
        ("cosine", 20, {0: 0.04, 10: 0.52, 20: 1.0, 60: 0.5, 100: 0.0}),
        ("onecycle", 0, {0: 0.04, 15: 0.52, 30: 1.0, 65: 0.5, 100: 0.0}),
        ("onecycle", 20, {0: 0.04, 5: 0.04 + 0.96 * (1 - math.sqrt(0.5)) / 2, 20: 1.0, 60: 0.5}),
    ],
)
def test_a_schedule_has_its_values_at_start_end_of_warm_up_middle_and_end(
    schedule: Schedule, warmup: int, wanted: dict[int, float]
) -> None:
    found = {step: rate_factor(schedule, step, 100, warmup) for step in wanted}
    assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_a_schedule_rises_once_and_never_again(schedule: Schedule, warmup: int) -> None:
    rates = [rate_factor(schedule, step, 40, warmup) for step in range(41)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) >= 0
    assert max(rates) <= 1


def test_a_schedule_of_a_single_step_is_no_division_by_zero() -> None:
    for schedule in ("constant", "cosine", "onecycle"):
        assert 0 < rate_factor(schedule, 0, 1, 0) <= 1  # type: ignore[arg-type]
        assert rate_factor(schedule, 0, 1, 1) == FIRST_RATE  # type: ignore[arg-type]


def test_a_schedule_moves_the_optimisers_rate_step_by_step() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = build_schedule(optimizer, "cosine", 4, 2)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5 * 0.04, 0.5 * 0.52, 0.5, 0.25])


def tiny() -> nn.Sequential:
    """Linear, with batch norm for its statistics and its count of batches."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_the_average_of_weights_is_the_one_worked_out_by_hand() -> None:
    model, decay = tiny(), 0.9
    average = MovingAverage(model, decay)
    wanted: dict[str, Tensor] = {}
    for update in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 3))  # moves the statistics
        average.update()
        kept = min(decay, (1 + update) / (10 + update)) if update else 0.0  # the first is copied
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                mean = wanted.get(key, torch.zeros_like(value))
                wanted[key] = (kept * mean + (1 - kept) * value).clone()
            else:
                wanted[key] = value.clone()
    found = average.module.state_dict()
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-5)
    assert int(found["1.num_batches_tracked"]) == 30


def test_a_large_decay_still_forgets_the_first_weights_soon() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, 0.9999)
    model.weight.data.fill_(100.0)
    average.update()
    model.weight.data.fill_(1.0)
    for _ in range(200):
        average.update()
    assert average.module.weight.item() == pytest.approx(1.0, abs=0.01)


def test_the_average_is_a_copy_of_the_network() -> None:
    model = tiny()
    average = MovingAverage(model, 0.9)
    live = {value.data_ptr() for value in model.state_dict().values()}
    assert not live & {value.data_ptr() for value in average.module.state_dict().values()}

"""The choice between fp32 and bf16, measured on real steps."""

from __future__ import annotations

import time

import pytest
import torch
from bench import HEAD, PHASE, Bench, Notebook, assert_same_bits, copy_weights, fit, small_network
from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from fer_pipeline.training.precision import PRECISIONS, autocast, measure_precision

CPU = torch.device("cpu")


class Sluggish(nn.Module):
    """One layer that takes long in one of the precisions."""

    def __init__(self, slow: torch.dtype) -> None:
        super().__init__()
        self.slow = slow
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if x.dtype == self.slow:
            time.sleep(0.02)
        return x


@pytest.mark.parametrize(
    ("slow", "chosen"), [(torch.float32, "bf16"), (torch.bfloat16, "fp32"), (torch.int64, "fp32")]
)
def test_the_faster_precision_is_chosen_and_fp32_in_a_tie(slow: torch.dtype, chosen: str) -> None:
    def loss(model: nn.Module) -> Tensor:
        if slow == torch.int64:  # both take as long
            time.sleep(0.02)
        return model(torch.ones(2, 2)).float().sum()

    found, gain = measure_precision(Sluggish(slow), CPU, loss)
    assert found == chosen
    if slow == torch.float32:
        assert gain > 2


def test_measuring_changes_neither_network_nor_draws() -> None:
    model = small_network().train()
    model.fc.register_forward_pre_hook(
        lambda head, inputs: (nn.functional.dropout(inputs[0], 0.5, head.training),)
    )
    before, state = copy_weights(model), torch.get_rng_state()
    batch = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    measure_precision(model, CPU, lambda network: network(batch).float().sum())
    assert_same_bits(copy_weights(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operations_run_in_the_named_precision(precision: str) -> None:
    with autocast(CPU, precision):  # type: ignore[arg-type]
        found = nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    assert found == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def test_a_chosen_precision_is_noted_and_trains_as_if_it_were_named(bench: Bench) -> None:
    phases = HEAD, PHASE.model_copy(update={"batch_size": 28})
    auto, notebook = fitted(bench, *phases, precision="auto")
    named, unmeasured = fitted(bench, *phases, precision=notebook.notes["precision"])
    assert notebook.notes["precision"] in PRECISIONS
    assert unmeasured.notes == {}
    assert_same_bits(auto.state, named.state)


def fitted(bench: Bench, *phases: object, **changes: object):  # type: ignore[no-untyped-def]
    notebook = Notebook(small_network())
    job = bench.job(notebook.model, *phases, observer=notebook, **changes)  # type: ignore[arg-type]
    return fit(job), notebook


def test_bf16_trains_weights_of_fp32_with_finite_losses(bench: Bench) -> None:
    half, _ = fitted(bench, precision="bf16")
    whole, _ = fitted(bench, precision="fp32")
    for one, other in zip(half.history, whole.history, strict=True):
        assert one.train_loss != other.train_loss
        assert one.train_loss == pytest.approx(other.train_loss, rel=0.05)
    assert {value.dtype for value in half.state.values()} == {torch.float32, torch.int64}


class Cramped(ResNet):
    """Has memory for 4 images at once."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            raise torch.OutOfMemoryError
        return super().forward(x)


def test_where_memory_does_not_suffice_steps_of_fewer_images_are_timed(bench: Bench) -> None:
    notebook = Notebook(small_network(kind=Cramped))
    fit(bench.job(notebook.model, None, observer=notebook, precision="auto"))
    assert notebook.notes.keys() == {"precision", "micro_batch.finetune"}
    assert notebook.batches == [[14, 14]]

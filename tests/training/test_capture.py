"""A captured function on a real GPU: what it computes, draws and says when it can't be captured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fer_pipeline.training.capture import WARM_CALLS, Captured

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on GPUs"),
]


def test_a_captured_function_is_called_a_few_times_and_computes_what_it_did() -> None:
    calls = []

    def work(inputs: tuple[Tensor | None, ...]) -> Tensor:
        calls.append(1)
        assert inputs[0] is not None
        assert inputs[1] is None
        return inputs[0] * 2

    captured = Captured(work, "test")
    for number in range(10):
        given = torch.full((4,), float(number), device="cuda")
        assert captured((given, None)).tolist() == [2.0 * number] * 4
    assert captured.captured
    assert len(calls) == WARM_CALLS + 1


def test_dropout_draws_anew_in_each_replay_and_by_the_seed() -> None:
    captured = Captured(lambda inputs: functional.dropout(inputs[0], 0.5), "test")
    ones = torch.ones(1000, device="cuda")
    for _ in range(WARM_CALLS + 1):
        captured((ones,))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append([captured((ones,)).clone() for _ in range(2)])
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    assert not torch.equal(drawn[0][0], drawn[2][0])


def test_what_cannot_be_captured_is_said_once_and_called(caplog: pytest.LogCaptureFixture) -> None:
    def work(inputs: tuple[Tensor, ...]) -> Tensor:
        functional.dropout(inputs[0])  # the generator, too, must be usable afterwards
        return inputs[0] * float(inputs[0].sum())

    captured = Captured(work, "the step")
    for number in range(6):
        given = torch.full((2,), float(number), device="cuda")
        assert captured((given,)).tolist() == [2.0 * number**2] * 2
    assert not captured.captured
    (message,) = caplog.messages
    assert message.startswith("the step runs kernel by kernel: not captured (")


def test_what_shall_not_be_captured_is_called() -> None:
    calls = []

    def work(inputs: tuple[Tensor, ...]) -> Tensor:
        calls.append(1)
        return inputs[0]

    captured = Captured(work, "test", capturable=lambda: False)
    for _ in range(6):
        captured((torch.ones(1, device="cuda"),))
    assert len(calls) == 6

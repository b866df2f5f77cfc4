"""A compiled network trains as the other does, where there is a compiler."""

from __future__ import annotations

import shutil

import pytest
import torch
from bench import PHASE, Bench, fit
from torch import Tensor, nn

from fer_pipeline.training.devices import compile_network

CUDA = torch.device("cuda")


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")


class Tiny(nn.Module):
    """Compiled in seconds; its head has ResNet-50's name."""

    def __init__(self) -> None:
        super().__init__()
        self.compiled = False
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            self.compiled = True
        return self.fc(self.conv(x).relu().mean(dim=(2, 3)))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ on a CPU")
def test_a_compiled_network_trains_as_the_other_does(bench: Bench) -> None:
    finetune = PHASE.model_copy(update={"learning_rate": 0.01})
    changes = {"optimizer": "sgd", "precision": "fp32"}
    one, other = Tiny(), Tiny()
    plain = fit(bench.job(one, None, finetune, compile=False, **changes))
    compiled = fit(bench.job(other, None, finetune, compile=True, **changes))
    assert (one.compiled, other.compiled) == (False, True)
    assert compiled.state.keys() == plain.state.keys()
    assert compiled.best.train_loss == pytest.approx(plain.best.train_loss, abs=1e-5)
    assert compiled.best.val_loss == pytest.approx(plain.best.val_loss, abs=1e-5)
    for key, value in plain.state.items():
        torch.testing.assert_close(compiled.state[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("device", [CUDA, torch.device("cpu")])
def test_auto_compiles_for_gpus_alone(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "any")
    model = nn.Linear(1, 1)
    assert (compile_network(model, "auto", device) is not model) == (device == CUDA)
    assert compile_network(model, False, device) is model


@pytest.mark.usefixtures("without_compiler")
def test_auto_says_that_a_compiler_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(1, 1)
    assert compile_network(model, "auto", CUDA) is model
    assert "install gcc" in caplog.text

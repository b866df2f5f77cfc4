"""A compiled network trains as the other does, where there is a compiler."""

from __future__ import annotations

import shutil

import pytest
import torch
from bench import PHASE, Bench, fit
from torch import Tensor, nn
from torch._inductor import config as inductor

from fer_pipeline.errors import TrainingError
from fer_pipeline.training.devices import require_compiler


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
        self.fc = nn.Linear(3, 7)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            self.compiled = True
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ on a CPU")
def test_a_compiled_network_trains_as_the_other_does(bench: Bench) -> None:
    finetune = PHASE.model_copy(update={"learning_rate": 0.01})
    changes = {"optimizer": "sgd", "precision": "fp32"}
    one, other = Tiny(), Tiny()
    plain = fit(bench.job(one, None, finetune, compile=False, **changes))
    # For so few kernels, headers that are compiled before them take longer than they save.
    with inductor.patch(cpp_cache_precompile_headers=False):
        compiled = fit(bench.job(other, None, finetune, compile=True, **changes))
    assert (one.compiled, other.compiled) == (False, True)
    assert compiled.state.keys() == plain.state.keys()
    assert compiled.best.train_loss == pytest.approx(plain.best.train_loss, abs=1e-5)
    assert compiled.best.val_loss == pytest.approx(plain.best.val_loss, abs=1e-5)
    for key, value in plain.state.items():
        torch.testing.assert_close(compiled.state[key], value, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("without_compiler")
def test_a_missing_compiler_is_said_with_what_to_do() -> None:
    with pytest.raises(TrainingError) as refused:
        require_compiler()
    assert str(refused.value) == (
        "training.compile is true, but there is no C compiler, or Python's header files are "
        "missing: install gcc and python3-dev, or set it to false"
    )

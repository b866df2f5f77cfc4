"""What a run shows while the server is away."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import pytest
from prefect.exceptions import ObjectNotFound

from flows import artifacts as module
from flows.artifacts import StageEvents, difference

EVENT = {
    "backbone": "resnet50",
    "phase": "head",
    "epoch": 1,
    "epochs": 2,
    "val_accuracy": 0.5,
    "images_per_s": 7.0,
}


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("gone"),
        httpx.ReadTimeout("slow"),
        ObjectNotFound(KeyError("new database")),
    ],
)
def test_progress_that_the_server_does_not_take_ends_no_training(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, "create_progress_artifact", refuse)
    warnings: list[str] = []

    logger = SimpleNamespace(warning=warnings.append)
    monkeypatch.setattr(module, "get_run_logger", lambda: logger)

    StageEvents().take("epoch", EVENT)

    assert warnings == [
        f"progress not shown ({type(error).__name__}): head, epoch 1 of 2: val 50.00%, 7 images/s"
    ]


def test_backbones_from_machines_that_differ_are_named() -> None:
    one = {"backbone": "resnet50", "hardware": "2 cores of A", "torch": "2.15.0"}
    same = one | {"backbone": "resnet101", "threads": 1}
    other = one | {"backbone": "inception_v3", "torch": "2.14.1"}

    assert difference([]) == difference([one, same]) == ""
    assert "inception_v3: 2 cores of A, torch 2.14.1" in difference([one, same, other])

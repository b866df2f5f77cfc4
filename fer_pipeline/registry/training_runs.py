"""Which MLflow run trained a backbone: found by what decides its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fer_pipeline.registry.tracking import Tracking


def find_training_run(
    tracking: Tracking, backbone: str, inputs: Mapping[str, Any], val_accuracy: float
) -> str | None:
    """The newest finished training of the same inputs that ended at the same accuracy.

    Weights can come out of DVC's cache, and say nothing of a run: but the same inputs give the
    same weights, and every training logs its inputs.

    Args:
        tracking: the store.
        backbone: its name.
        inputs: nested; what decides the weights and the run must have logged.
        val_accuracy: the best of its epochs.

    Returns:
        The run's id, or None where this store has no such run: it was trained elsewhere.
    """
    found = tracking.client.search_runs(
        [tracking.experiment_id],
        f"tags.`fer.stage` = 'train' and tags.`fer.backbone` = '{backbone}' "
        "and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
    )
    wanted = {key: str(value) for key, value in _flat(inputs).items()}
    for run in found:
        same = wanted.items() <= run.data.params.items()
        reached = run.data.metrics.get("best_val_accuracy", -1.0)
        if same and abs(reached - val_accuracy) < 1e-9:
            return str(run.info.run_id)
    return None


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as `a.b.c`, as a training logs them."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

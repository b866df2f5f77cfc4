"""How the registry stands: who is champion, who waits, and what the policy says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fer_pipeline.errors import RegistryError
from fer_pipeline.registry.aliases import read_aliases
from fer_pipeline.registry.promote import weigh

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params
    from fer_pipeline.registry.tracking import Tracking

_FIGURES = (
    "accuracy",
    "macro_f1",
    "gain",
    "gain_ci95_low",
    "gain_ci95_high",
    "mcnemar_p",
    "clean_accuracy",
)
_NAMES = ("recipe", "fusion.method", "data.source", "data.sha256", "git.commit", "test.sha256")


def standing(tracking: Tracking, params: Params) -> dict[str, object]:
    """What `fer registry status --json` prints.

    Returns:
        `model_name`; `champion`, `challenger` and `previous`, each null or with `version`, its
        figures and its origin; and `decision` on the challenger with `promote` and `reason`, null
        without a challenger. `promote` is null where nobody can tell before the champion is
        scored on the challenger's test images, which `fer registry promote` does.
    """
    name = params.registry.model_name
    now = read_aliases(tracking, name)
    return {
        "model_name": name,
        "champion": _describe(tracking, name, now.champion),
        "challenger": _describe(tracking, name, now.challenger),
        "previous": _describe(tracking, name, now.previous),
        "decision": opinion(tracking, params, now.challenger) if now.challenger else None,
    }


def opinion(
    tracking: Tracking, params: Params, number: str, *, may_score: bool = False
) -> dict[str, object]:
    """`promote` and `reason`: what the policy says of a version, null where it can't tell."""
    try:
        decision = weigh(tracking, params, number, may_score=may_score)
    except RegistryError as error:
        return {"promote": None, "reason": str(error)}
    if decision is None:
        reason = "the champion was tested on other images: it is scored on these when you promote"
        return {"promote": None, "reason": reason}
    return decision.to_json()


def _describe(tracking: Tracking, name: str, number: str | None) -> dict[str, object] | None:
    if number is None:
        return None
    found = tracking.client.get_model_version(name, number)
    figures = {key: float(found.tags[key]) for key in _FIGURES if key in found.tags}
    named = {key: found.tags[key] for key in _NAMES if key in found.tags}
    return {"version": number, "run_id": found.run_id, **figures, **named}

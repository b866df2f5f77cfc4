"""The page on new faces: how they, and what the model says of them, differ from the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fer_pipeline.data.profile import BRIGHTNESS_MIDDLES, CONTRAST_MIDDLES
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.reports.data_page import MEASURES, class_bars, grey_histogram
from fer_pipeline.reports.page import embed, render_page

_NAMES = {"now": "these faces", "before": "test images on record"}
_TITLES = {**MEASURES, "confidence": "probability of the expression that it sees, in per cent"}
_MIDDLES: dict[str, Sequence[int]] = {
    "brightness": BRIGHTNESS_MIDDLES,
    "contrast": CONTRAST_MIDDLES,
    "confidence": range(100),
}


def render_monitoring_page(
    found: Mapping[str, Any], counts: Mapping[str, Mapping[str, Any]]
) -> str:
    """The whole page as HTML; it shows no face.

    Args:
        found: what `fer score --json` prints.
        counts: `now` and `before`: faces per expression, and per bin of brightness, contrast and
            confidence; None where not known.
    """
    shares = {
        name: dict(zip(EMOTIONS, map(int, counts[version]["expressions"]), strict=True))
        for version, name in _NAMES.items()
    }
    figures = {"expressions": class_bars(shares)}
    for measure, middles in _MIDDLES.items():
        rows = [
            {"version": version, "grey": middle, "images": images}
            for version, own in counts.items()
            if own[measure] is not None
            for middle, images in zip(middles, own[measure], strict=True)
        ]
        figures[measure] = grey_histogram(rows, _TITLES[measure], _NAMES)
    return render_page(
        "monitoring.html.j2",
        found=found,
        source={"synthetic": False},
        figures={name: embed(one, f"plot-{name}") for name, one in figures.items()},
    )

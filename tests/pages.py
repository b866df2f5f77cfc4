"""What the tests of pages share: a parsed page, hostile text, and the figures of a set."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from fer_pipeline.emotions import EMOTIONS

HOSTILE = '</script><img src="https://evil.example/x" onerror="alert(1)">'

CLASSES = {
    "Training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "PublicTest": (467, 56, 496, 895, 653, 415, 607),
    "PrivateTest": (491, 55, 528, 879, 594, 416, 626),
}


class Page(HTMLParser):
    """Visible text, attributes and scripts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._words: list[str] = []
        self._inside = ""
        self.feed(html)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        kept = {"script": self.scripts, "style": self.styles}.get(self._inside, self._words)
        kept.append(data)


def make_data(synthetic: bool = False) -> dict[str, Any]:
    """`metrics/data.json` as the real set gives it, without an earlier version."""
    return {
        "source": {
            "uri": "https://data.example/fer2013.csv",
            "version": "3f1c",
            "sha256": "cd" * 32,
            "synthetic": synthetic,
            "edition": "fer2013.csv",
            "labels": "fer",
        },
        "ingest": {
            "resized": 0,
            "unlabelled": 0,
            "dropped": {"not_a_face": 0, "unknown": 0, "contempt": 0, "no_majority": 0},
        },
        "images": {"train": 28709, "val": 3589, "test": 3589},
        "classes": {
            split: dict(zip(EMOTIONS, counts, strict=True)) for split, counts in CLASSES.items()
        },
        "known": None if synthetic else {"differences": []},
        "quality": {
            "images": 35887,
            "distinct": 34034,
            "duplicate_groups": 1516,
            "across_splits": 601,
            "conflicting": 54,
            "val_in_train": 290,
            "test_in_train": 279,
            "constant": 12,
            "near_duplicate_groups": 433,
            "near_across_splits": 161,
            "near_test_in_train": 81,
        },
        "cleaning": {
            "constant_dropped": 0,
            "duplicates_dropped": 0,
            "conflicts_dropped": 0,
            "conflicts_relabelled": 0,
        },
        "drift": None,
    }


def make_drift(limit: float | None = None) -> dict[str, Any]:
    """An earlier version that is a little darker."""
    return {
        "previous": {
            "uri": "s3://faces/fer2013.csv",
            "version": "0aa1",
            "sha256": "ef" * 32,
            "images": 30112,
        },
        "class_balance": {"chi2": 9.71, "p": 0.1374, "cramers_v": 0.0121},
        "brightness": {"ks": 0.0834, "p": 3e-9},
        "contrast": {"ks": 0.0049, "p": 0.8312},
        "largest": 0.0834,
        "limit": limit,
    }

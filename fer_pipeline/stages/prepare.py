"""Stage `prepare`: the faces checked, cleaned and split, and figures of what they are like."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_pipeline.data.examples import Example, write_examples
from fer_pipeline.data.faces import Faces, Int64Array, Split, save_split
from fer_pipeline.data.profile import (
    BRIGHTNESS_MIDDLES,
    CONTRAST_MIDDLES,
    Profile,
    profile_of,
)
from fer_pipeline.data.quality.drift import Drift, measure_drift, require_small
from fer_pipeline.data.quality.duplicates import (
    assess,
    caption,
    count_classes,
    differences_from_known,
    group_by_pixels,
    group_nearly,
    suspicious,
    worst_conflicts,
)
from fer_pipeline.data.quality.splits import (
    Policies,
    SplitName,
    clean,
    hold_out,
    members,
    split_faces,
)
from fer_pipeline.data.sources.pins import Earlier, read_pin
from fer_pipeline.data.store import Origin, read_faces
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.files import whole_file, write_csv, write_json
from fer_pipeline.paths import (
    CLASS_BALANCE,
    DATA_EXAMPLES,
    DATA_METRICS,
    DATA_PAGE,
    FACES,
    GREYS,
    SOURCE_LOCK,
    TEST,
    TRAIN,
    VAL,
    require,
)

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)

_HOW_TO_LOOK = (
    f"to see how they differ, run 'python -m fer_pipeline.stages describe' and open {DATA_PAGE}"
)

_FILES: dict[SplitName, Path] = {"train": TRAIN, "val": VAL, "test": TEST}


def prepare(params: Params) -> None:
    """Write the splits, `metrics/data.json`, its plots and the faces that the page shows."""
    faces, origin = read_faces(require(FACES, "ingest"))
    profile, earlier = profile_of(faces, origin.labels), _earlier(origin)
    drift = measure_drift(profile, earlier.profile) if earlier else None
    groups = group_by_pixels(faces)
    if params.data.protocol == "holdout":
        faces = hold_out(faces, groups, params.seed)
    near = group_nearly(faces, groups)
    classes = count_classes(faces)

    masks = members(faces, params.data.protocol)
    policies = Policies(
        params.data.drop_constant, params.data.drop_train_duplicates_of, params.data.conflicts
    )
    kept, kept_groups, cleaning = clean(faces, groups, policies, masks["val"], masks["test"])
    splits = split_faces(kept, kept_groups, params.data.protocol)
    _require_every_emotion(splits["train"])
    metrics: dict[str, Any] = {
        "source": _source(origin),
        "ingest": _ingest(origin),
        "images": {name: len(split) for name, split in splits.items()},
        "classes": classes,
        "known": _known(classes, origin, params),
        "quality": asdict(assess(faces, groups, near)),
        "cleaning": asdict(cleaning),
        "drift": _drift(drift, earlier, params.data.max_drift),
    }
    write_csv(CLASS_BALANCE, _balance(classes))
    write_csv(GREYS, _greys(profile, earlier))
    write_examples(DATA_EXAMPLES, _examples(faces, groups, near))
    write_json(DATA_METRICS, metrics)
    if drift is not None:  # after the figures, so that whoever must judge it can look at them
        require_small(drift, params.data.max_drift, _HOW_TO_LOOK)
    for name, split in splits.items():
        with whole_file(_FILES[name]) as partial:
            save_split(split, partial)
    log.info(
        "train %d, val %d, test %d; %d of the test images also stand in train",
        *(len(split) for split in splits.values()),
        int(splits["test"].in_train.sum()),
    )


def _require_every_emotion(train: Split) -> None:
    for emotion, count in zip(
        EMOTIONS, np.bincount(train.labels, minlength=NUM_EMOTIONS), strict=True
    ):
        if not count:
            raise DataError(
                f"cleaning leaves no {emotion!r} face to train on: relax data.drop_constant, "
                f"data.drop_train_duplicates_of or data.conflicts"
            )


def _earlier(origin: Origin) -> Earlier | None:
    """The version before the pinned one, if these faces are the pinned ones, and no sample."""
    pin = read_pin(SOURCE_LOCK)
    return pin.previous if pin.profile and pin.source.sha256 == origin.sha256 else None


def _drift(drift: Drift | None, earlier: Earlier | None, limit: float | None) -> object:
    """The drift since the last version, as `metrics/data.json` has it."""
    if drift is None or earlier is None:
        return None
    source = earlier.source
    return {
        "previous": {
            "uri": source.uri,
            "version": source.version,
            "sha256": source.sha256,
            "images": earlier.profile.images,
        },
        **asdict(drift),
        "limit": limit,
    }


def _source(origin: Origin) -> dict[str, Any]:
    kept = ("uri", "version", "sha256", "synthetic", "edition", "labels")
    return {key: value for key, value in asdict(origin).items() if key in kept}


def _ingest(origin: Origin) -> dict[str, Any]:
    reasons = ("not_a_face", "unknown", "contempt", "no_majority")
    return {
        "resized": origin.resized,
        "unlabelled": origin.unlabelled,
        "dropped": {reason: origin.dropped.get(reason, 0) for reason in reasons},
    }


def _known(
    classes: dict[str, dict[str, int]], origin: Origin, params: Params
) -> dict[str, Any] | None:
    """How the counts compare with FER2013's own, where that means something."""
    if origin.synthetic or origin.labels != "fer" or params.data.protocol == "holdout":
        return None
    return {"differences": differences_from_known(classes)}


def _balance(classes: dict[str, dict[str, int]]) -> list[dict[str, object]]:
    return [
        {"split": split, "emotion": emotion, "images": images}
        for split, row in classes.items()
        for emotion, images in row.items()
    ]


def _greys(profile: Profile, earlier: Earlier | None) -> list[dict[str, object]]:
    """Images per bin of brightness and of contrast, in this version and in the one before."""
    profiles = {"now": profile} | ({"before": earlier.profile} if earlier else {})
    return [
        {"measure": measure, "version": version, "grey": middle, "images": images}
        for measure, middles in (
            ("brightness", BRIGHTNESS_MIDDLES),
            ("contrast", CONTRAST_MIDDLES),
        )
        for version, one in profiles.items()
        for middle, images in zip(middles, getattr(one, measure), strict=True)
    ]


def _examples(faces: Faces, groups: Int64Array, near: Int64Array) -> list[Example]:
    """Conflicting labels, the worst first, and what is suspicious."""
    conflicts = [
        Example("conflict", faces.pixels[row], {"votes": votes})
        for row, votes in worst_conflicts(faces, groups)
    ]
    return conflicts + [
        Example(kind, faces.pixels[row], {"caption": caption(faces, row)})
        for kind, rows in suspicious(faces, groups, near).items()
        for row in rows
    ]

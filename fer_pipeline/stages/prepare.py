"""Stage `prepare`: the faces checked, cleaned and split, and figures of what they are like."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fer_pipeline import paths
from fer_pipeline.data.faces import Example, Faces, Int64Array, Split, save_split, write_examples
from fer_pipeline.data.profile import BRIGHTNESS_MIDDLES, CONTRAST_MIDDLES, Profile, profile_of
from fer_pipeline.data.quality import duplicates
from fer_pipeline.data.quality.drift import Drift, measure_drift, require_small
from fer_pipeline.data.quality.splits import clean, hold_out, members, split_faces
from fer_pipeline.data.sources.pins import Earlier, read_pin
from fer_pipeline.data.store import Origin, read_faces
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.files import whole_file, write_csv, write_json

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)

_HOW_TO_LOOK = (
    "to see how they differ, run 'python -m fer_pipeline.stages describe' and open "
    f"{paths.DATA_PAGE}"
)


def prepare(params: Params) -> None:
    """Write the splits, `metrics/data.json`, its plots and the faces that the page shows."""
    faces, origin = read_faces(paths.FACES)
    profile, earlier = profile_of(faces, origin.labels), _earlier(origin)
    drift = measure_drift(profile, earlier.profile) if earlier else None
    groups = duplicates.group_by_pixels(faces)
    if params.data.protocol == "holdout":
        faces = hold_out(faces, groups, params.seed)
    near = duplicates.group_nearly(faces, groups)
    classes = duplicates.count_classes(faces)

    masks = members(faces, params.data.protocol)
    kept, kept_groups, cleaning = clean(faces, groups, params.data, masks["val"], masks["test"])
    splits = split_faces(kept, kept_groups, params.data.protocol)
    _require_every_emotion(splits["train"])
    metrics = {
        "source": _some(origin, "uri", "version", "sha256", "synthetic", "edition", "labels"),
        "ingest": _ingest(origin),
        "images": {name: len(split) for name, split in splits.items()},
        "classes": classes,
        "known": _known(classes, origin, params),
        "quality": asdict(duplicates.assess(faces, groups, near)),
        "cleaning": asdict(cleaning),
        "drift": _drift(drift, earlier, params.data.max_drift),
    }
    write_csv(paths.CLASS_BALANCE, _balance(classes))
    write_csv(paths.GREYS, _greys(profile, earlier))
    write_examples(paths.DATA_EXAMPLES, _examples(faces, groups, near))
    write_json(paths.DATA_METRICS, metrics)
    if drift is not None:  # after the figures, so that whoever must judge it can look at them
        require_small(drift, params.data.max_drift, _HOW_TO_LOOK)
    for path, split in zip((paths.TRAIN, paths.VAL, paths.TEST), splits.values(), strict=True):
        with whole_file(path) as partial:
            save_split(split, partial)
    log.info(
        "train %d, val %d, test %d; %d of the test images also stand in train",
        *(len(split) for split in splits.values()),
        int(splits["test"].in_train.sum()),
    )


def _require_every_emotion(train: Split) -> None:
    for emotion in set(range(NUM_EMOTIONS)) - set(train.labels.tolist()):
        raise DataError(
            f"cleaning leaves no {EMOTIONS[emotion]!r} face to train on: relax "
            f"data.drop_constant, data.drop_train_duplicates_of or data.conflicts"
        )


def _earlier(origin: Origin) -> Earlier | None:
    """The version before the pinned one, if these faces are the pinned ones, and no sample."""
    pin = read_pin(paths.SOURCE_LOCK)
    return pin.previous if pin.profile and pin.source.sha256 == origin.sha256 else None


def _drift(drift: Drift | None, earlier: Earlier | None, limit: float | None) -> object:
    """The drift since the last version, as `metrics/data.json` has it."""
    if drift is None or earlier is None:
        return None
    previous = _some(earlier.source, "uri", "version", "sha256")
    previous["images"] = earlier.profile.images
    return {"previous": previous, **asdict(drift), "limit": limit}


def _ingest(origin: Origin) -> dict[str, object]:
    reasons = ("not_a_face", "unknown", "contempt", "no_majority")
    dropped = {reason: origin.dropped.get(reason, 0) for reason in reasons}
    return _some(origin, "resized", "unlabelled") | {"dropped": dropped}


def _some(record: object, *names: str) -> dict[str, object]:
    """Some fields of a record."""
    return {name: getattr(record, name) for name in names}


def _known(
    classes: dict[str, dict[str, int]], origin: Origin, params: Params
) -> dict[str, Any] | None:
    """How the counts compare with FER2013's own, where that means something."""
    if origin.synthetic or origin.labels != "fer" or params.data.protocol == "holdout":
        return None
    return {"differences": duplicates.differences_from_known(classes)}


def _balance(classes: dict[str, dict[str, int]]) -> list[dict[str, object]]:
    return [
        {"split": split, "emotion": emotion, "images": images}
        for split, row in classes.items()
        for emotion, images in row.items()
    ]


def _greys(profile: Profile, earlier: Earlier | None) -> list[dict[str, object]]:
    """Images per bin of brightness and of contrast, in this version and in the one before."""
    middles_of = {"brightness": BRIGHTNESS_MIDDLES, "contrast": CONTRAST_MIDDLES}
    profiles = {"now": profile} | ({"before": earlier.profile} if earlier else {})
    return [
        {"measure": measure, "version": version, "grey": middle, "images": images}
        for measure, middles in middles_of.items()
        for version, one in profiles.items()
        for middle, images in zip(middles, getattr(one, measure), strict=True)
    ]


def _examples(faces: Faces, groups: Int64Array, near: Int64Array) -> list[Example]:
    """Conflicting labels, the worst first, and what is suspicious."""
    conflicts = [
        Example("conflict", faces.pixels[row], {"votes": votes})
        for row, votes in duplicates.worst_conflicts(faces, groups)
    ]
    return conflicts + [
        Example(kind, faces.pixels[row], {"caption": duplicates.caption(faces, row)})
        for kind, rows in duplicates.suspicious(faces, groups, near).items()
        for row in rows
    ]

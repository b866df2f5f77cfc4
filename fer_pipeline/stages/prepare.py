"""Stage `prepare`: the three splits as arrays, and figures of what the data are like."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fer_pipeline.data.faces import save_split
from fer_pipeline.data.formats import read_faces
from fer_pipeline.data.quality import assess, class_counts, group_by_pixels
from fer_pipeline.data.splits import SplitName, split_faces
from fer_pipeline.layout import CLASS_BALANCE, DATA_METRICS, FACES, TEST, TRAIN, VAL, require
from fer_pipeline.stages.launch import run_stage
from fer_pipeline.writing import whole_file, write_csv, write_json

if TYPE_CHECKING:
    from fer_pipeline.params import Params

log = logging.getLogger(__name__)

_FILES: dict[SplitName, Path] = {"train": TRAIN, "val": VAL, "test": TEST}


def prepare(params: Params) -> None:
    """Write the splits, `metrics/data.json` and the class balance."""
    faces, origin = read_faces(require(FACES, "ingest"))
    groups = group_by_pixels(faces)
    splits = split_faces(faces, groups, params.data.protocol)
    for name, split in splits.items():
        with whole_file(_FILES[name]) as partial:
            save_split(split, partial)
    quality = assess(faces, groups)
    write_csv(CLASS_BALANCE, class_counts(faces))
    write_json(
        DATA_METRICS,
        {
            "source": asdict(origin),
            "images": {name: len(split) for name, split in splits.items()},
            "quality": asdict(quality),
        },
    )
    log.info(
        "train %d, val %d, test %d; %d of the test images also stand in train",
        *(len(split) for split in splits.values()),
        int(splits["test"].in_train.sum()),
    )


if __name__ == "__main__":
    sys.exit(run_stage(prepare, "Split the faces and assess their quality."))

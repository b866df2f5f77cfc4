"""Stage `ingest`: the faces that `data.source` names, checked against their pin, as parquet."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from fer_pipeline.data.formats import write_faces
from fer_pipeline.data.sources import read_pin, read_source
from fer_pipeline.layout import FACES, SOURCE_LOCK
from fer_pipeline.stages.launch import run_stage
from fer_pipeline.writing import whole_file

if TYPE_CHECKING:
    from fer_pipeline.params import Params

log = logging.getLogger(__name__)


def ingest(params: Params) -> None:
    """Read the source and write `data/raw/faces.parquet`."""
    log.info("reading %s", params.data.source)
    faces, origin = read_source(params.data, read_pin(SOURCE_LOCK))
    with whole_file(FACES) as partial:
        write_faces(faces, origin, partial)
    kind = "synthetic faces drawn by code" if origin.synthetic else "faces"
    log.info("%d %s in %s", len(faces), kind, FACES)


if __name__ == "__main__":
    sys.exit(run_stage(ingest, "Read the source of faces and store it as parquet."))

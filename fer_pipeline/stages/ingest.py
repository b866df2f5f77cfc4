"""Stage `ingest`: the faces of the pinned source, checked against their pin, as parquet."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fer_pipeline.data.sources.pins import read_pin
from fer_pipeline.data.sources.source import Fetcher, read_pinned
from fer_pipeline.data.store import write_faces
from fer_pipeline.files import whole_file
from fer_pipeline.paths import DOWNLOADS, FACES, SOURCE_LOCK
from fer_pipeline.stages.progress import bytes_bar

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)


def ingest(params: Params) -> None:
    """Read the source and write `data/raw/faces.parquet`."""
    pin = read_pin(SOURCE_LOCK)
    log.info("reading %s", pin.source.uri)
    with bytes_bar(pin.source.uri) as progress:
        faces, origin = read_pinned(pin, params.data, Fetcher(DOWNLOADS, progress))
    with whole_file(FACES) as partial:
        write_faces(faces, origin, partial)
    for reason, count in {**origin.dropped, "unlabelled": origin.unlabelled}.items():
        if count:
            log.info("left out: %d %s", count, reason)
    log.info("%d faces (%s) in %s", len(faces), origin.edition, FACES)

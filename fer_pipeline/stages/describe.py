"""Stage `describe`: the page on the data, drawn from the figures of `prepare`."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from fer_pipeline.data.examples import read_examples
from fer_pipeline.files import read_csv, write_text
from fer_pipeline.paths import DATA_EXAMPLES, DATA_METRICS, DATA_PAGE, GREYS, require
from fer_pipeline.reports.data_page import DataPageInputs, read_histograms, render_data_page

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)


def describe(params: Params) -> None:
    """Write `reports/data.html`."""
    inputs = DataPageInputs(
        data=json.loads(require(DATA_METRICS, "prepare").read_text(encoding="utf-8")),
        examples=read_examples(DATA_EXAMPLES, "prepare"),
        histograms=read_histograms(read_csv(require(GREYS, "prepare"))),
    )
    write_text(DATA_PAGE, render_data_page(inputs))
    log.info("see %s", DATA_PAGE)

"""Stage `describe`: the page on the data, drawn from the figures of `prepare`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fer_pipeline.data.faces import read_examples
from fer_pipeline.files import read_csv, read_json, write_text
from fer_pipeline.paths import DATA_EXAMPLES, DATA_METRICS, DATA_PAGE, GREYS
from fer_pipeline.reports.data_page import render_data_page

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params

log = logging.getLogger(__name__)


def describe(params: Params) -> None:
    """Write `reports/data.html`."""
    data, examples = read_json(DATA_METRICS, "prepare"), read_examples(DATA_EXAMPLES, "prepare")
    write_text(DATA_PAGE, render_data_page(data, examples, read_csv(GREYS, "prepare")))
    log.info("see %s", DATA_PAGE)

"""How a stage starts and ends: arguments, validated params, log, and one line for an error.

Every stage is `python -m fer_pipeline.stages.NAME` in the folder of `dvc.yaml`. Exit status:
0 done, 1 an error that the user can mend, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable

from fer_pipeline.errors import FerError, ParamsError
from fer_pipeline.events import tell
from fer_pipeline.layout import PARAMS
from fer_pipeline.models.catalog import require_known
from fer_pipeline.params import Params, load_params


def run_stage(work: Callable[[Params], None], description: str) -> int:
    """Run a stage that works on the whole graph; returns the exit status."""
    _parser(description).parse_args()
    return _run(lambda params: work(params))


def run_backbone_stage(work: Callable[[Params, str], None], description: str) -> int:
    """Run a stage that works on the one backbone named on the command line."""
    parser = _parser(description)
    parser.add_argument("backbone", help="a key of 'backbones' in params.yaml")
    backbone: str = parser.parse_args().backbone

    def start(params: Params) -> None:
        if backbone not in params.backbones:
            known = ", ".join(params.backbones)
            raise ParamsError(f"{PARAMS} has no backbone '{backbone}': choose among {known}")
        work(params, backbone)

    return _run(start)


def _parser(description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=description,
        epilog="Reads params.yaml in the current folder. FER_DEBUG=1 shows tracebacks.",
    )


def _run(start: Callable[[Params], None]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log file shows each epoch at once
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for noisy in ("alembic", "mlflow", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        params = load_params(PARAMS)
        require_known(params.backbones)
        start(params)
    except FerError as error:
        tell("error", message=str(error), transient=error.transient)
        if os.environ.get("FER_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0

"""How a stage starts: arguments, validated params, log, threads."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

from fer_pipeline.choices import Choices, describe_cpu
from fer_pipeline.errors import ParamsError
from fer_pipeline.events import exit_status
from fer_pipeline.models.catalog import require_known
from fer_pipeline.params.load import load_params
from fer_pipeline.params.schema import Params
from fer_pipeline.paths import PARAMS
from fer_pipeline.provenance import StageInputs
from fer_pipeline.threads import VARIABLE, choose_threads

STAGES = (
    "ingest",
    "prepare",
    "describe",
    "train",
    "predict",
    "calibrate",
    "evaluate",
    "report",
    "register",
)
PER_BACKBONE = {"train", "predict"}


def main() -> int:
    """Run the stage that the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fer_pipeline.stages",
        description="Run one stage of dvc.yaml in the current folder, as 'dvc repro' does.",
        epilog="Reads params.yaml. FER_DEBUG=1 shows tracebacks.",
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument(
        "backbone", nargs="?", help="for train and predict: a key of 'backbones' in params.yaml"
    )
    chosen = parser.parse_args()
    # DVC says which of a group's stages it runs, so that no key of params.yaml reaches a shell.
    _, _, of_group = os.environ.get("DVC_STAGE", "").rpartition("@")
    return exit_status(lambda: _run(chosen.stage, chosen.backbone or of_group))


def _run(stage: str, backbone: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log file shows each epoch at once
    set_up_log(sys.stdout)
    params = load_params(PARAMS)
    require_known(params.backbones)
    if stage in PER_BACKBONE and backbone not in params.backbones:
        known = ", ".join(params.backbones)
        raise ParamsError(f"{PARAMS} has no backbone '{backbone}': choose among {known}")
    if stage in PER_BACKBONE and VARIABLE not in os.environ:
        threads = _threads(stage, backbone, params)
        os.environ.update({VARIABLE: str(threads)} if threads else {})
    work = getattr(importlib.import_module(f"fer_pipeline.stages.{stage}"), stage)
    work(params, *([backbone] if stage in PER_BACKBONE else []))


def _threads(stage: str, backbone: str, params: Params) -> int | None:
    """The number in params; for `auto` what the same inputs took before, or the free cores.

    None on a machine with GPUs, where Fabric divides the cores among the processes.
    """
    wanted = params.training.threads if stage == "train" else params.predict.threads
    if wanted != "auto":
        return wanted
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return None
    choices, machine = Choices(StageInputs.read(stage, backbone, params).key), describe_cpu()
    known = choices.recall("threads", machine)
    if known and known.isdecimal():
        return int(known)
    devices = params.training.devices if stage == "train" else "auto"
    chosen = choose_threads(1 if devices == "auto" else devices)
    choices.remember("threads", machine, str(chosen))
    return chosen


def set_up_log(stream: TextIO) -> None:
    """Write what the package logs to a stream, and only warnings of the chatty libraries."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=stream)
    for noisy in ("alembic", "lightning_fabric", "mlflow", "onnx_ir", "onnxscript", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

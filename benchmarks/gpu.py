"""What the engine does on a GPU, in some minutes: is it right, how fast is it, what does it learn.

    python benchmarks/gpu.py --minutes 10 --data fer2013.parquet --out FOLDER

1. checks: a captured step against the same step launched kernel by kernel, bf16 against fp32,
   float32 logits against the CPU's, and fewer images at once where memory is short
2. the speed of a step of each backbone of the recipe at its size and batch, alone, and of all of
   them side by side
3. in the minutes that are left, a training of each with as many epochs as fit by its second epoch:
   one after the other, or side by side where that was faster; then fusion and evaluation

Without `--data` the built-in sample is drawn. Without a GPU it runs too, and captures nothing.
What is finished lies in FOLDER when it is stopped: `results.json` (figures, curves, evaluation),
`logits.npz` (of val and test), `table.txt` and `log.txt`. The last line is one JSON object. Exit
status 1: a check failed, or a part.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import numpy as np
import torch
from gpu_checks import check_engine
from gpu_work import measure_step, rate_beside_others, train
from rich.console import Console
from rich.table import Table

from fer_pipeline.data.faces import save_split
from fer_pipeline.data.quality.duplicates import group_by_pixels
from fer_pipeline.data.quality.splits import split_faces
from fer_pipeline.data.sources.edition import Reading
from fer_pipeline.data.sources.editions import read_edition
from fer_pipeline.data.sources.sample import draw_sample
from fer_pipeline.evaluation.result import read_evaluation
from fer_pipeline.files import read_json, whole_file, write_json
from fer_pipeline.params.load import load_params
from fer_pipeline.params.schema import Params
from fer_pipeline.paths import EVALUATION, FUSION, TEST, TRAIN, VAL, predictions
from fer_pipeline.stages.calibrate import calibrate
from fer_pipeline.stages.evaluate import evaluate
from fer_pipeline.stages.launch import set_up_log
from fer_pipeline.training.devices import describe_hardware

ROOT = Path(__file__).resolve().parents[1]

WORTH_IT = 1.05
"""How many times as much three trainings at once must do as one after the other."""

END_S = 25.0
"""Seconds kept for fusion and evaluation."""

RESULT = "result: "


class Findings:
    """What was found so far, on the disk after each part.

    Args:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.started = folder, time.time()
        self.found: dict[str, Any] = {}
        self._logits: dict[str, Any] = {}
        self._log: TextIO = (folder / "log.txt").open("w", encoding="utf-8", buffering=1)
        self._tables: TextIO = (folder / "table.txt").open("w", encoding="utf-8", buffering=1)

    def say(self, line: str) -> None:
        line = f"{time.time() - self.started:6.1f} s  {line}"
        print(line, flush=True)
        print(line, file=self._log)

    def add(self, key: str, value: object) -> None:
        self.found[key] = value
        write_json(self.folder / "results.json", self.found)

    def add_logits(self, backbone: str, path: Path) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            for key in ("val_logits", "test_logits"):
                self._logits[f"{backbone}.{key}"] = arrays[key]
        with whole_file(self.folder / "logits.npz") as partial:
            np.savez_compressed(partial, allow_pickle=False, **self._logits)

    def table(self, table: Table) -> None:
        for console in (Console(), Console(file=self._tables, width=120)):
            console.print(table)


def main() -> None:
    options = _options()
    if options.part:
        _do_part(options)
        return
    end = time.time() + 60 * options.minutes - END_S
    recipe, data = options.recipe.resolve(), options.data.resolve() if options.data else None
    params = load_params(recipe)
    findings = Findings(options.out.resolve())
    hardware = describe_hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"), 1)
    set_up_log(sys.stdout)
    findings.say(f"{hardware}, torch {torch.__version__}, {recipe.name}")
    findings.add("hardware", hardware)
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        _prepare(params, data, findings)
        _check(params, findings)
        alone = _measure(params, findings)
        together = _side_by_side(params, recipe, alone, findings)
        _train(params, recipe, end, together, findings)
        summary = _evaluate(params, findings)
        os.chdir("/")
    shown = {key: findings.found[key] for key in ("hardware", "checks", "speed", "side_by_side")}
    print(json.dumps(summary | shown))
    if any(one["found"] > one["limit"] for own in shown["checks"].values() for one in own):
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of it")
    parser.add_argument("--data", type=Path, help="an edition of FER2013 (default: the sample)")
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark"), help="where results go")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "scratch.yaml")
    parser.add_argument("--part", choices=("rate", "train"), help=argparse.SUPPRESS)
    parser.add_argument("--backbone", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _do_part(options: argparse.Namespace) -> None:
    """What a process of its own does for one backbone, in the folder of the faces."""
    params = load_params(options.recipe)

    def say(line: str) -> None:
        print(f"{options.backbone:13} {line}", flush=True)

    # What the engine notes, such as that a step is not captured, belongs into the log.
    set_up_log(sys.stdout)
    if options.part == "rate":
        found: object = rate_beside_others(params, options.backbone)
    else:
        found = train(params, options.backbone, options.started, options.end, say)
    print(RESULT + json.dumps(found), flush=True)


def _prepare(params: Params, data: Path | None, findings: Findings) -> None:
    sample = params.data.sample
    faces = (
        read_edition(data, Reading(params.data.labels, params.data.unlabelled, holdout=False)).faces
        if data
        else draw_sample(sample.train, sample.val, sample.test, sample.seed)
    )
    splits = split_faces(faces, group_by_pixels(faces), params.data.protocol)
    TRAIN.parent.mkdir(parents=True)
    for split, path in zip(splits.values(), (TRAIN, VAL, TEST), strict=True):
        save_split(split, path)
    findings.say(f"{', '.join(f'{name} {len(split)}' for name, split in splits.items())} faces")


def _check(params: Params, findings: Findings) -> None:
    table = Table("check", "found", "at most", "", title="checks")
    checks = {name: check_engine(params, name) for name in params.backbones}
    for name, own in checks.items():
        for check in own:
            passed = "passed" if check.passed else "FAILED"
            table.add_row(
                f"{name}: {check.name}", f"{check.found:.2g}", f"{check.limit:.2g}", passed
            )
    findings.add("checks", {name: [asdict(one) for one in own] for name, own in checks.items()})
    findings.table(table)
    findings.say("checks done")


def _measure(params: Params, findings: Findings) -> dict[str, float]:
    rates = ("eager images/s", "images/s", "ratio", "step ms", "kernels ms", "in use")
    table = Table(
        "backbone", "input", "batch", *rates, title="a training step, each backbone alone"
    )
    speeds = {name: measure_step(params, name) for name in params.backbones}
    for name, one in speeds.items():
        kernels = ("-", "-")
        if one.kernels_ms is not None:
            kernels = (f"{one.kernels_ms:.2f}", f"{one.kernels_ms / one.step_ms:.0%}")
        shown = (f"{one.eager_images_per_s:,.0f}", f"{one.images_per_s:,.0f}")
        ratio = f"{one.images_per_s / one.eager_images_per_s:.2f}"
        sizes = (f"{one.image_size} px", str(one.batch_size))
        table.add_row(name, *sizes, *shown, ratio, f"{one.step_ms:.2f}", *kernels)
    findings.add("speed", {name: asdict(one) for name, one in speeds.items()})
    findings.table(table)
    findings.say("speed measured")
    return {name: one.images_per_s for name, one in speeds.items()}


def _side_by_side(
    params: Params, recipe: Path, alone: dict[str, float], findings: Findings
) -> bool:
    """Whether trainings at once do more than one after the other."""
    torch.cuda.empty_cache()
    parts = {name: _start("rate", name, recipe) for name in params.backbones}
    with _killed_at_the_end(parts):
        rates = {name: float(_finish(process, findings)) for name, process in parts.items()}
    gain = sum(rates[name] / alone[name] for name in rates)
    findings.add("side_by_side", {"images_per_s": rates, "gain": gain})
    said = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    findings.say(f"side by side {said} images/s: {gain:.2f} times one after the other")
    return gain > WORTH_IT


def _train(params: Params, recipe: Path, end: float, together: bool, findings: Findings) -> None:
    names = list(params.backbones)
    running = {name: _start("train", name, recipe, end) for name in names} if together else {}
    trained = {}
    with _killed_at_the_end(running):
        for position, name in enumerate(names):
            own_end = time.time() + (end - time.time()) / (len(names) - position)
            if name not in running:
                running[name] = _start("train", name, recipe, own_end)
            trained[name] = _finish(running[name], findings)
            findings.add("trainings", trained)
            findings.add_logits(name, predictions(name))


def _evaluate(params: Params, findings: Findings) -> dict[str, Any]:
    calibrate(params)
    evaluate(params)
    findings.add("fusion", read_json(FUSION, "calibrate"))
    findings.add("evaluation", read_json(EVALUATION, "evaluate"))
    evaluation = read_evaluation(EVALUATION)
    test, val = evaluation.test, evaluation.val
    table = Table(
        "model",
        "epochs",
        "start s",
        "training s",
        "predict s",
        "val %",
        "test %",
        title="trainings",
    )
    for name, one in findings.found["trainings"].items():
        seconds = (f"{one[key]:.1f}" for key in ("start_s", "train_s", "predict_s"))
        accuracies = (f"{100 * val.single[name]:.2f}", f"{100 * test.single[name].accuracy:.2f}")
        table.add_row(name, str(one["epochs"]), *seconds, *accuracies)
    fused = (f"{100 * val.fused:.2f}", f"{100 * test.fused.accuracy:.2f}")
    table.add_row("fused", "", "", "", "", *fused)
    findings.table(table)
    findings.say("done")
    return {
        "fused": test.fused.accuracy,
        "single": {name: one.accuracy for name, one in test.single.items()},
        "gain": test.gain.accuracy,
    }


def _start(part: str, name: str, recipe: Path, end: float = 0.0) -> subprocess.Popen[str]:
    now = time.time()
    options = ("--part", part, "--backbone", name, "--started", str(now), "--end", str(end))
    command = (sys.executable, str(Path(__file__).resolve()), "--recipe", str(recipe), *options)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def _killed_at_the_end(processes: Mapping[str, subprocess.Popen[str]]) -> Iterator[None]:
    """No process outlives the benchmark, whatever ends it."""
    try:
        yield
    finally:
        for process in processes.values():
            process.kill()


def _finish(process: subprocess.Popen[str], findings: Findings) -> Any:
    """What a part found; its other lines go to the log.

    Raises:
        SystemExit: it failed.
    """
    assert process.stdout is not None
    found = None
    for line in process.stdout:
        if line.startswith(RESULT):
            found = json.loads(line.removeprefix(RESULT))
        else:
            findings.say(line.rstrip())
    if process.wait() or found is None:
        raise SystemExit(
            f"a part ended with status {process.returncode}: its last lines stand above"
        )
    return found


if __name__ == "__main__":
    main()

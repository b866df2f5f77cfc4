"""The path of every file in the graph, once, relative to the folder of `dvc.yaml`."""

from __future__ import annotations

import os
from pathlib import Path

from fer_pipeline.errors import DataError

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")
RECIPES = Path("recipes")

SOURCE_LOCK = Path("data/source.lock.yaml")
DOWNLOADS = Path("data/downloads")
FACES = Path("data/raw/faces.parquet")
TRAIN = Path("data/prepared/train.npz")
VAL = Path("data/prepared/val.npz")
TEST = Path("data/prepared/test.npz")
DATA_METRICS = Path("metrics/data.json")
CLASS_BALANCE = Path("plots/classes.csv")
GREYS = Path("plots/greys.csv")
DATA_EXAMPLES = Path("examples/data.npz")
DATA_PAGE = Path("reports/data.html")

CHECKPOINTS = Path("checkpoints")

PREDICTIONS = Path("predictions")
PROVENANCE = Path("provenance")

FUSION = Path("models/fused/fusion.json")
SIMPLEX = Path("plots/simplex.csv")
EVALUATION = Path("metrics/evaluation.json")
SUMMARY = Path("metrics/summary.json")
ACCURACY = Path("plots/accuracy.csv")
CONFUSION = Path("plots/confusion")
TEST_EXAMPLES = Path("examples/test.npz")
REPORT = Path("reports/report.html")
MODEL_CARD = Path("reports/model_card.md")
CURVES = Path("reports/curves.csv")
VERDICT = Path("registry/verdict.json")

TRACKING_DB = Path("mlflow.db")
TRACKING_ARTIFACTS = Path("mlartifacts")
SCRATCH = Path(".partial-registry")


def project_folder() -> Path:
    """The folder of `dvc.yaml`, relative where it is the current one.

    Experiments run in copies below `.dvc/tmp`, which are deleted: for those it is the folder that
    they were copied from, where what git and DVC do not know lies.
    """
    project, found, _ = str(Path.cwd()).partition(f"{os.sep}{Path('.dvc/tmp')}{os.sep}")
    return Path(project) if found else Path()


def model_file(backbone: str) -> Path:
    return Path("models") / backbone / "model.safetensors"


def training_metrics(backbone: str) -> Path:
    return Path("metrics/train") / f"{backbone}.json"


def training_curve(backbone: str) -> Path:
    return Path("plots/curves") / f"{backbone}.csv"


def provenance(backbone: str) -> Path:
    return PROVENANCE / f"{backbone}.json"


def predictions(backbone: str) -> Path:
    return PREDICTIONS / f"{backbone}.npz"


def confusion_file(model: str) -> Path:
    return CONFUSION / f"{model}.csv"


def require_project() -> None:
    """Refuse to work outside the project.

    Raises:
        DataError: the current folder has no `dvc.yaml`.
    """
    if not GRAPH.exists():
        raise DataError(f"{GRAPH} is missing: run this in the project's folder")


def require(path: Path, stage: str) -> Path:
    """The path itself, if the stage that writes it has run.

    Raises:
        DataError: the file is missing; the message names the command that makes it.
    """
    if not path.exists():
        raise DataError(f"{path} is missing: run '{f'dvc repro {stage}'.strip()}'")
    return path

"""The code that is stored with a version, and runs where the version is served.

Only what the model imports is stored, so that a change of flows or reports makes no new version.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import fer_pipeline
from fer_pipeline.provenance import code_digest, content_digest

MODEL_SCRIPT = Path(__file__).with_name("pyfunc.py")
"""The script that MLflow stores and runs to load the model."""

STORED_FILES = (
    "__init__.py",
    "arrays.py",
    "data/__init__.py",
    "data/faces.py",
    "data/pictures.py",
    "emotions.py",
    "errors.py",
    "files.py",
    "fusion/__init__.py",
    "fusion/average.py",
    "models/__init__.py",
    "models/backbones.py",
    "models/catalog.py",
    "models/inference.py",
    "models/precision.py",
    "models/transforms.py",
    "serving/__init__.py",
    "serving/bundle.py",
    "serving/predictor.py",
    "serving/requests.py",
    "threads.py",
)
"""The files of `fer_pipeline` that `MODEL_SCRIPT` imports, itself or through others."""


def write_model_code(folder: Path) -> Path:
    """Copy the files that the model imports into a folder; returns the package there."""
    package = Path(fer_pipeline.__file__).parent
    for name in STORED_FILES:
        copy = folder / package.name / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / name, copy)
    return folder / package.name


def version_digest(bundle: list[Path]) -> str:
    """The digest that tells versions apart: of the bundle's files, and of what its code does.

    A comment or a docstring in the code makes no other digest, another statement does.
    """
    package = Path(fer_pipeline.__file__).parent
    code = code_digest([MODEL_SCRIPT, *(package / name for name in STORED_FILES)])
    return hashlib.sha256(f"{content_digest(bundle)} {code}".encode()).hexdigest()

"""A small fused model with all that the registry asks of a version, made without a training."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fer_pipeline
from fer_pipeline.data.faces import Split, save_split, split_sha256
from fer_pipeline.fusion.result import Fusion
from fer_pipeline.models import backbones, catalog
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params.schema import Params
from fer_pipeline.paths import TEST
from fer_pipeline.registry.fetch import RECORD, files_tag
from fer_pipeline.registry.policy import GATE_TAG
from fer_pipeline.registry.record import Record, make_record, write_record
from fer_pipeline.registry.runs import open_run
from fer_pipeline.registry.tracking import Tracking
from fer_pipeline.registry.versions import Candidate, register_once, version_digest
from fer_pipeline.serving import predictor
from fer_pipeline.serving.bundle import bundle_files, describe, write_bundle
from fer_pipeline.serving.predictor import FusedPredictor

with warnings.catch_warnings():
    # MLflow imports it late, and warns of its own type hints while it does.
    warnings.simplefilter("ignore")
    import mlflow.pyfunc  # noqa: F401

NAME = "fer-fusion"
SMALL = ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0")
"""Networks of torchvision, 1.4 and 5 MB, that `small_networks` has in the catalogue."""

SIZES = {"resnet50": 32, "inception_v3": 75} | dict.fromkeys(SMALL, 32)


@contextmanager
def small_networks(folder: Path) -> Iterator[None]:
    """Add two small networks to the catalogue, also in the code that is stored with versions.

    Args:
        folder: gets a copy of the package with them, for `PYTHONPATH` of processes.
    """
    package = folder / "fer_pipeline"
    shutil.copytree(Path(fer_pipeline.__file__).parent, package)
    infos = [catalog.BackboneInfo(name, "Ma et al., arXiv 1807.11164", 32, {}) for name in SMALL]
    text, start = (package / "models" / "catalog.py").read_text(), "_BACKBONES = (\n"
    assert start in text
    lines = "".join(f"    {info!r},\n" for info in infos)
    (package / "models" / "catalog.py").write_text(text.replace(start, start + lines))
    known = catalog.CATALOG | {info.name: info for info in infos}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fer_pipeline, "__file__", str(package / "__init__.py"))
        for module in (catalog, backbones, predictor):
            patch.setattr(module, "CATALOG", known)
        yield


def draw_network(name: str) -> nn.Module:
    """Untrained, with the statistics of noise in batch norm: else all faces look the same to it."""
    model = build_backbone(name, "none")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model(2 * torch.rand(8, 3, SIZES[name], SIZES[name]) - 1)
    return model


def draw_test_split(seed: int = 0, images: int = 70) -> Split:
    """Noise with labels: more images than a check scores."""
    rng = np.random.default_rng(seed)
    return Split(
        rng.integers(0, 256, (images, 48, 48), np.uint8),
        rng.integers(0, 7, images),
        np.arange(images),
        np.zeros(images, np.bool_),
    )


def make_bundle(params: Params, folder: Path, names: tuple[str, ...], seed: int = 0) -> Path:
    """Untrained backbones, each with the same weight."""
    torch.manual_seed(seed)
    files = {}
    for name in names:
        state = draw_network(name).state_dict()
        files[name] = folder / f"{name}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in state.items()}, files[name])
    any_own = next(iter(params.backbones.values()))
    own = {
        name: any_own.model_copy(update={"image_size": SIZES[name], "eval_resize": SIZES[name]})
        for name in names
    }
    fusion = Fusion("uniform", dict.fromkeys(names, 1 / len(names)), 1.5)
    write_bundle(folder / "bundle", describe(fusion, own, "centre"), files)
    for path in files.values():
        path.unlink()
    return folder / "bundle"


def register_bundle(
    tracking: Tracking, bundle: Path, split: Split, name: str = NAME, **tags: str
) -> str:
    """Register a bundle as the stage does, with the logits of `split` on record."""
    predictor = FusedPredictor.load(bundle)
    record = make_record(predictor.predict(split.images).logits, split, predictor, seed=0)
    write_record(record, bundle.with_name("record"))
    content = version_digest(bundle_files(bundle))
    told = {GATE_TAG: "true"} | files_tag(bundle) | tags
    folders = {"bundle": bundle, "record": bundle.with_name("record")}
    with open_run(tracking, "fusion", {"content": content}) as run:
        candidate = Candidate(
            content=content, run_id=run.run_id, folders=folders, tags=told, description="# A card"
        )
        return register_once(tracking, name, candidate)


def register_content(tracking: Tracking, name: str, content: str, folder: Path) -> str:
    """Register a content that is only a word: the bundle is none, and is not read."""
    (folder / "spec.json").write_text("{}")
    with open_run(tracking, str(folder), {"content": content}) as run:
        candidate = Candidate(
            content=content,
            run_id=run.run_id,
            folders={"bundle": folder},
            tags={},
            description="A card",
        )
        return register_once(tracking, name, candidate)


def make_version(
    tracking: Tracking, folder: Path, name: str, wrong: list[int], split: Split, **tags: str
) -> str:
    """A version with a record and without a model, wrong on some of the test images."""
    said = split.labels.copy()
    said[wrong] = (said[wrong] + 1) % 7
    logits, no_faces = np.eye(7, dtype=np.float32)[said], np.zeros((1, 48, 48), np.uint8)
    known = logits, split.labels, split.groups, split_sha256(split)
    write_record(Record(*known, no_faces, np.zeros((1, 7), np.float32)), folder / RECORD)
    told = {GATE_TAG: "true", **tags}
    made = tracking.client.create_model_version(name, folder.as_uri(), tags=told)
    return str(made.version)


def put_test_split(split: Split, folder: Path) -> None:
    """Where a workspace has its prepared test set."""
    (folder / TEST).parent.mkdir(parents=True, exist_ok=True)
    save_split(split, folder / TEST)

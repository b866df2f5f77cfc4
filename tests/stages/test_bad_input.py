"""Bad input ends a stage with exit status 1, one line, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from dvc.exceptions import ReproductionError
from dvc.repo import Repo
from PIL import Image
from ruamel.yaml import YAML
from workspace import InProcess, TrainHere, Workspace, make_bare_workspace, stage

from fer_pipeline.data.faces import USAGES
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.emotions import EMOTIONS

INGEST, PREPARE = stage("ingest"), stage("prepare")


@pytest.fixture
def bare(root: Path, tmp_path: Path) -> Workspace:
    workspace = make_bare_workspace(root, tmp_path)
    return InProcess(workspace.folder, workspace.env)


def fail(workspace: Workspace, *command: str) -> str:
    """Run a command that must fail as a user's mistake does, and give its one line."""
    return the_line(workspace.run(*command))


def the_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


def files(workspace: Workspace) -> set[Path]:
    return {path.relative_to(workspace.folder) for path in workspace.folder.rglob("*")}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"data__source": "fer2013.csv"}, r"params\.yaml: data\.source is not a known key"),
        ({"data__labels": "ferplus_majority"}, "the built-in sample has no votes"),
        ({"backbones__resnet50__head__epochs": 0}, r"params\.yaml: backbones\.resnet50\.head\.ep"),
        ({"sed": 1}, r"params\.yaml: sed is not a known key: did you mean 'seed'"),
        ({"backbones": {}}, r"params\.yaml: backbones is"),
    ],
)
def test_ingest_refuses_bad_params(edit: dict[str, object], message: str, bare: Workspace) -> None:
    bare.edit_params(**edit)
    before = files(bare)
    assert re.search(message, fail(bare, *INGEST))
    assert files(bare) == before


def test_an_unknown_backbone_is_named_before_any_work(bare: Workspace) -> None:
    text = (bare.folder / "params.yaml").read_text()
    (bare.folder / "params.yaml").write_text(text.replace("resnet101:", "resnet1001:"))
    assert "backbones.resnet1001 is not a known backbone" in fail(bare, *INGEST)


def write_csv(path: Path, shift: int = 0) -> None:
    """A small whole edition: one face of every expression in every split."""
    rows = [
        f"{code},{' '.join([str(20 * code + split + shift), '255'] * 1152)},{usage}\n"
        for split, usage in enumerate(USAGES)
        for code in range(7)
    ]
    path.write_text("emotion,pixels,Usage\n" + "".join(rows))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nowhere.csv", "nowhere.csv is missing: give 'sample', an existing file"),
        (".", "holds several editions"),
        ("page.csv", "page.csv is a web page, not data"),
        ("noise.bin", "noise.bin"),
    ],
)
def test_a_source_that_is_no_edition_is_not_pinned(uri: str, message: str, bare: Workspace) -> None:
    contents = {
        "page.csv": b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
        "short.csv": b"emotion,pixels,Usage\n0,1 2 3,Training\n",
        "cut.parquet": b"PAR1 and then nothing",
        "noise.bin": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    }
    for name, content in contents.items():
        (bare.folder / name).write_bytes(content)
    before = files(bare)
    assert message in fail(bare, "fer", "source", "pin", uri)
    assert files(bare) == before


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have no such names")
def test_a_source_whose_name_is_no_utf8_is_not_pinned_but_one_that_holds_such_names(
    bare: Workspace,
) -> None:
    write_csv(bare.folder / os.fsdecode(b"fer\xff.csv"))
    before = files(bare)
    assert "holds what can't be printed: rename it" in fail(
        bare, "fer", "source", "pin", os.fsdecode(b"fer\xff.csv")
    )
    assert files(bare) == before
    for number, (split, emotion) in enumerate(product(("train", "val", "test"), EMOTIONS)):
        path = bare.folder / "faces" / split / emotion / os.fsdecode(b"a\xff.png")
        path.parent.mkdir(parents=True)
        Image.fromarray(draw_face(number % 7, np.random.default_rng(number))).save(path)
    bare.check("fer", "source", "pin", "faces")
    bare.check(*INGEST)


def test_a_source_that_is_not_what_was_pinned_leaves_the_earlier_faces(bare: Workspace) -> None:
    write_csv(bare.folder / "faces.csv")
    bare.check("fer", "source", "pin", "faces.csv")
    bare.check(*INGEST)
    good = (bare.folder / "data/raw/faces.parquet").read_bytes()
    assert "unchanged" in bare.check("fer", "source", "status")

    write_csv(bare.folder / "faces.csv", shift=1)
    before = files(bare)
    line = fail(bare, *INGEST)
    assert "faces.csv has changed since it was pinned" in line
    assert "fer source pin faces.csv" in line
    assert files(bare) == before
    assert (bare.folder / "data/raw/faces.parquet").read_bytes() == good
    assert "now" in bare.check("fer", "source", "status")


def test_drift_beyond_the_limit_is_refused_by_pin_and_by_prepare(bare: Workspace) -> None:
    write_csv(bare.folder / "faces.csv")
    bare.check("fer", "source", "pin", "faces.csv")
    write_csv(bare.folder / "faces.csv", shift=80)
    bare.edit_params(data__max_drift=0.1)
    before = files(bare), (bare.folder / "data/source.lock.yaml").read_bytes()
    assert "more than data.max_drift, which is 0.1" in fail(
        bare, "fer", "source", "pin", "faces.csv"
    )
    assert before == (files(bare), (bare.folder / "data/source.lock.yaml").read_bytes())

    bare.edit_params(data__max_drift=None)
    assert "drift from sha256" in bare.check("fer", "source", "pin", "faces.csv")
    bare.check(*INGEST)
    bare.edit_params(data__max_drift=0.1)
    refusal = fail(bare, *PREPARE)
    assert "its brightness differs by 0." in refusal
    assert "more than data.max_drift, which is 0.1" in refusal
    assert not (bare.folder / "data/prepared").exists()
    assert "run 'python -m fer_pipeline.stages describe' and open reports/data.html" in refusal
    bare.check("python", "-m", "fer_pipeline.stages", "describe")
    assert "drift" in (bare.folder / "reports/data.html").read_text().lower()

    bare.edit_params(data__max_drift=0.9)
    bare.check(*PREPARE)
    drift = json.loads((bare.folder / "metrics/data.json").read_text())["drift"]
    assert 0.1 < drift["largest"] == drift["brightness"]["ks"] <= 0.9
    assert drift["class_balance"]["cramers_v"] == 0
    assert drift["previous"]["images"] == 21


def test_a_stage_without_its_input_names_the_stage_to_run(
    bare: Workspace, train_here: TrainHere
) -> None:
    assert "run 'dvc repro ingest'" in fail(bare, *PREPARE)
    assert "run 'dvc repro prepare'" in the_line(train_here(bare))


def test_training_stops_before_work_where_mlflow_does_not_answer(
    prepared: Workspace, train_here: TrainHere
) -> None:
    address = "http://user:secret@127.0.0.1:9"
    line = the_line(train_here(prepared, MLFLOW_TRACKING_URI=address))
    assert "http://127.0.0.1:9 can't be reached" in line
    assert "secret" not in line
    assert not (prepared.folder / "models").exists()


def test_imagenet_weights_without_network_name_file_and_folder(
    prepared: Workspace, train_here: TrainHere
) -> None:
    prepared.edit_params(backbones__resnet50__weights="imagenet")
    closed = "http://127.0.0.1:9"
    home = str(prepared.folder / "torch")
    done = train_here(prepared, TORCH_HOME=home, http_proxy=closed, https_proxy=closed)
    line = the_line(done)
    assert "resnet50-11ad3fa6.pth" in line
    assert str(prepared.folder / "torch/hub/checkpoints") in line
    assert not (prepared.folder / "models").exists()


@pytest.fixture
def under_dvc(bare: Workspace, root: Path) -> Workspace:
    """The same folder with the graph, in which `dvc repro` works."""
    (bare.folder / "fer_pipeline").symlink_to(root / "fer_pipeline")
    bare.check("git", "init", "--quiet")
    with bare.entered():
        Repo.init().close()
    return bare


@pytest.mark.slow
def test_dvc_shows_the_line_and_stops(under_dvc: Workspace) -> None:
    under_dvc.edit_params(data__labels="ferplus_majority")
    done = under_dvc.run("dvc", "repro")
    assert done.returncode != 0
    assert "error: data.labels is ferplus_majority" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (under_dvc.folder / "data/raw/faces.parquet").exists()


@pytest.mark.slow
def test_no_key_of_params_reaches_a_shell(
    under_dvc: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    content = YAML(typ="safe").load((under_dvc.folder / "params.yaml").read_text())
    prepared = under_dvc.folder / "data" / "prepared"
    prepared.mkdir()
    for split in ("train", "val"):  # so that DVC runs the command
        (prepared / f"{split}.npz").touch()
    for key in ("resnet50; touch ran", "$(touch ran)", "a' || touch ran && '"):
        under_dvc.edit_params(backbones={key: content["backbones"]["resnet50"]})

        with under_dvc.repo() as repo, pytest.raises(ReproductionError):
            repo.reproduce(f"train@{key}", single_item=True)

        said = capfd.readouterr().err
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        assert errors[0].startswith(f"error: backbones.{key} is not a known backbone: choose")
        assert "Traceback" not in said
        assert not list(under_dvc.folder.rglob("ran"))

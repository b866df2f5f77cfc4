"""Bad input ends a stage with exit status 1, one line, no traceback, and nothing half-written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from workspace import Workspace, environment

INGEST = (sys.executable, "-m", "fer_pipeline.stages.ingest")
TRAIN = (sys.executable, "-m", "fer_pipeline.stages.train", "resnet50")


@pytest.fixture
def bare(root: Path, tmp_path: Path) -> Workspace:
    """A folder with params.yaml alone, in which stages run by hand."""
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    workspace = Workspace(tmp_path, environment(tmp_path, code=root))
    workspace.edit_params(data__sample={"train": 28, "val": 14, "test": 14, "seed": 0})
    return workspace


def fail(workspace: Workspace, *command: str, **env: str) -> str:
    """Run a command that must fail as a user's mistake does, and give its one line."""
    done = workspace.run(*command, **env)
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
        ({"data__source": "nowhere.csv"}, r"nowhere\.csv is missing: set data\.source"),
        ({"data__source": "https://example.invalid/faces.csv"}, "only 'sample' and local files"),
        ({"data__source": "."}, "is a folder"),
        ({"backbones__resnet50__head__epochs": 0}, r"params\.yaml: backbones\.resnet50\.head\.ep"),
        ({"sed": 1}, r"params\.yaml: sed is not a known key: did you mean 'seed'"),
        ({"backbones": {}}, r"params\.yaml: backbones is"),
    ],
)
def test_ingest_refuses_bad_params_and_sources(
    edit: dict[str, object], message: str, bare: Workspace
) -> None:
    bare.edit_params(**edit)
    before = files(bare)
    assert re.search(message, fail(bare, *INGEST))
    assert files(bare) == before


def test_an_unknown_backbone_is_named_before_any_work(bare: Workspace) -> None:
    text = (bare.folder / "params.yaml").read_text()
    (bare.folder / "params.yaml").write_text(text.replace("resnet101:", "resnet1001:"))
    assert "backbones.resnet1001 is not a known backbone" in fail(bare, *INGEST)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "has no column 'emotion'"),
        (b"emotion,pixels,Usage\n0,1 2 3,Training\n", "row 1: 3 pixels, not 2304"),
        (b"PAR1 and then nothing", "not a whole parquet file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "faces.bin"),
    ],
)
def test_a_bad_source_leaves_the_earlier_faces_untouched(
    content: bytes, message: str, bare: Workspace
) -> None:
    good = bare.folder / "data/raw/faces.parquet"
    good.parent.mkdir(parents=True)
    good.write_bytes(b"what was ingested before")
    (bare.folder / "faces.bin").write_bytes(content)
    bare.edit_params(data__source="faces.bin")
    before = files(bare)
    assert message in fail(bare, *INGEST)
    assert files(bare) == before
    assert good.read_bytes() == b"what was ingested before"


def test_a_source_that_is_not_what_was_pinned_is_refused(bare: Workspace) -> None:
    (bare.folder / "faces.csv").write_text("emotion,pixels,Usage\n")
    bare.edit_params(data__source="faces.csv")
    bare.check("fer", "source", "pin", "faces.csv")
    (bare.folder / "faces.csv").write_text("emotion,pixels,Usage\n\n")
    line = fail(bare, *INGEST)
    assert "faces.csv has changed since it was pinned" in line
    assert "fer source pin faces.csv" in line
    assert "changed since it was pinned" in bare.check("fer", "source", "status")


def test_a_stage_without_its_input_names_the_stage_to_run(bare: Workspace) -> None:
    assert "run 'dvc repro prepare'" in fail(bare, *TRAIN)


@pytest.fixture
def prepared(bare: Workspace) -> Workspace:
    bare.check(*INGEST)
    bare.check(sys.executable, "-m", "fer_pipeline.stages.prepare")
    return bare


def test_training_stops_before_work_where_mlflow_does_not_answer(prepared: Workspace) -> None:
    address = "http://user:secret@127.0.0.1:9"
    line = fail(prepared, *TRAIN, MLFLOW_TRACKING_URI=address)
    assert "http://127.0.0.1:9 can't be reached" in line
    assert "secret" not in line
    assert not (prepared.folder / "models").exists()


def test_imagenet_weights_without_network_name_file_and_folder(prepared: Workspace) -> None:
    prepared.edit_params(backbones__resnet50__weights="imagenet")
    closed = "http://127.0.0.1:9"
    line = fail(
        prepared,
        *TRAIN,
        TORCH_HOME=str(prepared.folder / "torch"),
        http_proxy=closed,
        https_proxy=closed,
    )
    assert "resnet50-11ad3fa6.pth" in line
    assert str(prepared.folder / "torch/hub/checkpoints") in line
    assert not (prepared.folder / "models").exists()


def test_dvc_shows_the_line_and_stops(bare: Workspace, root: Path) -> None:
    for name in ("dvc.yaml", "requirements.lock"):
        (bare.folder / name).write_text((root / name).read_text())
    (bare.folder / "fer_pipeline").symlink_to(root / "fer_pipeline")
    bare.check("fer", "source", "pin", "sample")
    bare.check("git", "init", "--quiet")
    bare.check("dvc", "init", "--quiet")
    bare.edit_params(data__source="nowhere.csv")
    done = bare.run("dvc", "repro")
    assert done.returncode != 0
    assert "error: nowhere.csv is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (bare.folder / "data/raw/faces.parquet").exists()

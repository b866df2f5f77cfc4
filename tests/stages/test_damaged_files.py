"""Every file that a stage reads or writes, damaged or refused by the system: one line, status 1.

Which files these are, `dvc.yaml` says, and a stage itself by what it opens.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from safetensors.torch import save_file
from workspace import SAMPLE, InProcess, Workspace, copy_workspace, stage, tiny_backbone

from fer_pipeline import paths
from fer_pipeline.files import write_csv, write_json
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.stages.launch import PER_BACKBONE

BACKBONE = "resnet50"
READ_ONLY = Path("/sys/kernel")
"""A folder in which not even root may write."""

CHEAP = ("ingest", "prepare", "describe", "predict", "calibrate", "evaluate", "report")
"""The stages without training and registry, in their order."""

pytestmark = pytest.mark.skipif(
    not (Path("/dev/full").exists() and READ_ONLY.exists()), reason="a full disk of Linux's"
)
opened: set[str] = set()


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        opened.add(str(arguments[0]))


@pytest.fixture(scope="module")
def made(prepared_once: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A folder in which every stage has run, but for the training: its outs are written by hand."""
    copied = copy_workspace(prepared_once, tmp_path_factory.mktemp("made") / "folder")
    # MLflow keeps a connection per address: a relative one would be an earlier test's.
    store = f"sqlite:///{copied.folder / paths.TRACKING_DB}"
    env = {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": store}
    workspace = InProcess(copied.folder, copied.env | env)
    phase = {"epochs": 1, "batch_size": 14, "learning_rate": 1e-3}
    workspace.edit_params(
        data__sample=SAMPLE,
        backbones={BACKBONE: tiny_backbone(phase, phase)},
        fusion__stability_draws=2,
        evaluation__bootstrap_draws=100,
        gate__min_gain=-1.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace.folder)
        paths.model_file(BACKBONE).parent.mkdir(parents=True)
        state = build_backbone(BACKBONE, "none").state_dict()
        save_file(
            {key: value.contiguous() for key, value in state.items()}, paths.model_file(BACKBONE)
        )
        row = {"epoch": 1, "phase": "head", "val_accuracy": 0.25}
        write_csv(paths.training_curve(BACKBONE), [row, row | {"epoch": 2}])
        write_json(paths.training_metrics(BACKBONE), {"val_accuracy": 0.25})
        texts = dict.fromkeys(("hardware", "precision", "torch", "commit"), "x")
        write_json(paths.provenance(BACKBONE), texts | {"seconds": 1.0, "dirty": False})
    for name in CHEAP[2:]:
        workspace.check(*command(name))
    return workspace


@pytest.fixture
def folder(made: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same, entered; whatever a test changes there it puts back."""
    monkeypatch.chdir(made.folder)
    return made


def command(name: str) -> tuple[str, ...]:
    return stage(name, *([BACKBONE] if name in PER_BACKBONE else []))


def graph(name: str, *kinds: str) -> list[Path]:
    """What `dvc.yaml` lists of a stage under these kinds; of its deps only data."""
    content = YAML(typ="safe").load(paths.GRAPH.read_text())["stages"][name]
    entries = [one for kind in kinds for one in content.get("do", content).get(kind, [])]
    names = [next(iter(one)) if isinstance(one, dict) else one for one in entries]
    code = ("fer_pipeline/", "locks/")
    return [Path(one.replace("${key}", BACKBONE)) for one in names if not one.startswith(code)]


def files_below(listed: list[Path]) -> list[Path]:
    found = [path.rglob("*") if path.is_dir() else [path] for path in listed]
    return sorted(path for some in found for path in some if path.is_file())


def the_line(workspace: Workspace, name: str) -> str:
    done = workspace.run(*command(name))
    assert done.returncode == 1, (done.stdout, done.stderr)
    line, *more = done.stderr.splitlines()
    assert not more
    assert line.startswith("error: ")
    return line


def files_read(workspace: Workspace, name: str) -> list[Path]:
    """The deps that are files, and of those that are folders what the stage opens."""
    opened.clear()
    workspace.check(*command(name))
    listed = graph(name, "deps")
    return [path for path in files_below(listed) if path in listed or str(path) in opened]


sys.addaudithook(_note)


@pytest.mark.parametrize("name", CHEAP)
def test_a_file_that_is_cut_or_something_else_is_named_with_the_command(
    name: str, folder: Workspace
) -> None:
    read = files_read(folder, name)
    assert read
    for path in read:
        if path == paths.DATA_PAGE:  # to which the report only links
            continue
        whole = path.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], whole[:-7], b"\x80\x00\xff" * 99):
            path.write_bytes(damaged)
            line = the_line(folder, name)
            assert str(path) in line
            assert "run 'dvc repro --force --single-item " in line or path == paths.SOURCE_LOCK
        path.unlink()
        line = the_line(folder, name)
        path.write_bytes(whole)
        assert f"{path} is missing: run '" in line or f"{path} are missing" in line


@pytest.mark.parametrize("name", CHEAP)
def test_a_file_that_cannot_be_written_is_named_with_the_reason(
    name: str, folder: Workspace
) -> None:
    for path in files_below(graph(name, "outs", "metrics", "plots")):
        before = path.read_bytes()
        path.with_name(f".partial-{path.name}").symlink_to("/dev/full")
        line = the_line(folder, name)
        assert f"{path} can't be written (No space left on device): free space" in line
        assert path.read_bytes() == before
        assert not list(path.parent.glob(".partial-*"))

    for where in {path.parent for path in files_below(graph(name, "outs", "metrics", "plots"))}:
        aside = where.with_name(f"{where.name}-aside")
        where.rename(aside)
        where.symlink_to(READ_ONLY)
        line = the_line(folder, name)
        where.unlink()
        aside.rename(where)
        assert f"error: {where}/" in line
        assert "(Permission denied): make its folder writable" in line


@pytest.mark.parametrize("path", ["data/prepared/train.npz", "data/prepared/val.npz"])
def test_a_training_begins_with_whole_images_or_not_at_all(path: str, folder: Workspace) -> None:
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])
    line = the_line(folder, "train")
    Path(path).write_bytes(whole)
    assert f"{path} can't be read" in line
    assert not paths.CHECKPOINTS.exists()


@pytest.mark.parametrize(
    "out", ["checkpoints", "models", "metrics/train", "plots/curves", "provenance"]
)
def test_a_training_that_cannot_be_written_says_where(out: str, folder: Workspace) -> None:
    where, aside = Path(out), Path("aside")
    if where.exists():
        where.rename(aside)
    where.symlink_to(READ_ONLY)
    done = folder.run(*command("train"))
    where.unlink()
    if aside.exists():
        aside.rename(where)
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {where}/")
    assert "can't be written (" in line


REGISTERED = (
    paths.EVALUATION,
    paths.FUSION,
    paths.DATA_METRICS,
    paths.TEST,
    paths.predictions(BACKBONE),
    paths.provenance(BACKBONE),
)


@pytest.mark.parametrize("path", REGISTERED, ids=str)
def test_nothing_is_registered_from_a_damaged_file(path: Path, folder: Workspace) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    done = folder.run(*command("register"))
    path.write_bytes(whole)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {path} can't be read")
    assert not paths.VERDICT.exists()


def test_a_temperature_or_weights_that_are_no_numbers_are_refused(folder: Workspace) -> None:
    whole = paths.FUSION.read_text()
    for key in ('"temperature": ', f'"{BACKBONE}": '):
        start, _, rest = whole.partition(key)
        paths.FUSION.write_text(f"{start}{key}NaN,\n{rest.partition(chr(10))[2]}")
        assert f"{paths.FUSION} can't be read (NaN is no figure)" in the_line(folder, "evaluate")
    paths.FUSION.write_text(whole)


def test_logits_that_are_no_numbers_are_refused(folder: Workspace) -> None:
    path = paths.predictions(BACKBONE)
    whole = path.read_bytes()
    for split, name in (("val", "calibrate"), ("test", "evaluate")):
        with np.load(path) as arrays:
            content = dict(arrays)
        content[f"{split}_logits"][1, 2] = np.nan
        np.savez(path, **content)
        line = the_line(folder, name)
        path.write_bytes(whole)
        assert f"{path}: the logits of 1 {split} images are not finite" in line

"""`fer score` on a real store: what it says, what MLflow has of it, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fused_model import NAME, SMALL, draw_test_split, make_bundle, register_bundle
from pages import HOSTILE, Page
from PIL import Image

from fer_pipeline.cli.main import main
from fer_pipeline.params.schema import Params
from fer_pipeline.registry.aliases import set_challenger
from fer_pipeline.registry.tracking import Tracking, connect
from fer_pipeline.reports.data_page import render_monitoring_page

SPLIT = draw_test_split(images=40)
Fer = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def store(
    root: Path,
    small: Path,
    empty_database: Path,
    tmp_path_factory: pytest.TempPathFactory,
    params: Params,
) -> Iterator[Tracking]:
    """A folder with params, and a version in its store that has been measured on noise."""
    folder = tmp_path_factory.mktemp("scored")
    shutil.copy(root / "params.yaml", folder)
    shutil.copy(empty_database, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        store = connect("fer2013")
        bundle = make_bundle(params, folder / "made", SMALL[:1])
        set_challenger(store, NAME, register_bundle(store, bundle, SPLIT))
        yield store


@pytest.fixture
def fer(
    store: Tracking, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fer:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fer", "score", "--model", "challenger", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def save(images: np.ndarray, folder: Path) -> str:
    folder.mkdir()
    for row, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{row:02}.png")
    return str(folder)


def test_the_test_images_themselves_do_not_drift(fer: Fer, tmp_path: Path) -> None:
    folder = save(SPLIT.images, tmp_path / "same")
    kept = tmp_path / "kept.parquet"
    status, out, _ = fer(folder, "--output", str(kept), "--json")
    found = json.loads(out)
    assert status == 0
    assert found["drifted"] == []
    assert {name: one["size"] for name, one in found["differences"].items()} == {
        "brightness": 0, "contrast": 0, "confidence": 0, "expressions": 0, "enlarged": 0,
    }  # fmt: skip
    assert found["message"].startswith(f"40 faces by {NAME} version 1: no drift; the most is")
    assert pq.read_table(kept)["image"].to_pylist()[0] == f"{folder}/00.png"


def test_what_has_drifted_is_told_and_stands_in_a_run_of_an_experiment_of_its_own(
    fer: Fer, store: Tracking, tmp_path: Path
) -> None:
    folder = save(SPLIT.images // 4, tmp_path / "dark")
    (tmp_path / "dark" / "no-picture.png").write_text("text")
    status, out, _ = fer(folder)
    assert status == 0
    assert re.search(r"drifted: .*; its page is drift.html of run \w{32} in MLflow\n$", out)
    status, out, _ = fer(folder, "--json")
    found = json.loads(out)
    assert status == 0
    assert set(found["drifted"]) >= {"brightness", "contrast"}
    assert found["unreadable"] == 1
    assert "drifted: " in found["message"]
    run = store.client.get_run(found["run_id"])
    experiment = store.client.get_experiment(run.info.experiment_id)
    assert experiment.name == "fer2013 monitoring"
    assert run.info.status == "FINISHED"
    assert "brightness" in run.data.tags["drifted"]
    assert run.data.metrics["drift.brightness"] == found["differences"]["brightness"]["size"] == 1
    assert (run.data.metrics["images"], run.data.metrics["side.median"]) == (40, 48)
    assert not run.inputs.dataset_inputs  # not the val and test sets of a training
    files = [store.client.download_artifacts(run.info.run_id, name, str(tmp_path)) for name in
             ("predictions.parquet", "drift.html")]  # fmt: skip
    rows = pq.read_table(files[0])
    assert rows["error"].to_pylist()[-1].startswith("picture can't be read")
    text = Page(Path(files[1]).read_text()).text
    assert "Drift: " in text
    assert f"new faces against {NAME} version 1’s record" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nobody"], f"the registry has no {NAME} with the alias 'nobody'"),
        (["--output", "table.xlsx"], "table.xlsx has none of the endings"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, fer: Fer, store: Tracking, tmp_path: Path
) -> None:
    runs = len(_runs(store))
    status, out, err = fer(save(SPLIT.images[:2], tmp_path / "few"), *arguments)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"error: {message}")
    assert len(_runs(store)) == runs


def test_pictures_none_of_which_can_be_read_are_an_error(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "face.jpg").write_text("text")
    kept = tmp_path / "kept.csv"
    status, _, err = fer(str(tmp_path / "face.jpg"), "--output", str(kept))
    assert (status, kept.exists()) == (1, False)
    assert "none of 1 faces can be read" in err.splitlines()[-1]


def test_the_page_asks_for_nothing_and_shows_names_as_text(params: Params) -> None:
    counts = {"expressions": [1] * 7, "confidence": [7] + [0] * 99}
    found = {
        "message": "7 faces", "drifted": [], "model": HOSTILE, "sources": [HOSTILE], "images": 7,
        "unreadable": 1, "limit": None, "chance": 0.001, "greys_on_record": False,
        "differences": {"confidence": {"size": 0.1, "p": 0.5}},
        "mean_confidence": {"now": 0.5, "before": 0.6},
        "side": {"smallest": 20, "median": 48, "largest": 90},
    }  # fmt: skip
    now = {**counts, "brightness": [7] + [0] * 64, "contrast": [7] + [0] * 31}
    page = Page(
        render_monitoring_page(
            found, {"now": now, "before": {**counts, "brightness": None, "contrast": None}}
        )
    )
    assert "No limit is set. The record of this version is of an earlier release" in page.text
    assert "img" not in page.tags
    asked = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith(("#", "data:")) for value in asked)


def _runs(store: Tracking) -> list[object]:
    experiment = store.client.get_experiment_by_name("fer2013 monitoring")
    return store.client.search_runs([experiment.experiment_id]) if experiment else []

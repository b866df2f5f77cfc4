"""`fer predict` as a person and as a program meets it, with a real small model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from edition_files import encode, parquet_bytes, random_faces, zip_bytes
from fer_command import run_fer
from fused_model import SMALL, make_bundle
from processes import WITHIN_S, wait_until
from ruamel.yaml import YAML

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError
from fer_pipeline.files import write_json
from fer_pipeline.params.schema import Params
from fer_pipeline.paths import FUSION, VERDICT, model_file
from fer_pipeline.provenance import content_digest
from fer_pipeline.serving.outputs import open_output
from fer_pipeline.serving.predictor import FusedPredictor

FACES = random_faces().pixels
NET = SMALL[0]
Fer = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(
    root: Path, small: Path, params: Params, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as a run leaves it: one untrained backbone, which is all of its params."""
    folder = tmp_path_factory.mktemp("trained")
    bundle = make_bundle(params, folder, SMALL[:1])
    (folder / model_file(NET)).parent.mkdir(parents=True)
    (bundle / f"{NET}.safetensors").rename(folder / model_file(NET))
    shutil.rmtree(bundle)
    write_json(folder / FUSION, {"method": "uniform", "weights": {NET: 1.0}, "temperature": 1.5})
    yaml = YAML()
    content = yaml.load(root / "params.yaml")
    content["backbones"] = {NET: content["backbones"]["resnet50"]}
    content["backbones"][NET].update(image_size=32, eval_resize=32)
    yaml.dump(content, folder / "params.yaml")
    return folder


def run_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Fer:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        return run_fer(monkeypatch, capsys, "predict", *arguments)

    return run


@pytest.fixture
def fer(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fer:
    return run_in(trained, monkeypatch, capsys)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "csv": pd.read_csv,
    "parquet": pd.read_parquet,
    "jsonl": lambda path: pd.read_json(path, lines=True),
}


@pytest.mark.parametrize("ending", READERS)
def test_a_file_has_a_row_for_each_face_in_order(
    ending: str, fer: Fer, trained: Path, params: Params, tmp_path: Path
) -> None:
    good = {f"{row:02}.png": encode(face) for row, face in enumerate(FACES[:9])}
    (tmp_path / "faces.zip").write_bytes(zip_bytes(good | {"05.png": b"a text"}))
    output = tmp_path / "new folder" / f"faces.{ending}"
    status, out, err = fer(
        str(tmp_path / "faces.zip"), "--output", str(output), "--singles", "--batch-size", "9"
    )
    assert (status, out) == (1, "")
    assert err == (
        f"error: 1 of 9 faces can't be read: column 'error' of {output} says why; the others are "
        "done\n"
    )
    rows = READERS[ending](output)
    assert rows["image"].tolist() == [f"{tmp_path}/faces.zip: 0{row}.png" for row in range(9)]
    assert rows["error"].notna().tolist() == [row == 5 for row in range(9)]
    assert rows["error"][5] == "picture can't be read: unknown format"
    assert rows.loc[5, [*EMOTIONS, "expression", f"{NET}.angry"]].isna().all()

    model = FusedPredictor.load(write_bundle_of(trained, params, tmp_path))
    wanted = model.predict(np.delete(FACES[:9], 5, axis=0))
    read = rows.drop(5)
    np.testing.assert_allclose(read[list(EMOTIONS)], wanted.probabilities, atol=1e-6)
    assert read["expression"].tolist() == [EMOTIONS[k] for k in wanted.logits.argmax(axis=1)]
    singles = read[[f"{NET}.{emotion}" for emotion in EMOTIONS]]
    np.testing.assert_allclose(singles, wanted.single_probabilities[NET], atol=1e-6)


def test_a_few_faces_are_computed_as_on_record_unless_asked_otherwise(
    fer: Fer, trained: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = content_digest([trained / FUSION, trained / model_file(NET)])
    verdict = {"model_sha256": sha256, "bf16": {"accuracy": 0.0, "probability": 0.001}}
    write_json(trained / VERDICT, verdict)
    monkeypatch.setattr("fer_pipeline.serving.speed.MIN_GAIN", 0.0)  # bf16 counts as faster
    np.savez(tmp_path / "few.npz", images=FACES[:3])
    np.savez(tmp_path / "many.npz", images=FACES[np.arange(65) % 3])
    exact = FusedPredictor.load(write_bundle_of(trained, params, tmp_path)).predict(FACES[:3])

    def off(name: str, *options: str) -> float:
        output = tmp_path / f"{name}.parquet"
        status, out, _ = fer(str(tmp_path / f"{name}.npz"), "--output", str(output), *options)
        assert (status, out.endswith(f" faces in {output}\n")) == (0, True)
        found = pd.read_parquet(output)[list(EMOTIONS)][:3]
        return float(np.abs(found - exact.probabilities).to_numpy().max())

    assert off("few") < 1e-6
    assert off("few", "--precision", "bf16") > 1e-6
    assert off("many") > 1e-6
    write_json(trained / VERDICT, verdict | {"model_sha256": "of other weights"})
    assert off("many") < 1e-5
    (trained / VERDICT).unlink()


def write_bundle_of(trained: Path, params: Params, folder: Path) -> Path:
    """The same model as a bundle."""
    member = {"name": NET, "weight": 1.0, "image_size": 32, "eval_resize": 32}
    spec = {"members": [member], "temperature": 1.5, "tta": params.predict.tta}
    write_json(folder / "spec.json", spec)
    (folder / f"{NET}.safetensors").symlink_to(trained / model_file(NET))
    return folder


def test_without_a_file_the_screen_shows_the_table_and_says_what_cannot_be_read(
    fer: Fer, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(encode(FACES[0]))
    (tmp_path / "b.jpg").write_bytes(b"a text")
    status, out, err = fer(str(tmp_path))
    assert status == 1
    assert sum(f"{tmp_path}/a.png" in line for line in out.splitlines()) == 1
    assert err == (
        f"{tmp_path}/b.jpg: picture can't be read: unknown format\n"
        "error: 1 of 2 faces can't be read: the lines above say why; the others are done\n"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--output", "faces.txt"], "faces.txt has none of the endings .csv, .parquet, .jsonl"),
        (["--output", "folder.csv"], "folder.csv is a folder: name a file in it"),
        (["--output", "a.png/out.csv"], "a.png/out.csv can't be written ("),
        (["away.png", "--output", "out.csv"], "away.png is missing: give pictures, folders"),
        (["folder.csv"], "folder.csv holds no face"),
        (["--model", "models:/nobody@champion"], "the registry has no nobody"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work_and_leaves_nothing(
    words: list[str],
    says: str,
    root: Path,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There is no model: whoever looked for it first would say so."""
    shutil.copy(root / "params.yaml", tmp_path)
    shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "a.png").write_bytes(encode(FACES[0]))
    (tmp_path / "folder.csv").mkdir()
    there = sorted(tmp_path.iterdir())
    status, out, err = run_in(tmp_path, monkeypatch, capsys)("a.png", *words)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"error: {says}")
    assert sorted(tmp_path.iterdir()) == there


def test_what_the_reading_refuses_is_not_taken_for_a_fault_of_the_output(tmp_path: Path) -> None:
    def read() -> None:
        try:
            (tmp_path / "away").read_bytes()
        except OSError as error:
            raise DataError("faces.zip is damaged") from error

    with pytest.raises(DataError, match=r"^faces\.zip is damaged"), open_output(tmp_path / "o.csv"):
        read()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def long_run(trained: Path, small: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`fer predict` in the middle of many faces, with a process that reads."""
    images = [bytes([n % 256]) * 2304 for n in range(50_000)]
    (tmp_path / "faces.parquet").write_bytes(parquet_bytes({"image": images}))
    code = "from fer_pipeline.cli.main import main; main()"
    command = [sys.executable, "-c", code, "predict", str(tmp_path / "faces.parquet")]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "out.csv"), "--batch-size", "16"],
        cwd=trained, env=os.environ | {"PYTHONPATH": str(small)},
        start_new_session=True, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # after '&'
    )  # fmt: skip
    partial = tmp_path / ".partial-out.csv"
    wait_until(lambda: partial.exists() and partial.stat().st_size, "no row was written")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_end_in_the_middle_leaves_no_file_and_no_process(
    how: signal.Signals, long_run: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    family = psutil.Process(long_run.pid).children(recursive=True)
    assert family
    if how == signal.SIGINT:
        os.killpg(long_run.pid, how)  # as a terminal does
    else:
        long_run.send_signal(how)
    assert long_run.wait(WITHIN_S) == (130 if how == signal.SIGINT else -how)
    wait_until(lambda: not any(one.is_running() for one in family), "a process is left")
    assert not (tmp_path / "out.csv").exists()
    assert long_run.stderr is not None
    assert b"Traceback" not in long_run.stderr.read()
    if how == signal.SIGINT:
        assert [path.name for path in tmp_path.iterdir()] == ["faces.parquet"]

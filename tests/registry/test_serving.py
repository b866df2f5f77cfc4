"""The registered model behind MLflow's own server, started as anybody would start it."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fused_model import NAME, draw_test_split, make_bundle, register_bundle
from mlflow_server import free_port, wait_for
from PIL import Image
from processes import WITHIN_S

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.params.schema import Params
from fer_pipeline.registry.aliases import CHAMPION
from fer_pipeline.registry.tracking import Tracking
from fer_pipeline.serving.predictor import FusedPredictor

pytestmark = pytest.mark.slow

BACKBONES = ("resnet50", "inception_v3")
SPLIT = draw_test_split()


@pytest.fixture(scope="module")
def bundle(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bundle")
    yield make_bundle(params, folder, BACKBONES)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> FusedPredictor:
    return FusedPredictor.load(bundle)


@pytest.fixture(scope="module")
def server(store: Tracking, bundle: Path, tmp_path_factory: Any) -> Iterator[str]:
    """The address of `mlflow models serve`, in a folder and an environment without the project."""
    number = register_bundle(store, bundle, SPLIT)
    store.client.set_registered_model_alias(NAME, CHAMPION, number)
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    log = (folder / "log.txt").open("wb")
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@champion"),
        *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)),
    ]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=kept
        | {
            "MLFLOW_TRACKING_URI": store.uri,
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, folder / "log.txt")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        log.close()


def ask(server: str, **body: object) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    return send(server, json.dumps(body).encode(), "application/json")


def send(server: str, content: bytes, kind: str) -> tuple[int, Any]:
    request = urllib.request.Request(server, content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def as_base64(pixels: np.ndarray, kind: str, mode: str = "L") -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


def rows(answer: Any, prefix: str = "") -> np.ndarray:
    return np.array(
        [[row[f"{prefix}{name}"] for name in EMOTIONS] for row in answer["predictions"]]
    )


def test_arrays_are_answered_by_probabilities_with_the_names_of_the_emotions(
    server: str, predictor: FusedPredictor
) -> None:
    status, answer = ask(server, inputs=SPLIT.images[:3].tolist())
    assert status == 200
    assert [set(row) for row in answer["predictions"]] == [set(EMOTIONS)] * 3
    np.testing.assert_allclose(
        rows(answer), predictor.predict(SPLIT.images[:3]).probabilities, atol=1e-5
    )


def test_pictures_are_answered_like_their_pixels(server: str, predictor: FusedPredictor) -> None:
    sent = [as_base64(SPLIT.images[0], "PNG"), as_base64(SPLIT.images[1], "PNG", "RGB")]
    sent[1] = f"data:image/png;base64,{sent[1]}"
    status, answer = ask(server, inputs=sent)
    assert status == 200
    np.testing.assert_allclose(
        rows(answer), predictor.predict(SPLIT.images[:2]).probabilities, atol=1e-5
    )


def test_a_jpeg_of_another_size_is_answered(server: str) -> None:
    big = np.asarray(Image.fromarray(SPLIT.images[0]).resize((200, 220)))
    status, answer = ask(server, inputs=[as_base64(big, "JPEG")])
    assert status == 200
    assert rows(answer).sum() == pytest.approx(1.0, abs=1e-5)


def test_single_backbones_and_logits_are_answered_on_request(
    server: str, predictor: FusedPredictor
) -> None:
    sent = SPLIT.images[:2]
    status, answer = ask(server, inputs=sent.tolist(), params={"singles": True})
    assert status == 200
    expected = predictor.predict(sent)
    for name, chances in expected.single_probabilities.items():
        np.testing.assert_allclose(rows(answer, f"{name}."), chances, atol=1e-5)
    np.testing.assert_allclose(rows(answer), expected.probabilities, atol=1e-5)

    asked = {"singles": True, "output": "logits"}
    status, answer = ask(server, inputs=sent.tolist(), params=asked)
    assert status == 200
    np.testing.assert_allclose(rows(answer), expected.logits, atol=1e-4)
    for name, logits in expected.single_logits.items():
        np.testing.assert_allclose(rows(answer, f"{name}."), logits, atol=1e-4)


def test_many_clients_get_the_answers_of_one_and_the_health_check_does_not_wait_for_them(
    server: str, predictor: FusedPredictor
) -> None:
    parts = np.split(np.concatenate([SPLIT.images] * 4), [200, 201, 203, 206, 210, 215])
    with ThreadPoolExecutor(len(parts)) as clients:
        answers = [clients.submit(ask, server, inputs=images.tolist()) for images in parts]
        for path in ("ping", "health"):
            with urllib.request.urlopen(
                server.replace("invocations", path), timeout=WITHIN_S
            ) as healthy:
                assert healthy.status == 200
        assert not all(one.done() for one in answers)
    for one, images in zip(answers, parts, strict=True):
        status, answer = one.result()
        assert status == 200
        # Computed in other batches than here, and summed in another order.
        np.testing.assert_allclose(rows(answer), predictor.predict(images).probabilities, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": SPLIT.images[:1, :47].tolist()}, "image 0 is not 48 lists of 48 numbers"),
        ({"inputs": SPLIT.images[0].tolist()}, "a list around one image too"),
        ({"inputs": 7}, "no images"),
        ({"instances": SPLIT.images[:1].tolist()}, "must be a dictionary with 'inputs' key"),
        ({"inputs": (SPLIT.images[:1] + 0.5).tolist()}, "pixels from"),
        ({"inputs": (SPLIT.images[:1].astype(int) + 1).tolist()}, "pixels from"),
        ({"inputs": {"face": [1]}}, "send N x 48 x 48"),
        ({"inputs": []}, "send N x 48 x 48"),
        ({"inputs": ["no picture!"]}, "image 0 is no base64"),
        ({"inputs": [base64.b64encode(b"no picture").decode()]}, "image 0: picture can't be read"),
        ({"inputs": np.zeros((1025, 1)).tolist()}, "1025 images in one request"),
        ({"inputs": SPLIT.images[:1].tolist(), "params": {"output": "hats"}}, "output is 'hats'"),
        ({"inputs": SPLIT.images[:1].tolist(), "params": {"singles": "hats"}}, "boolean"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]]}}, "with 'inputs' key"),
        ({"pictures": []}, "inputs"),
    ],
)
def test_what_is_no_face_is_refused_with_the_reason(
    server: str, body: dict[str, Any], says: str
) -> None:
    assert SPLIT.images[0].max() == 255
    status, answer = ask(server, **body)
    assert status == 400
    assert says in answer["message"]
    assert "Traceback" not in answer["message"]
    # What was sent may be a picture of somebody, and logs keep what clients are told.
    assert says == "boolean" or len(answer["message"]) < 300  # of params MLflow speaks itself


def test_a_picture_that_is_refused_is_not_sent_back(server: str) -> None:
    sent = as_base64(SPLIT.images[0], "PNG")
    status, answer = ask(server, inputs=[sent, sent[:100]])
    assert status == 400
    assert answer["message"].startswith("image 1: picture")
    assert sent[:40] not in json.dumps(answer)


def memory_bytes(name: str, process: psutil.Process) -> int:
    """A figure of /proc/PID/status: `VmRSS` is what it has now, `VmHWM` the most it has had."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(text.partition(f"{name}:")[2].split()[0])


def many_rows() -> bytes:
    """800 MB of zeros as Parquet, in a few kilobytes."""
    stream, rows = io.BytesIO(), pa.table({"a": np.zeros(1_000_000)})
    with pq.ParquetWriter(stream, rows.schema) as writer:
        for _ in range(100):
            writer.write_table(rows)
    return stream.getvalue()


LONG_AND_SHORT = ["A" * 2**20] + ["A"] * 2000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("json", json.dumps({"inputs": LONG_AND_SHORT}).encode()),
        ("json", json.dumps({"inputs": LONG_AND_SHORT[:1000]}).encode()),
        ("json", json.dumps({"inputs": [[LONG_AND_SHORT]]}).encode()),
        ("json", json.dumps({"instances": LONG_AND_SHORT}).encode()),
        ("json", json.dumps({"dataframe_records": [{"a": LONG_AND_SHORT}]}).encode()),
        ("csv", b"1," * 500_000),
        ("vnd.apache.parquet", many_rows()),
    ],
    ids=["texts", "few texts", "texts in lists", "instances", "records", "CSV", "Parquet"],
)
def test_a_small_request_takes_little_memory(server: str, kind: str, content: bytes) -> None:
    assert len(content) < 2**20 + 2**14
    port = int(server.split(":")[2].split("/")[0])
    (process,) = (
        one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port
    )
    served = psutil.Process(process)
    Path(f"/proc/{process}/clear_refs").write_text("5")  # the most from here on
    before = memory_bytes("VmRSS", served)
    kind = f"application/{kind}" if kind != "csv" else "text/csv"
    assert send(server, content, kind)[0] == 400
    assert memory_bytes("VmHWM", served) - before < 200 * 2**20

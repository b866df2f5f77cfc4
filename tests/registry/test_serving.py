"""The registered model behind MLflow's own server, started as anybody would start it."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fused_model import NAME, draw_test_split, make_bundle, register_bundle
from PIL import Image

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.params.schema import Params
from fer_pipeline.registry.aliases import CHAMPION
from fer_pipeline.registry.tracking import Tracking
from fer_pipeline.serving.predictor import FusedPredictor

pytestmark = pytest.mark.slow

START_TIMEOUT_S = 180
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
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
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
        _wait_for(f"http://127.0.0.1:{port}/ping", process, folder / "log.txt")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        log.close()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def ask(server: str, **body: object) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    request = urllib.request.Request(
        server, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
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


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_arrays_are_answered_by_probabilities_with_the_names_of_the_emotions(
    server: str, predictor: FusedPredictor, key: str
) -> None:
    status, answer = ask(server, **{key: SPLIT.images[:3].tolist()})
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


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": SPLIT.images[:1, :47].tolist()}, "images of shape 1 x 47 x 48"),
        ({"inputs": SPLIT.images[0].tolist()}, "one image needs a list around it"),
        ({"inputs": 7}, "images of shape a single number"),
        ({"inputs": (SPLIT.images[:1] + 0.5).tolist()}, "pixels from"),
        ({"inputs": (SPLIT.images[:1].astype(int) + 1).tolist()}, "pixels from"),
        ({"inputs": {"face": [1]}}, "send N x 48 x 48"),
        ({"inputs": []}, "send N x 48 x 48"),
        ({"inputs": ["no picture!"]}, "image 0 is no base64"),
        ({"inputs": [base64.b64encode(b"no picture").decode()]}, "image 0: picture can't be read"),
        ({"inputs": np.zeros((1025, 1)).tolist()}, "1025 images in one request"),
        ({"inputs": SPLIT.images[:1].tolist(), "params": {"output": "hats"}}, "output is 'hats'"),
        ({"inputs": SPLIT.images[:1].tolist(), "params": {"singles": "hats"}}, "boolean"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]]}}, "send N x 48 x 48"),
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

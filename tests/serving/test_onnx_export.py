"""The ONNX graph in ONNX Runtime against the fused model, and what keeps one from being written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fused_model import draw_test_split, make_bundle
from onnxruntime import InferenceSession
from safetensors.torch import load_file, save_file

from fer_pipeline.data.faces import Split
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError, FusionError
from fer_pipeline.models.transforms import distinct_views, view_batch
from fer_pipeline.params.load import load_params
from fer_pipeline.params.schema import Tta
from fer_pipeline.serving.bundle import Bundle, Spec, open_bundle
from fer_pipeline.serving.onnx_export import export_onnx, require_same, view_matrices
from fer_pipeline.serving.predictor import FusedPredictor

NAME = "fer-fusion version 3"
VAL = draw_test_split(images=24)


@contextmanager
def no_bar(label: str, images: int) -> Iterator[Callable[[int], None]]:
    yield lambda count: None


@pytest.fixture(scope="module")
def bundle(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two networks of unlike weight, one of which crops its views."""
    names = ("resnet50", "inception_v3")
    folder = make_bundle(load_params(root / "params.yaml"), tmp_path_factory.mktemp("onnx"), names)
    drawn = open_bundle(folder, NAME)
    resnet, inception = drawn.spec.members
    members = (replace(resnet, weight=0.8, eval_resize=40), replace(inception, weight=0.2))
    return replace(drawn, spec=Spec(members, 0.01, "five_crops_flip"))


@pytest.fixture(scope="module")
def single(bundle: Bundle) -> Bundle:
    """Only the smaller network: what int8 does to a graph takes a while."""
    member = replace(bundle.spec.members[0], weight=1.0)
    return replace(bundle, spec=Spec((member,), 0.01, "centre"))


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> FusedPredictor:
    return FusedPredictor(bundle.spec, bundle.files)


@pytest.fixture(scope="module")
def exported(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "fused.onnx"
    assert export_onnx(bundle, VAL, path, no_bar, int8=False).difference < 1e-5
    return path


@pytest.mark.parametrize("tta", ["centre", "flip", "five_crops_flip"])
@pytest.mark.parametrize(("image_size", "resize"), [(40, 44), (75, 75), (75, 82)])
def test_the_matrices_make_what_view_batch_makes(tta: Tta, image_size: int, resize: int) -> None:
    images = torch.from_numpy(VAL.images[:2])
    rows, columns = view_matrices(image_size, resize, tta)
    views = distinct_views(tta, image_size, resize)
    assert rows.shape == (len(views), image_size, 48)
    for row, column, view in zip(rows, columns, views, strict=True):
        wanted = view_batch(images, image_size, resize, view)[:, 0]
        torch.testing.assert_close(row @ (images / 127.5 - 1) @ column, wanted, atol=2e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_onnx_runtime_gives_the_models_probabilities_for_any_number_of_images(
    count: int, exported: Path, predictor: FusedPredictor
) -> None:
    images = VAL.images[-count:]
    (found,) = InferenceSession(exported).run(None, {"images": images})
    wanted = predictor.predict(images).probabilities
    assert found.shape == (count, 7)
    assert wanted.std() > 0.05  # a constant answer would fit whatever the views and weights are
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_the_file_says_what_it_holds(exported: Path, bundle: Bundle) -> None:
    session = InferenceSession(exported)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["labels"]) == list(EMOTIONS)
    assert (said["model"], said["precision"]) == (NAME, "fp32")
    assert json.loads(said["spec"]) == json.loads(json.dumps(asdict(bundle.spec)))
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape) == (
        "tensor(uint8)",
        ["N", 48, 48],
    )


@pytest.mark.slow
def test_int8_computes_the_network_in_int8(single: Bundle, tmp_path: Path) -> None:
    """All answers are wrong before and after: no accuracy is lost."""
    path, wrong = tmp_path / "int8.onnx", relabelled(single, rank=0)
    assert export_onnx(single, wrong, path, no_bar, int8=True).accuracy == (0.0, 0.0)
    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    convolved = [
        [made_by[one] for one in node.input[:2]] for node in graph.node if node.op_type == "Conv"
    ]
    assert {node.op_type for pair in convolved for node in pair} == {"DequantizeLinear"}
    held = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for _, weights in convolved:  # others are computed in float32 by OpenVINO
        values, _, zero_points = (held[name] for name in weights.input)
        assert (values.dtype, zero_points.any()) == (np.int8, False)
    session = InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map["precision"] == "int8"
    (found,) = session.run(None, {"images": VAL.images[:3]})
    wanted = FusedPredictor(single.spec, single.files).predict(VAL.images[:3]).probabilities
    assert 1e-4 < np.abs(found - wanted).max() < 0.5


@pytest.mark.slow
def test_int8_that_loses_accuracy_is_refused_and_nothing_is_written(
    single: Bundle, tmp_path: Path
) -> None:
    """A channel that counts for nothing is so large that int8 has no steps left for the others."""
    state = load_file(single.files["resnet50"])
    state["bn1.weight"][0] = 1e5
    for consumer in ("conv1", "downsample.0"):
        state[f"layer1.0.{consumer}.weight"][:, 0] = 0
    weights = tmp_path / "weights.safetensors"
    spoilt = replace(single, files={"resnet50": weights})
    for _ in range(2):  # then with a mean of zero, so that not all images are of one class
        save_file(state, weights)
        logits = FusedPredictor(spoilt.spec, spoilt.files).predict(VAL.images).logits
        state["fc.bias"] -= torch.from_numpy(logits.mean(axis=0))
    val = relabelled(spoilt, rank=-1)
    assert len(set(val.labels)) > 1
    with pytest.raises(FusionError, match=r"where float32 has 100.00%: .* leave out --int8"):
        export_onnx(spoilt, val, tmp_path / "out" / "int8.onnx", no_bar, int8=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("wrong", [0.5002, float("nan")])
def test_a_graph_with_other_probabilities_is_refused(wrong: float) -> None:
    right = np.full((2, 7), 0.5, np.float32)
    assert require_same(right + np.float32(5e-5), right) < 1e-4
    found = right.copy()
    found[1, 3] = wrong
    with pytest.raises(FusionError, match=r"differ from the model's by up to .* nothing was"):
        require_same(found, right)


def test_a_path_that_cant_be_written_is_refused_before_the_work(
    bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    nothing = replace(bundle, files={})
    for path, said in (
        (tmp_path / "file" / "fused.onnx", "can't be written"),
        (tmp_path, "folder"),
        (tmp_path / "fused.pt", r"does not end in \.onnx"),
    ):
        with pytest.raises(DataError, match=said):
            export_onnx(nothing, VAL, path, no_bar, int8=False)


@pytest.mark.slow
def test_onnx_runtime_keeps_no_record_of_its_use(tmp_path: Path) -> None:
    """It would write an identifier of the device into the home folder, and send what it sees."""
    code = "import fer_pipeline.serving.onnx_export, onnxruntime"
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], env=kept | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob(".onnxruntime")) == []


def relabelled(bundle: Bundle, rank: int) -> Split:
    """Val with the class that the model finds the least (0) or the most (-1) probable."""
    order = FusedPredictor(bundle.spec, bundle.files).predict(VAL.images).logits.argsort(axis=1)
    return replace(VAL, labels=order[:, rank])

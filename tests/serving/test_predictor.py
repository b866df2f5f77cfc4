"""The predictor against its parts: two real backbones, fused by hand."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fused_model import SMALL, draw_network, make_bundle
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torchvision.models import ShuffleNetV2

from fer_pipeline.errors import FusionError, WeightsError
from fer_pipeline.fusion.average import fuse
from fer_pipeline.fusion.result import Fusion
from fer_pipeline.models.backbones import load_trained
from fer_pipeline.models.inference import compute_logits, pick_device
from fer_pipeline.params.schema import BackboneParams, Params, Tta
from fer_pipeline.serving import engine
from fer_pipeline.serving.bundle import (
    Bf16Change,
    Bundle,
    change_tag,
    describe,
    open_bundle,
    read_change,
    read_spec,
    weights_file,
    write_bundle,
    write_change,
)
from fer_pipeline.serving.predictor import BATCH_SIZE, FusedPredictor
from fer_pipeline.serving.speed import measure_change, pick_predictor

# The bundle is shared: one worker runs all of it.

CROPPED, WHOLE = SMALL
SIZES = {CROPPED: (32, 36), WHOLE: (32, 32)}
FUSION = Fusion("nll", {WHOLE: 0.25, CROPPED: 0.75}, 1.6)
TTA: Tta = "five_crops_flip"


@pytest.fixture(scope="module")
def bundle(params: Params, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two untrained backbones, with batch norm statistics that are not those of a new network."""
    folder = tmp_path_factory.mktemp("fused")
    backbones: dict[str, BackboneParams] = {}
    files: dict[str, Path] = {}
    torch.manual_seed(0)
    for name, (image_size, eval_resize) in SIZES.items():
        model = draw_network(name)
        files[name] = folder / f"{name}.safetensors"
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(state, files[name])
        sizes = {"image_size": image_size, "eval_resize": eval_resize}
        backbones[name] = params.backbones["resnet50"].model_copy(update=sizes)
    write_bundle(folder / "bundle", describe(FUSION, backbones, TTA), files)
    return folder / "bundle"


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> FusedPredictor:
    return FusedPredictor.load(bundle)


@pytest.fixture(scope="module")
def images() -> npt.NDArray[np.uint8]:
    """More than one batch."""
    return np.random.default_rng(0).integers(0, 256, (BATCH_SIZE + 3, 48, 48), np.uint8)


@pytest.fixture(scope="module")
def singles(bundle: Path, images: npt.NDArray[np.uint8]) -> Tensor:
    """(2, N, 7) logits of each backbone by itself, in the order of `SIZES`."""
    pixels = torch.from_numpy(images).to(pick_device())
    return torch.stack(
        [
            compute_logits(
                load_trained(name, weights_file(bundle, name)).to(pixels.device),
                pixels,
                *sizes,
                8,
                tta=TTA,
            ).cpu()
            for name, sizes in SIZES.items()
        ]
    )


@pytest.fixture(scope="module")
def fused(predictor: FusedPredictor, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return predictor.predict(images).logits


def test_logits_are_the_fused_logits_of_the_single_backbones(
    fused: npt.NDArray[np.float32], singles: Tensor
) -> None:
    assert fused.shape == (BATCH_SIZE + 3, 7)
    assert fused.dtype == np.float32
    wanted = fuse(singles.numpy(), np.array([0.75, 0.25]))
    np.testing.assert_allclose(fused, wanted, atol=1e-4, rtol=1e-4)
    swapped = fuse(singles.numpy(), np.array([0.25, 0.75]))
    assert not np.allclose(fused, swapped, atol=1e-3)


def test_the_test_time_augmentation_is_the_bundles(
    copied: Path, images: npt.NDArray[np.uint8], fused: npt.NDArray[np.float32]
) -> None:
    change_spec(copied, f'"{TTA}"', '"centre"')
    centre = FusedPredictor.load(copied).predict(images[:4]).logits
    assert np.abs(centre - fused[:4]).max() > 1e-3


def test_probabilities_are_the_softmax_over_the_bundles_temperature(
    predictor: FusedPredictor, images: npt.NDArray[np.uint8], fused: npt.NDArray[np.float32]
) -> None:
    chances = predictor.predict(images).probabilities
    powers = np.exp(fused / FUSION.temperature)
    np.testing.assert_allclose(chances, powers / powers.sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, atol=1e-6)


def test_a_face_is_judged_by_itself(
    predictor: FusedPredictor, images: npt.NDArray[np.uint8], fused: npt.NDArray[np.float32]
) -> None:
    alone = np.concatenate([predictor.predict(images[[n]]).logits for n in (0, 2)])
    np.testing.assert_allclose(alone, fused[[0, 2]], atol=1e-4, rtol=1e-4)


def test_images_may_lie_in_memory_in_any_order(
    predictor: FusedPredictor, images: npt.NDArray[np.uint8], fused: npt.NDArray[np.float32]
) -> None:
    turned = np.asfortranarray(images[:2])
    np.testing.assert_allclose(predictor.predict(turned).logits, fused[:2], atol=1e-4, rtol=1e-4)


def test_single_logits_come_from_the_same_single_run_of_every_network(
    predictor: FusedPredictor, images: npt.NDArray[np.uint8], singles: Tensor
) -> None:
    runs: list[nn.Module] = []
    hook = register_module_forward_hook(lambda module, *_: runs.append(module))
    found = predictor.predict(images[:2])
    hook.remove()
    # Ten views of the cropped network; of the other, whose crop is the whole image, two.
    networks = [one.conv5[0].in_channels for one in runs if isinstance(one, ShuffleNetV2)]
    assert networks == [192] * 10 + [464] * 2
    for name, logits in zip(SIZES, singles[:, :2], strict=True):
        np.testing.assert_allclose(found.single_logits[name], logits, atol=1e-4, rtol=1e-4)
        chances = torch.softmax(logits, dim=1)
        np.testing.assert_allclose(found.single_probabilities[name], chances, atol=1e-5)


@pytest.fixture
def large(params: Params, tmp_path: Path) -> Bundle:
    """Networks as they are used: of the small ones bf16 says something else."""
    made = open_bundle(make_bundle(params, tmp_path, ("resnet50", "inception_v3")), "untrained")
    resnet, inception = made.spec.members
    members = (replace(resnet, eval_resize=36), inception)
    return replace(made, spec=replace(made.spec, members=members, tta=TTA))


@pytest.mark.slow
def test_bf16_says_nearly_the_same_and_also_of_more_images_than_go_through_at_once(
    large: Bundle, images: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "CPU_PIXELS", 10 * 75 * 75 * 4)
    wanted = FusedPredictor(large.spec, large.files).predict(images)
    found = FusedPredictor(large.spec, large.files, "bf16").predict(images)
    for name, logits in wanted.single_logits.items():
        # bf16 has eight bits: a few per mille of the spread, and not the same to the last digit.
        error = np.abs(found.single_logits[name] - logits).max()
        assert 0 < error < 0.05 * np.ptp(logits)
    assert np.abs(found.probabilities - wanted.probabilities).max() < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on GPUs")
def test_captured_batches_of_any_size_say_nearly_the_same(large: Bundle) -> None:
    predictor = FusedPredictor(large.spec, large.files)
    fast = FusedPredictor(large.spec, large.files, "bf16", "cuda")
    rng = np.random.default_rng(2)
    for count in (1, 5, 33, 130):
        for _ in range(5):  # the first calls are not replayed yet
            images = rng.integers(0, 256, (count, 48, 48), np.uint8)
            found, wanted = fast.predict(images), predictor.predict(images)
            assert np.abs(found.probabilities - wanted.probabilities).max() < 0.02


def test_bf16_is_taken_only_where_its_change_is_known_and_small(bundle: Path) -> None:
    model = open_bundle(bundle, "the model")
    for change in (None, Bf16Change(0.0021, 0.0), Bf16Change(-0.0021, 0.0), Bf16Change(0.0, 0.021)):
        assert pick_predictor(replace(model, bf16=change)).precision == "fp32"
    assert Bf16Change(-0.002, 0.02).allowed
    assert pick_predictor(model, "bf16").precision == "bf16"
    with pytest.raises(FusionError, match="no precision 'int8': choose one of auto, fp32, bf16"):
        pick_predictor(model, "int8")


def test_the_change_is_measured_against_the_logits_on_record(bundle: Path) -> None:
    predictor = FusedPredictor.load(bundle)
    images = np.random.default_rng(1).integers(0, 256, (8, 48, 48), np.uint8)
    logits = predictor.predict(images).logits.astype(np.float64)
    labels = logits.argmax(axis=1)

    same = measure_change(predictor, images, labels, logits)
    other = measure_change(predictor, images, labels, -logits)

    assert same.accuracy == 0
    assert same.probability < 1e-6
    assert other.accuracy == 1  # right on all, where the record is right on none
    assert other.probability > 0.001


def test_what_bf16_changes_is_kept_beside_a_version_and_in_its_tags(tmp_path: Path) -> None:
    for change in (None, Bf16Change(-0.0005, 0.0125)):
        write_change(change, tmp_path)
        assert read_change(tmp_path) == change
    told = {"allowed": True, "accuracy": -0.0005, "probability": 0.0125}
    assert json.loads(change_tag(change)["bf16"]) == told
    assert change_tag(None) == {"bf16": "null"}
    assert read_change(tmp_path / "older") is None


def test_a_device_that_is_not_there_is_refused_in_one_line(bundle: Path) -> None:
    spec = read_spec(bundle)
    for device, said in (("tpu", "no device 'tpu': choose"), ("cuda", "no CUDA GPU here")):
        if device == "cuda" and torch.cuda.is_available():
            continue
        with pytest.raises(FusionError, match=said):
            FusedPredictor(spec, {}, "fp32", device)


def test_threads_are_those_of_the_free_cores_unless_the_user_has_chosen(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, too_many = torch.get_num_threads(), 4 * (os.cpu_count() or 1)
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(too_many)
        FusedPredictor.load(bundle)
        assert torch.get_num_threads() == too_many
        monkeypatch.delenv("OMP_NUM_THREADS")
        FusedPredictor.load(bundle)
        if pick_device().type == "cpu":
            assert 1 <= torch.get_num_threads() <= (os.cpu_count() or 1)
    finally:
        torch.set_num_threads(before)


def test_no_images_give_no_rows(predictor: FusedPredictor) -> None:
    assert predictor.predict(np.empty((0, 48, 48), np.uint8)).logits.shape == (0, 7)


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """The bundle in a folder of its own, its large files as links."""
    for path in bundle.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def change_spec(folder: Path, old: str, new: str) -> None:
    """Replace the link by a file with another text."""
    spec = (folder / "spec.json").read_text()
    assert old in spec
    (folder / "spec.json").unlink()
    (folder / "spec.json").write_text(spec.replace(old, new))


def test_a_missing_weights_file_is_named(copied: Path) -> None:
    weights_file(copied, WHOLE).unlink()
    with pytest.raises(WeightsError) as refused:
        FusedPredictor.load(copied)
    path = copied / f"{WHOLE}.safetensors"
    assert str(refused.value).startswith(
        f"{path} is no trained {WHOLE} (weights {path} are missing"
    )


def test_weights_of_the_other_backbone_are_refused(copied: Path, bundle: Path) -> None:
    weights_file(copied, WHOLE).unlink()
    weights_file(copied, WHOLE).symlink_to(weights_file(bundle, CROPPED))
    with pytest.raises(WeightsError, match=rf"is no trained {WHOLE} \(does not fit"):
        FusedPredictor.load(copied)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FusionError, match="describes no fused model"):
        FusedPredictor.load(tmp_path)


def test_a_bundle_with_an_unknown_backbone_is_refused(copied: Path) -> None:
    change_spec(copied, f'"{CROPPED}"', '"resnet51"')
    with pytest.raises(FusionError, match="resnet51"):
        FusedPredictor.load(copied)


def test_a_bundle_with_unknown_test_time_augmentation_is_refused(copied: Path) -> None:
    change_spec(copied, f'"{TTA}"', '"144_crops"')
    with pytest.raises(
        FusionError, match="takes the test-time augmentation '144_crops', which this version"
    ):
        FusedPredictor.load(copied)

"""Logits depend on the image alone, are the mean over its views, and computing them leaves the
network as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fer_pipeline.models.backbones import build_backbone, head_of
from fer_pipeline.models.inference import compute_logits, full_float32
from fer_pipeline.models.transforms import VIEWS, centre_batch, view_batch
from fer_pipeline.params.schema import Tta

SIZE, RESIZE = 32, 36


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet50", "none")


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (7, 48, 48), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_the_batch_size_does_not_change_logits(
    batch_size: int, model: nn.Module, images: Tensor
) -> None:
    with torch.inference_mode():
        wanted = model.eval()(centre_batch(images, SIZE, RESIZE))
    found = compute_logits(model, images, SIZE, RESIZE, batch_size)
    assert found.shape == (7, 7)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tta", VIEWS)
def test_logits_are_the_mean_over_the_views(tta: Tta, model: nn.Module, images: Tensor) -> None:
    with torch.inference_mode():
        wanted = torch.stack(
            [model.eval()(view_batch(images, SIZE, RESIZE, view)) for view in VIEWS[tta]]
        ).mean(dim=0)
    found = compute_logits(model, images, SIZE, RESIZE, 3, tta=tta)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_mean_of_logits_is_the_normalised_mean_of_log_probabilities(
    model: nn.Module, images: Tensor
) -> None:
    with torch.inference_mode():
        each = torch.stack(
            [model.eval()(view_batch(images, SIZE, RESIZE, view)) for view in VIEWS["flip"]]
        )
    found = compute_logits(model, images, SIZE, RESIZE, 7, tta="flip").softmax(dim=1)
    geometric = each.log_softmax(dim=2).mean(dim=0).exp()
    torch.testing.assert_close(found, geometric / geometric.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("tta", ["flip", "five_crops_flip"])
def test_with_mirror_images_a_face_and_its_mirror_image_are_judged_alike(
    tta: Tta, model: nn.Module, images: Tensor
) -> None:
    found = compute_logits(model, images, SIZE, RESIZE, 7, tta=tta)
    mirrored = compute_logits(model, images.flip(2), SIZE, RESIZE, 7, tta=tta)
    torch.testing.assert_close(found, mirrored, atol=1e-4, rtol=1e-4)
    centre = compute_logits(model, images, SIZE, RESIZE, 7)
    assert not torch.allclose(found, centre, atol=1e-3)


@pytest.mark.parametrize(("resize", "passes"), [(RESIZE, 10), (SIZE, 2)])
def test_each_distinct_view_is_computed_once(
    resize: int, passes: int, model: nn.Module, images: Tensor
) -> None:
    shapes: list[tuple[int, ...]] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    try:
        compute_logits(model, images, SIZE, resize, 7, tta="five_crops_flip")
    finally:
        handle.remove()
    assert shapes == [(7, 3, SIZE, SIZE)] * passes


def test_the_order_of_images_is_kept(model: nn.Module, images: Tensor) -> None:
    forwards = compute_logits(model, images, SIZE, RESIZE, 2)
    backwards = compute_logits(model, images.flip(0), SIZE, RESIZE, 2)
    torch.testing.assert_close(forwards, backwards.flip(0), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(forwards, backwards)


@pytest.mark.parametrize("training", [True, False])
def test_logits_are_those_of_eval_mode_and_the_mode_is_restored(
    training: bool, model: nn.Module, images: Tensor
) -> None:
    wanted = compute_logits(model.eval(), images, SIZE, RESIZE, 7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train(training)
    assert torch.equal(compute_logits(model, images, SIZE, RESIZE, 7), wanted)
    assert all(module.training is training for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_head_phases_mixed_modes_are_restored(model: nn.Module, images: Tensor) -> None:
    head = head_of(model.eval(), "resnet50").train()
    compute_logits(model, images, SIZE, RESIZE, 7)
    assert not model.training
    assert head.training


def test_every_batch_is_announced_with_its_size(model: nn.Module, images: Tensor) -> None:
    seen: list[int] = []
    compute_logits(model, images, SIZE, RESIZE, 3, seen.append, tta="flip")
    assert seen == [3, 3, 1]


def test_logits_need_no_gradient(model: nn.Module, images: Tensor) -> None:
    assert not compute_logits(model, images, SIZE, RESIZE, 7).requires_grad


def precisions() -> tuple[str, str]:
    backends = torch.backends
    return backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision


def test_shortcuts_are_off_inside_and_as_before_outside() -> None:
    before = precisions()
    with full_float32():
        assert precisions() == ("ieee", "ieee")
    assert precisions() == before
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert precisions() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_convolution_on_a_gpu_is_that_of_the_cpu() -> None:
    torch.manual_seed(0)
    images, kernel = torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3)
    wanted = torch.nn.functional.conv2d(images.double(), kernel.double()).float()
    with full_float32():
        found = torch.nn.functional.conv2d(images.cuda(), kernel.cuda()).cpu()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)

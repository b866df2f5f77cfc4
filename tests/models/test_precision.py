"""Full float32 is asked of a GPU for as long as it is needed, whatever happens meanwhile."""

from __future__ import annotations

import pytest
import torch

from fer_pipeline.models.precision import full_float32


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

"""Logits that another run, batch size or machine can reproduce: float32 without shortcuts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep GPUs from rounding convolutions' inputs to TF32, which PyTorch lets them by default.

    TF32 has ten bits of mantissa: logits then differ in the third decimal between batch sizes and
    machines, and a registered model could not be compared with the logits on record. On a CPU
    nothing changes.
    """
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    matmul = torch.backends.cuda.matmul
    before = convolution.fp32_precision, matmul.fp32_precision
    convolution.fp32_precision = matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision, matmul.fp32_precision = before

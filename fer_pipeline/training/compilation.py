"""torch.compile, where it pays and can be had."""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

log = logging.getLogger(__name__)

_COMPILERS = ("gcc", "clang")


def compile_network(
    model: nn.Module, choice: Literal["auto"] | bool, device: torch.device
) -> nn.Module:
    """The network as it runs in training; its weights stay those of `model`.

    Args:
        model: on its device.
        choice: `auto` compiles on GPUs, if there is the C compiler that this takes; true does in
            any case, and without a compiler the first step fails.
        device: which that is.
    """
    if choice == "auto":
        choice = device.type == "cuda" and _can_compile()
    return cast(nn.Module, torch.compile(model)) if choice else model


def _can_compile() -> bool:
    """Whether Triton finds what it builds the launcher of a GPU's kernels with."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    if header.exists() and ("CC" in os.environ or any(map(shutil.which, _COMPILERS))):
        return True
    log.warning("not compiled: install gcc, and Python's header files, to train faster")
    return False

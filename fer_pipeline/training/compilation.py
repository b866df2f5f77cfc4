"""torch.compile, where it pays and can be had."""

from __future__ import annotations

import logging
import os
import shutil
from typing import Literal, cast

import torch
from torch import nn

log = logging.getLogger(__name__)

_COMPILERS = ("gcc", "clang", "cc")


def compile_network(
    model: nn.Module, choice: Literal["auto"] | bool, device: torch.device
) -> nn.Module:
    """The network as it runs in training; its weights stay those of `model`.

    Args:
        model: on its device.
        choice: `auto` compiles on GPUs, if there is the C compiler that this takes.
        device: which that is.
    """
    if choice == "auto":
        choice = device.type == "cuda" and _compiler_is_there()
    return cast(nn.Module, torch.compile(model)) if choice else model


def _compiler_is_there() -> bool:
    """What builds the launcher of a GPU's kernels looks for it in the same places."""
    if "CC" in os.environ or any(map(shutil.which, _COMPILERS)):
        return True
    log.warning("not compiled, since there is no C compiler: install gcc to train faster")
    return False

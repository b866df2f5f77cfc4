"""A function of tensors recorded once as a CUDA graph, and replayed without Python.

A step of a network is hundreds of small kernels. Launched one by one from Python they take longer
than the GPU needs to run them; a recorded graph of them is launched at once
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

from fer_pipeline.errors import one_line

log = logging.getLogger(__name__)

Inputs = TypeVar("Inputs", bound=tuple[Tensor | None, ...])

WARM_CALLS = 3
"""Calls before the capture: libraries choose their kernels and take their memory in them."""


class Captured(Generic[Inputs]):
    """A function that is called as it is a few times, then captured, then replayed.

    Where capturing fails, one line of the log says why, and the function is called as it is.

    Args:
        work: takes a tuple of tensors (or None, always at the same places) and gives one tensor. It
            makes no choice by a tensor's value, and each call does the same to tensors of the same
            shapes. What it gives is overwritten by the next call.
        label: what the log calls it.
        capturable: asked before the capture; where it is false the function is called as it is.
    """

    def __init__(
        self,
        work: Callable[[Inputs], Tensor],
        label: str,
        capturable: Callable[[], bool] = lambda: True,
    ) -> None:
        self._work, self._label, self._capturable = work, label, capturable
        self._calls = 0
        self._given_up = False
        # The same for the first calls and the capture: autograd remembers where it ran.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Inputs
        self._output: Tensor

    def __call__(self, inputs: Inputs) -> Tensor:
        if self._calls < WARM_CALLS:
            self._calls += 1
            return self._call_beside(inputs)
        if self._given_up or not self._capturable():
            return self._work(inputs)
        if self._graph is None and not self._capture(inputs):
            return self._work(inputs)
        assert self._graph is not None
        for own, given in zip(self._inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self._graph.replay()
        return self._output

    def _call_beside(self, inputs: Inputs) -> Tensor:
        """Call the function on the capture's stream, as torch's documentation asks for."""
        main = torch.cuda.current_stream()
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            output = self._work(inputs)
        main.wait_stream(self._stream)
        return output

    def _capture(self, inputs: Inputs) -> bool:
        """Record the function; what it does happens in the replays alone."""
        own = (None if one is None else one.clone() for one in inputs)
        make = getattr(type(inputs), "_make", tuple)  # a named tuple stays one
        self._inputs = cast(Inputs, make(own))
        graph = torch.cuda.CUDAGraph()
        try:
            # Of this thread alone: another one may be writing a checkpoint.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._output = self._work(self._inputs)
        except RuntimeError as error:
            self._given_up = True
            del graph
            torch.cuda.empty_cache()
            log.warning("%s runs kernel by kernel: not captured (%s)", self._label, one_line(error))
            return False
        self._graph = graph
        return True

    @property
    def captured(self) -> bool:
        """Whether calls are replayed now."""
        return self._graph is not None

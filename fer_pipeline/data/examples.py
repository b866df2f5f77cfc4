"""Single faces that the pages show, picked by the stages that may see the data.

They lie in `.npz` files of plain arrays, so that the stages that draw pages need not open a split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_pipeline.files import read_arrays, whole_file


@dataclass(frozen=True)
class Example:
    """One face that a page shows.

    Attributes:
        kind: the group that it is shown in.
        pixels: (48, 48) uint8.
        facts: what the page says of it, as JSON can hold it.
    """

    kind: str
    pixels: npt.NDArray[np.uint8]
    facts: Mapping[str, Any]


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write examples in their order; the same examples give the same bytes."""
    with whole_file(path) as partial:
        np.savez(
            partial,
            allow_pickle=False,
            pixels=np.array([one.pixels for one in examples], np.uint8),  # (K, 48, 48)
            kinds=np.array([one.kind for one in examples], np.str_),
            facts=np.array([json.dumps(one.facts) for one in examples], np.str_),
        )


def read_examples(path: Path, stage: str) -> tuple[Example, ...]:
    """Read what `write_examples` wrote; `stage` is the one that did.

    Raises:
        DataError: the file is missing or damaged.
    """
    with read_arrays(path, stage) as arrays:
        rows = zip(arrays["kinds"], arrays["pixels"], arrays["facts"], strict=True)
        return tuple(Example(str(kind), own, json.loads(facts)) for kind, own, facts in rows)

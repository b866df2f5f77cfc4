"""How alike the backbones decide: fusing gains only where their errors differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


def agreement(single: Mapping[str, FloatArray], labels: Int64Array) -> dict[str, object]:
    """What `metrics/evaluation.json` says of the backbones beside each other.

    Args:
        single: (N, C) logits per backbone.
        labels: (N,).

    Returns:
        oracle_accuracy, the share of images that one backbone or more gets right: no choice
        among their answers can be right more often. all_agree, the share of images on which all
        predict the same, right or wrong. disagreement, per backbone and other backbone the share
        of images on which their predictions differ. (Kuncheva and Whitaker, 2003, count only
        those on which one of the two is right; here two different errors differ as well.)
    """
    predicted = np.stack([logits.argmax(axis=1) for logits in single.values()])  # (M, N)
    return {
        "oracle_accuracy": float((predicted == labels).any(axis=0).mean()),
        "all_agree": float((predicted == predicted[0]).all(axis=0).mean()),
        "disagreement": {
            name: {
                other: float((own != others).mean())
                for other, others in zip(single, predicted, strict=True)
                if other != name
            }
            for name, own in zip(single, predicted, strict=True)
        },
    }

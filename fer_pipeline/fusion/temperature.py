"""The temperature after fusion.

One temperature is fitted to the fused logits whatever the method, because an average of calibrated
models is not calibrated itself (Rahaman and Thiery, 2021).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from fer_pipeline.arrays import FloatArray, Int64Array
from fer_pipeline.fusion.average import mean_nll, scale_of


def fit_temperature(fused: FloatArray, labels: Int64Array) -> float:
    """The temperature that minimises the NLL of softmax(z / T), Guo et al. 2017.

    It is sought from a hundredth to a hundred times the logits' standard deviation.

    Args:
        fused: (N, C) logits.
        labels: (N,).
    """
    scale = scale_of(fused)
    found = minimize_scalar(
        lambda log_t: mean_nll(fused / (scale * np.exp(log_t)), labels),
        bounds=(np.log(0.01), np.log(100.0)),
        method="bounded",
    )
    return float(scale * np.exp(found.x))

"""The files of a run that `fer compare` reads, made by hand in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_pipeline.data.faces import Split, save_split
from fer_pipeline.evaluation.comparison import TestLogits, compare
from fer_pipeline.evaluation.result import Evaluation, ValAccuracies
from fer_pipeline.files import write_json
from fer_pipeline.fusion.average import fuse
from fer_pipeline.params.schema import EvaluationParams
from fer_pipeline.paths import EVALUATION, FUSION, TEST, predictions

IMAGES = 40
WEIGHTS = {"resnet50": 0.75, "inception_v3": 0.25}
PARAMS = EvaluationParams(bootstrap_draws=500, ece_bins=10)


def write_run(folder: Path, wrong: Sequence[int], test: str = "test-1") -> None:
    """A run whose fused model is wrong on these of 40 images; its Inception-V3 always is.

    Images 0 to 9 are pairs of the same picture. `test` names the test set.
    """
    labels = np.arange(IMAGES) % 7
    groups = np.where(np.arange(IMAGES) < 10, np.arange(IMAGES) // 2, np.arange(IMAGES))
    said = labels.copy()
    said[list(wrong)] = (said[list(wrong)] + 1) % 7
    single = {"resnet50": 2.0 * np.eye(7)[said], "inception_v3": np.eye(7)[(labels + 2) % 7]}
    images = np.zeros((IMAGES, 48, 48), np.uint8)
    none = np.zeros(IMAGES, np.bool_)
    for path in (folder / TEST, folder / FUSION, folder / predictions("resnet50")):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_split(Split(images, labels, groups, none), folder / TEST)
    for name, logits in single.items():
        np.savez(folder / predictions(name), val_logits=logits, test_logits=logits)
    write_json(folder / FUSION, {"method": "nll", "weights": WEIGHTS, "temperature": 1.5})
    fused = fuse(np.stack(list(single.values())), np.array(list(WEIGHTS.values())))
    found = compare(TestLogits(fused, 1.5, single, labels, groups), "resnet50", PARAMS, seed=0)
    val = ValAccuracies(IMAGES, found.fused.accuracy, dict.fromkeys(single, 0.5))
    evaluation = Evaluation("official", test, val, found, methods={}, clean=None)
    write_json(folder / EVALUATION, evaluation.to_json())

"""How long the fusion of val logits takes, as many as FER2013's PublicTest has: 3,589.

    python benchmarks/fusion.py [--rounds N]

    methods      all methods of recipes/paper.yaml prepared and fitted, temperatures included, for
                 3 to 10 backbones
    stability    all methods refitted to the recipe's resamples of val and to five folds
    bootstrap    10,000 draws of the gain's interval; next to it plain Python, which draws groups
                 one by one, and numpy, which draws them together but each resample by itself
                 (both timed over fewer draws, and scaled)

The logits are drawn: every model is right on about 70 % of the images, and errs much as the others
do. Prints tables, and as its last line one JSON object with `methods_s`, `stability_s` and
`bootstrap_s` in seconds, `bootstrap_speedup` over plain Python and `bootstrap_speedup_over_numpy`,
and `methods_s_by_backbones`. Medians over N rounds (default 5).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fer_pipeline.arrays import BoolArray, FloatArray, Int64Array
from fer_pipeline.evaluation.significance import gain_interval
from fer_pipeline.fusion.average import fuse, image_hits
from fer_pipeline.fusion.methods import FittedMethod, fit_methods, prepare_methods
from fer_pipeline.fusion.stability import measure_stability
from fer_pipeline.params.load import load_params
from fer_pipeline.params.schema import FusionParams

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "paper.yaml"
IMAGES = 3_589
BACKBONES = range(3, 11)
DRAWS = 10_000
PYTHON_DRAWS, NUMPY_DRAWS = 50, 500
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="timings of each (default 5)")
    rounds = parser.parse_args().rounds
    settings = load_params(RECIPE).fusion
    labels, logits = draw_logits(max(BACKBONES))
    show_models(logits[:3], labels, settings)
    scaling = {
        models: seconds(lambda m=models: fit_all(logits[:m], labels, settings), rounds)  # type: ignore[misc]
        for models in BACKBONES
    }
    figures = {
        "methods_s": scaling[3],
        "stability_s": time_stability(logits[:3], labels, settings, rounds),
        **time_bootstrap(logits[:3], labels, rounds),
    }
    show("figure", figures)
    show("backbones", {f"{models}, all methods, s": value for models, value in scaling.items()})
    print(json.dumps({**figures, "methods_s_by_backbones": scaling}))


def draw_logits(models: int) -> tuple[Int64Array, FloatArray]:
    """Labels (N,) and logits (M, N, 7) of models that are alike, but not quite as good."""
    rng = np.random.default_rng(SEED)
    labels = rng.integers(0, 7, IMAGES)
    signal = 2.1 * np.eye(7)[labels] + rng.normal(size=(IMAGES, 7))  # what all models see
    own = rng.normal(size=(models, IMAGES, 7))
    return labels, 1.5 * (signal + 0.6 * own * rng.uniform(0.9, 1.1, (models, 1, 1)))


def fit_all(
    logits: FloatArray, labels: Int64Array, settings: FusionParams
) -> dict[str, FittedMethod]:
    return fit_methods(prepare_methods(logits, labels, settings), logits, labels)


def show_models(logits: FloatArray, labels: Int64Array, settings: FusionParams) -> None:
    """What is fused, and what comes of it: the timings are of nothing trivial."""
    hits = image_hits(logits, labels)
    scores = {f"model{number} alone": float(own.mean()) for number, own in enumerate(hits)}
    scores |= {
        name: found.val_accuracy for name, found in fit_all(logits, labels, settings).items()
    }
    scores["images where models differ in being right"] = float((hits != hits[0]).any(0).mean())
    show("val accuracy", scores)


def time_stability(
    logits: FloatArray, labels: Int64Array, settings: FusionParams, rounds: int
) -> float:
    fitters = prepare_methods(logits, labels, settings)
    groups = np.arange(len(labels))
    draws = settings.stability_draws
    return seconds(lambda: measure_stability(fitters, logits, labels, groups, draws, SEED), rounds)


def time_bootstrap(logits: FloatArray, labels: Int64Array, rounds: int) -> dict[str, float]:
    """The interval of the average's gain over the first model, three ways that must agree."""
    fused = fuse(logits, np.full(len(logits), 1 / len(logits)))
    ours, single = image_hits(fused, labels), image_hits(logits[0], labels)
    groups = np.arange(IMAGES)
    groups[-IMAGES // 20 :] = groups[: IMAGES // 20 + 1]  # one in twenty is a copy
    python_gains, numpy_gains = (
        loop(ours, single, groups, draws)
        for loop, draws in ((python_loop, PYTHON_DRAWS), (numpy_loop, NUMPY_DRAWS))
    )
    low, high = gain_interval(ours, single, groups, DRAWS, SEED)
    for gains in (python_gains, numpy_gains):
        if not low < statistics.mean(gains) < high:
            raise SystemExit("the loops and gain_interval do not draw from the same resamples")
    bootstrap = seconds(lambda: gain_interval(ours, single, groups, DRAWS, SEED), rounds)
    plain = seconds(lambda: python_loop(ours, single, groups, PYTHON_DRAWS), rounds)
    arrays = seconds(lambda: numpy_loop(ours, single, groups, NUMPY_DRAWS), rounds)
    return {
        "bootstrap_s": bootstrap,
        "bootstrap_speedup": plain * DRAWS / PYTHON_DRAWS / bootstrap,
        "bootstrap_speedup_over_numpy": arrays * DRAWS / NUMPY_DRAWS / bootstrap,
    }


def python_loop(a: BoolArray, b: BoolArray, groups: Int64Array, draws: int) -> list[float]:
    """Gains of resamples, each made group by group and image by image."""
    members: dict[int, list[int]] = {}
    for image, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(image)
    own, gain = list(members.values()), (a.astype(int) - b.astype(int)).tolist()
    generator = random.Random(SEED)
    gains = []
    for _ in range(draws):
        images = [image for group in generator.choices(own, k=len(own)) for image in group]
        gains.append(sum(gain[image] for image in images) / len(images))
    return gains


def numpy_loop(a: BoolArray, b: BoolArray, groups: Int64Array, draws: int) -> list[float]:
    """Gains of resamples, each made of arrays with one entry per group."""
    _, member = np.unique(groups, return_inverse=True)
    sizes = np.bincount(member)
    gain = np.bincount(member, a.astype(np.int64) - b.astype(np.int64))
    rng = np.random.default_rng(SEED)
    gains = []
    for _ in range(draws):
        drawn = rng.integers(0, len(sizes), len(sizes))
        gains.append(float(gain[drawn].sum() / sizes[drawn].sum()))
    return gains


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The median of so many runs."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def show(title: str, figures: dict[str, float]) -> None:
    table = Table(title, "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()

"""Two runs of the graph side by side: their scores, and the paired test of their fused models.

A run is read from the workspace, from a git revision or from a DVC experiment.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import NoSCMError, RevError
from rich.table import Column, Table

from fer_pipeline.arrays import BoolArray, Int64Array
from fer_pipeline.data.faces import load_split
from fer_pipeline.errors import DataError, FusionError, one_line
from fer_pipeline.evaluation.metrics import METRICS, Scores
from fer_pipeline.evaluation.result import read_evaluation
from fer_pipeline.evaluation.significance import Gain, conclude, gain_over
from fer_pipeline.fusion.average import fuse, image_hits
from fer_pipeline.fusion.predictions import read_logits
from fer_pipeline.fusion.result import read_fusion
from fer_pipeline.paths import DVC_LOCK, EVALUATION, FUSION, PREDICTIONS, TEST, require

if TYPE_CHECKING:
    from fer_pipeline.params.schema import EvaluationParams

WORKSPACE = "workspace"
"""The name under which the files are read as they are now."""


@dataclass(frozen=True)
class RunScores:
    """What one run says about its test set.

    Attributes:
        name: the revision, as it was asked for.
        scores: by model, `fused` first.
        hits: (N,) true where the fused model is right.
        groups: (N,) equal for images with the same pixels.
        test_sha256: of the test images and their labels.
    """

    name: str
    scores: dict[str, Scores]
    hits: BoolArray
    groups: Int64Array
    test_sha256: str


def read_run(revision: str) -> RunScores:
    """A run's figures and fused decisions.

    Raises:
        DataError: there is no such revision, or its files are missing, damaged or do not belong
            together.
    """
    with checkout(revision, [EVALUATION, FUSION, TEST, PREDICTIONS]) as folder:
        try:
            evaluation = read_evaluation(folder / EVALUATION)
            fusion = read_fusion(folder / FUSION)
            split = load_split(folder / TEST)
            logits = read_logits(list(fusion.weights), "test", len(split), folder)
            hits = image_hits(fuse(logits, np.array(list(fusion.weights.values()))), split.labels)
        except (ValueError, DataError, FusionError) as error:
            raise DataError(f"the run of {revision} can't be read: {error}") from error
    said = evaluation.test.fused.accuracy
    if not np.isclose(hits.mean(), said, rtol=0, atol=1e-9):
        raise DataError(
            f"the run of {revision} can't be read: {EVALUATION} says that fused is right on "
            f"{said:.2%} of test, predictions and {FUSION} say {hits.mean():.2%}: run 'dvc repro'"
        )
    scores = evaluation.test.models
    return RunScores(revision, scores, hits, split.groups, evaluation.test_sha256)


def score_table(a: RunScores, b: RunScores) -> Table:
    """Every score of every model of either run, the models of a first, and what b has more."""
    right = (Column(name, justify="right") for name in (a.name, b.name, "difference"))
    table = Table("", "", *right)
    for model in {**a.scores, **b.scores}:
        table.add_section()
        label = model
        for metric, name in METRICS.items():
            first, second = (getattr(run.scores.get(model), metric, None) for run in (a, b))
            shown = ["–" if value is None else f"{value:.4f}" for value in (first, second)]
            change = "" if first is None or second is None else f"{second - first:+.4f}"
            table.add_row(label, name, *shown, change)
            label = ""
    return table


def gain_of(b: RunScores, a: RunScores, params: EvaluationParams, seed: int) -> Gain | None:
    """How much better the fused model of b is than that of a; None if their test sets differ."""
    if a.test_sha256 != b.test_sha256:
        return None
    return gain_over(b.hits, a.hits, a.groups, params.bootstrap_draws, seed)


def conclusion(a: RunScores, b: RunScores, gain: Gain | None) -> str:
    """The gain with its interval and p, where there is one, and a sentence on what it means."""
    if gain is None:
        return (
            f"The test sets differ ({len(a.hits):,} and {len(b.hits):,} images): these figures do "
            f"not compare, and there is no test of significance."
        )
    low, high = (f"{100 * bound:+.2f}" for bound in gain.ci95)
    better, worse = (
        f"{one.name} is better than {other.name} on this test set"
        for one, other in ((b, a), (a, b))
    )
    same = f"{a.name} and {b.name} are right on the same images: there is no difference."
    means = same if np.array_equal(a.hits, b.hits) else conclude(gain, better, worse)
    return (
        f"fused, {b.name} less {a.name}: {100 * gain.accuracy:+.2f} points, 95 % interval {low} to "
        f"{high}, McNemar p {gain.mcnemar_p:.2g}\n{means}"
    )


@contextmanager
def checkout(revision: str, paths: Sequence[Path], project: Path = Path()) -> Iterator[Path]:
    """Give a folder in which these files and folders lie as they do in the project.

    For `workspace` that is the project's own. Otherwise it is a temporary one, filled from git
    and from DVC's cache, or its remote; neither the working tree nor DVC's locks are touched, so
    that a `dvc repro` may go on meanwhile.

    Args:
        revision: whatever git or `dvc exp` takes for one, or `workspace`.
        paths: relative to the folder of `dvc.yaml`.
        project: that folder; the current one if left out.

    Raises:
        DataError: there is no such revision, or it has not all of the files.
    """
    if revision == WORKSPACE:
        for path in paths:
            require(project / path, "")
        yield project
        return
    with tempfile.TemporaryDirectory() as folder:
        _fetch(project, revision, paths, Path(folder))
        yield Path(folder)


def _fetch(project: Path, revision: str, paths: Sequence[Path], folder: Path) -> None:
    wanted = "dvc.yaml"
    try:
        with Repo(str(project.resolve())) as repo, repo.switch(revision):
            if not repo.fs.exists(repo.fs.join(repo.root_dir, DVC_LOCK.as_posix())):
                raise DataError(
                    f"{revision} has no {DVC_LOCK}: commit a run first "
                    f"(git add {DVC_LOCK} && git commit)"
                )
            for wanted in map(Path.as_posix, paths):
                (folder / wanted).parent.mkdir(parents=True, exist_ok=True)
                repo.dvcfs.get(wanted, str(folder / wanted), recursive=True)
    except DataError:
        raise
    except NotDvcRepoError:
        raise DataError("this is no DVC repository: run this in the project's folder") from None
    except (NoSCMError, RevError):
        raise DataError(
            f"'{revision}' is no git revision and no DVC experiment of this repository: "
            f"see 'git log --oneline' and 'dvc exp list'"
        ) from None
    except DvcException as error:
        raise DataError(f"{revision} can't be read: {one_line(error)}") from error
    except Exception as error:  # the clients of remotes have no exception in common
        raise DataError(
            f"{revision} has no {wanted}, or DVC has it neither in its cache nor in its remote: "
            f"check that revision out and run 'dvc repro' ({one_line(error)})"
        ) from error

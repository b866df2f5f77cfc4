"""Two runs side by side, on files made by hand in the current folder."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import IMAGES, PARAMS, write_run

from fer_pipeline.cli.compare import RunScores, conclusion, gain_of, read_run, score_table
from fer_pipeline.errors import DataError
from fer_pipeline.evaluation.metrics import METRICS, Scores
from fer_pipeline.evaluation.significance import Gain, gain_interval, mcnemar_p
from fer_pipeline.paths import EVALUATION, FUSION, TEST, predictions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run whose fused model is wrong on the first ten images."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, wrong=range(10))
    return tmp_path


def a_run(name: str, wrong: list[int], **single: Scores) -> RunScores:
    hits = ~np.isin(np.arange(IMAGES), wrong)
    fused = Scores(float(hits.mean()), 0.5, 1.0, 0.1)
    return RunScores(name, {"fused": fused, **single}, hits, np.arange(40), "t")


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_is_what_its_files_say(folder: Path) -> None:
    run = read_run("workspace")
    evaluation = json.loads((folder / EVALUATION).read_text())
    assert run.name == "workspace"
    assert list(run.scores) == ["fused", "resnet50", "inception_v3"]
    assert asdict(run.scores["fused"]) == evaluation["fused"]
    assert asdict(run.scores["inception_v3"]) == evaluation["single"]["inception_v3"]
    np.testing.assert_array_equal(run.hits, np.arange(IMAGES) >= 10)
    np.testing.assert_array_equal(run.groups[:4], [0, 0, 1, 1])
    assert run.test_sha256 == "test-1"


def test_a_run_from_before_a_metric_was_recorded_has_it_not(folder: Path) -> None:
    fused = json.loads((folder / EVALUATION).read_text())["fused"]
    del fused["brier"]
    edit(folder / EVALUATION, fused=fused)
    assert read_run("workspace").scores["fused"].brier is None


@pytest.mark.parametrize("path", [EVALUATION, FUSION, TEST, predictions("inception_v3")])
def test_a_missing_file_is_named(path: Path, folder: Path) -> None:
    (folder / path).unlink()
    with pytest.raises(DataError, match=rf"{path} is missing: run 'dvc repro"):
        read_run("workspace")


@pytest.mark.parametrize("path", [EVALUATION, FUSION, TEST, predictions("inception_v3")])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff"])
def test_a_damaged_file_is_one_error(path: Path, content: bytes, folder: Path) -> None:
    (folder / path).write_bytes(content)
    with pytest.raises(DataError, match="the run of workspace can't be read: "):
        read_run("workspace")


def test_predictions_that_the_evaluation_is_not_of_are_refused(folder: Path) -> None:
    write_run(folder / "other", wrong=range(11))
    (folder / "other" / EVALUATION).replace(folder / EVALUATION)
    says = r"fused is right on 72\.50% of test, predictions and .* say 75\.00%: run 'dvc repro'"
    with pytest.raises(DataError, match=says):
        read_run("workspace")


def test_logits_of_another_number_of_images_are_refused(folder: Path) -> None:
    for name in ("resnet50", "inception_v3"):
        np.savez(folder / predictions(name), test_logits=np.zeros((39, 7)))
    with pytest.raises(DataError, match="the run of workspace can't be read: "):
        read_run("workspace")


def test_models_and_scores_that_one_run_has_not_stand_alone() -> None:
    a = a_run("a", [0], resnet50=Scores(0.5, 0.5, 1.0, 0.1))
    b = a_run("b", [0, 1, 2], resnet18=Scores(0.75, 0.7, 1.0, 0.1))
    columns = [list(column.cells) for column in score_table(a, b).columns]
    rows = list(zip(*columns, strict=True))
    assert [row[0] for row in rows if row[0]] == ["fused", "resnet50", "resnet18"]
    assert len(rows) == 3 * len(METRICS)
    accuracies = [row[2:] for row in rows if row[1] == "accuracy"]
    assert accuracies == [("0.9750", "0.9250", "-0.0500"), ("0.5000", "–", ""), ("–", "0.7500", "")]
    assert [row[2:] for row in rows if row[1] == METRICS["brier"]] == [("–", "–", "")] * 3


def test_the_gain_is_that_of_b_over_a_in_groups_of_duplicates() -> None:
    a, b = a_run("a", list(range(12))), a_run("b", [0, 39])
    groups = np.arange(IMAGES) // 2
    a = replace(a, groups=groups)
    found = gain_of(b, a, PARAMS, seed=5)
    assert found == Gain(
        pytest.approx(0.25),
        gain_interval(b.hits, a.hits, groups, 500, 5),
        mcnemar_p(b.hits, a.hits),
    )
    assert found.ci95[0] > 0


def test_other_test_sets_have_no_gain_and_it_is_said() -> None:
    a, b = a_run("a", [0]), replace(a_run("b", [1]), test_sha256="other")
    assert gain_of(b, a, PARAMS, seed=0) is None
    assert conclusion(a, b, None) == (
        "The test sets differ (40 and 40 images): these figures do not compare, and there is no "
        "test of significance."
    )


@pytest.mark.parametrize(
    ("ci95", "says"),
    [
        ((0.01, 0.2), "b is better than a on this test set: the interval lies above zero,"),
        ((-0.2, -0.01), "a is better than b on this test set: the interval lies below zero,"),
    ],
)
def test_the_better_run_is_named(ci95: tuple[float, float], says: str) -> None:
    found = conclusion(a_run("a", [0, 1]), a_run("b", [1, 2]), Gain(0.0, ci95, 0.01))
    assert found.splitlines()[1] == f"{says} and p is at most 0.05."


def test_runs_that_are_right_on_the_same_images_do_not_differ() -> None:
    a, b = a_run("a", [3, 4]), a_run("b", [3, 4])
    gain = gain_of(b, a, PARAMS, seed=0)
    assert gain == Gain(0.0, (0.0, 0.0), 1.0)
    assert conclusion(a, b, gain) == (
        "fused, b less a: +0.00 points, 95 % interval +0.00 to +0.00, McNemar p 1\n"
        "a and b are right on the same images: there is no difference."
    )

"""An evaluation comes back from its file, and has one headline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_inputs import make_evaluation

from fer_pipeline.errors import DataError
from fer_pipeline.evaluation.result import Evaluation, read_evaluation
from fer_pipeline.files import write_json


@pytest.mark.parametrize("clean", [True, False])
def test_an_evaluation_comes_back_from_its_file(clean: bool, tmp_path: Path) -> None:
    evaluation = make_evaluation()
    if not clean:
        evaluation = replace(evaluation, clean=None)
    write_json(tmp_path / "evaluation.json", evaluation.to_json())
    assert read_evaluation(tmp_path / "evaluation.json") == evaluation


def test_the_comparison_on_test_lies_on_top_of_the_file() -> None:
    content = make_evaluation().to_json()
    assert content["test"] == {"images": 3589, "sha256": "ab" * 32}
    assert content["fused"]["accuracy"] == 0.718
    assert content["gain"] == content["gains"][content["best_single"]]
    assert content["clean"]["gain"] == content["clean"]["gains"]["resnet50"]
    assert content["val_tta"]["single"] == dict.fromkeys(content["single"], 0.68)


def test_an_evaluation_of_an_earlier_version_is_read() -> None:
    content = make_evaluation().to_json()
    for key in ("cases", "confusion", "reliability"):
        del content[key]
    del content["fused"]["brier"]
    content["val"] = content.pop("val_tta")
    found = Evaluation.from_json(json.loads(json.dumps(content)))
    assert (found.test.fused.brier, found.val.fused) == (None, 0.716)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"test": {"images": "many"}}'])
def test_what_is_no_evaluation_is_one_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    with pytest.raises(DataError, match="is missing: run 'dvc repro evaluate'"):
        read_evaluation(path)
    path.write_bytes(content)
    with pytest.raises(DataError, match="run 'dvc repro --force --single-item evaluate'"):
        read_evaluation(path)


def test_the_headline_has_the_figures_of_all_models_and_the_gain() -> None:
    evaluation = make_evaluation()
    figures = evaluation.headline()
    assert figures["accuracy"] == 0.718
    assert figures["accuracy.resnet101"] == evaluation.test.single["resnet101"].accuracy
    assert figures["macro_f1.inception_v3"] == evaluation.test.single["inception_v3"].macro_f1
    assert (figures["gain"], figures["mcnemar_p"]) == (0.031, 0.0001)
    assert figures["gain_ci95_low"] == pytest.approx(0.0204)
    assert figures["clean_accuracy"] == 0.718
    assert "clean_accuracy" not in replace(evaluation, clean=None).headline()

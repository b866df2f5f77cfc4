"""The whole graph by a real `dvc repro`, in a repository of its own, to the registered model."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
import shutil
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from dvc.repo import Repo
from mlflow.artifacts import download_artifacts
from mlflow.tracking import MlflowClient
from PIL import Image
from typer.testing import CliRunner
from workspace import InProcess, Workspace, copy_workspace, stage

from fer_pipeline.cli.main import app
from fer_pipeline.emotions import EMOTIONS

pytestmark = pytest.mark.slow

BACKBONES = {"resnet50", "inception_v3"}

LOAD_AND_PREDICT = """
import re
import sys
from pathlib import Path
import mlflow, numpy
model = mlflow.pyfunc.load_model("models:/fer-fusion@challenger")
import fer_pipeline
assert Path(fer_pipeline.__file__).parents[1].name == "code"  # the version's, not the project's
images = numpy.load(sys.argv[1])["images"]
logits = model.predict(images, params={"output": "logits"})
chances = model.predict(images)
assert list(chances.columns) == sys.argv[3].split(",")
numpy.savez(sys.argv[2], logits=logits.to_numpy(), chances=chances.to_numpy())
assert "torch._dynamo" not in sys.modules  # the compiler, which takes longer than torch itself
"""


def store_of(workspace: Workspace) -> str:
    return f"sqlite:///{workspace.folder / 'mlflow.db'}"


def client(workspace: Workspace) -> MlflowClient:
    return MlflowClient(store_of(workspace))


def in_process(workspace: Workspace) -> InProcess:
    """The workspace without DVC: its stages run in this process."""
    return InProcess(workspace.folder, workspace.env | {"MLFLOW_TRACKING_URI": store_of(workspace)})


def read(workspace: Workspace, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((workspace.folder / name).read_text())
    return content


def fused_logits(workspace: Workspace) -> np.ndarray:
    weights = read(workspace, "models/fused/fusion.json")["weights"]
    folder = workspace.folder / "predictions"
    return sum(w * np.load(folder / f"{name}.npz")["test_logits"] for name, w in weights.items())


def test_evaluation_has_the_keys_of_the_contract(finished: Workspace) -> None:
    evaluation = read(finished, "metrics/evaluation.json")
    scores = {"accuracy", "macro_f1", "nll", "ece", "brier", "per_class"}
    for block in (evaluation, evaluation["clean"]):
        assert set(block["fused"]) == scores
        assert set(block["single"]) == BACKBONES
        assert all(set(single) == scores for single in block["single"].values())
        assert set(block["fused"]["per_class"]) == set(EMOTIONS)
        assert block["best_single"] in BACKBONES
        assert set(block["gain"]) == {"accuracy", "ci95", "mcnemar_p"}
        assert set(block["gains"]) == BACKBONES
        assert block["gains"][block["best_single"]] == block["gain"]
        agreement = block["agreement"]
        assert set(agreement) == {"oracle_accuracy", "all_agree", "disagreement"}
        differ = agreement["disagreement"]["resnet50"]["inception_v3"]
        assert agreement["all_agree"] == pytest.approx(1 - differ)
    assert evaluation["test"]["images"] == 14
    assert len(evaluation["test"]["sha256"]) == 64


def test_evaluation_is_that_of_the_stored_logits(finished: Workspace) -> None:
    labels = np.load(finished.folder / "data/prepared/test.npz")["labels"]
    expected = (fused_logits(finished).argmax(axis=1) == labels).mean()
    assert read(finished, "metrics/evaluation.json")["fused"]["accuracy"] == expected
    assert read(finished, "metrics/summary.json")["fused"] == expected


def test_evaluation_tells_what_val_had_said(finished: Workspace) -> None:
    evaluation = read(finished, "metrics/evaluation.json")
    fusion = read(finished, "models/fused/fusion.json")
    val = evaluation["val_tta"]
    labels = np.load(finished.folder / "data/prepared/val.npz")["labels"]
    for name in BACKBONES:
        logits = np.load(finished.folder / "predictions" / f"{name}.npz")["val_logits"]
        assert val["single"][name] == (logits.argmax(axis=1) == labels).mean()
        assert val["single"][name] <= val["single"][evaluation["best_single"]]
    assert val["images"] == len(labels)
    assert val["fused"] == fusion["methods"][fusion["method"]]["val_accuracy"]
    for method, accuracies in evaluation["methods"].items():
        assert accuracies["val_accuracy"] == fusion["methods"][method]["val_accuracy"]


def test_a_fresh_process_reproduces_the_fused_logits_from_the_registry(
    finished: Workspace, tmp_path: Any
) -> None:
    script, found = tmp_path / "load.py", tmp_path / "found.npz"
    script.write_text(LOAD_AND_PREDICT)
    elsewhere = Workspace(
        tmp_path,
        finished.env
        | {"MLFLOW_TRACKING_URI": store_of(finished), "PYTHONPATH": ""}
        | {"FER_SERVING_PRECISION": "fp32"},
    )
    images = str(finished.folder / "data/prepared/test.npz")
    elsewhere.check(sys.executable, str(script), images, str(found), ",".join(EMOTIONS))
    with np.load(found) as arrays:
        np.testing.assert_allclose(arrays["logits"], fused_logits(finished), atol=1e-4)
        np.testing.assert_allclose(arrays["chances"].sum(axis=1), 1.0, atol=1e-5)


def test_the_registered_version_says_what_made_it(finished: Workspace) -> None:
    version = client(finished).get_model_version_by_alias("fer-fusion", "challenger")
    assert version.tags["git.commit"] == finished.check("git", "rev-parse", "HEAD").strip()
    assert version.tags["data.source"] == "sample"
    assert len(version.tags["data.sha256"]) in (0, 64)  # the sample is drawn, not fetched
    assert version.tags["recipe"] == "custom"
    bf16 = read(finished, "registry/verdict.json")["bf16"]  # None where it is no faster
    assert json.loads(version.tags["bf16"]) == (bf16 and {"allowed": True, **bf16})
    assert len(version.tags) <= 15  # what compares versions: MLflow shows all in one cell
    run = client(finished).get_run(version.run_id).data
    assert run.params["fusion.method"] == "nll"
    assert run.tags["git.dirty"] == "false"
    assert version.description == (finished.folder / "reports/model_card.md").read_text()


def test_the_registered_version_holds_its_figures(finished: Workspace) -> None:
    tags = client(finished).get_model_version_by_alias("fer-fusion", "challenger").tags
    evaluation = read(finished, "metrics/evaluation.json")
    wanted = {
        "accuracy": evaluation["fused"]["accuracy"],
        "macro_f1": evaluation["fused"]["macro_f1"],
        "gain": evaluation["gain"]["accuracy"],
        "gain_ci95_low": evaluation["gain"]["ci95"][0],
        "gain_ci95_high": evaluation["gain"]["ci95"][1],
        "mcnemar_p": evaluation["gain"]["mcnemar_p"],
        "clean_accuracy": evaluation["clean"]["fused"]["accuracy"],
    }
    assert {key: float(tags[key]) for key in wanted} == pytest.approx(wanted, rel=1e-5)
    assert tags["gate.passed"] == "true"


def test_the_registered_version_names_the_runs_that_made_it(finished: Workspace) -> None:
    store = client(finished)
    version = store.get_model_version_by_alias("fer-fusion", "challenger")
    fusion = store.get_run(version.run_id)
    for name in BACKBONES:
        run = store.get_run(fusion.data.tags[f"run.train.{name}"])
        assert run.info.run_name.startswith(f"{name} custom seed 0 ")
        assert run.data.tags["mlflow.parentRunId"] == version.run_id
        inputs = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
        content = (finished.folder / "data/prepared/train.npz").read_bytes()
        assert hashlib.sha256(content).hexdigest()[:32] == inputs["train.npz"]


def test_from_a_version_the_same_model_comes_back(copied: Workspace, tmp_path: Any) -> None:
    version = client(copied).get_model_version_by_alias("fer-fusion", "challenger")
    copied.check("git", "add", "--all")
    copied.check("git", "commit", "--quiet", "--message", "Something else since")
    copied.edit_params(seed=9)
    for name in BACKBONES:
        (copied.folder / f"models/{name}/model.safetensors").unlink()

    copied.check("git", "checkout", "--quiet", "--force", version.tags["git.commit"])
    lineage = f"runs:/{version.run_id}/lineage"
    download_artifacts(lineage, dst_path=str(tmp_path), tracking_uri=store_of(copied))
    shutil.copy(tmp_path / "lineage" / "dvc.lock", copied.folder)
    shutil.copy(tmp_path / "lineage" / "params.yaml", copied.folder)
    shutil.copy(tmp_path / "lineage" / "source.lock.yaml", copied.folder / "data")
    (copied.folder / "reports/report.html").unlink()
    # The stage `register` itself was still running when it kept the lock.
    with copied.repo() as repo:
        repo.checkout("report", force=True, with_deps=True)

    files = json.loads(version.tags["fer.files"])
    for name in BACKBONES:
        content = (copied.folder / f"models/{name}/model.safetensors").read_bytes()
        assert files[f"{name}.safetensors"] == [len(content), hashlib.sha256(content).hexdigest()]
    assert (copied.folder / "reports/report.html").exists()


def test_with_auto_the_challenger_becomes_champion_by_itself(copied: Workspace) -> None:
    here = in_process(copied)
    here.edit_params(promotion__auto=True)
    here.check(*stage("register"))
    verdict = read(copied, "registry/verdict.json")
    assert verdict["aliases"] == ["champion"]
    assert verdict["promotion"] == {
        "promote": True,
        "reason": "the gate passed, and there is no champion yet",
    }
    moves = client(copied).get_experiment_by_name("fer-fusion promotions")
    (move,) = client(copied).search_runs([moves.experiment_id])
    assert (move.data.tags["move.by"], move.data.tags["move.to"]) == ("stage register", "1")
    here.check(*stage("register"))
    again = read(copied, "registry/verdict.json")
    assert (again["aliases"], again["version"]) == (["champion"], "1")  # of the same content
    assert len(client(copied).search_model_versions("name = 'fer-fusion'")) == 1


def test_report_and_card_say_how_the_weights_were_made(finished: Workspace) -> None:
    commit = finished.check("git", "rev-parse", "HEAD").strip()
    for name in BACKBONES:
        made = read(finished, f"provenance/{name}.json")
        assert made["seconds"] > 0
        assert (made["commit"], made["precision"]) == (commit, "fp32")
        assert re.fullmatch(r".+, \d+ cores?", made["hardware"])
    report = (finished.folder / "reports/report.html").read_text()
    card = (finished.folder / "reports/model_card.md").read_text()
    for page in (report, card):
        assert commit[:12] in page
        assert made["hardware"] in page
    accuracy = 100 * read(finished, "metrics/evaluation.json")["fused"]["accuracy"]
    assert f"| fused | {accuracy:.1f}" in card


def test_report_and_card_are_artifacts_of_the_fusion_run(finished: Workspace) -> None:
    store = client(finished)
    run = store.get_model_version_by_alias("fer-fusion", "challenger").run_id
    assert {"report.html", "model_card.md", "data.html"} <= {
        artifact.path for artifact in store.list_artifacts(run)
    }


def test_the_verdict_names_version_and_alias(finished: Workspace) -> None:
    verdict = read(finished, "registry/verdict.json")
    assert verdict["passed"] is True
    assert len(verdict["reasons"]) == 2
    assert (verdict["model_name"], verdict["version"]) == ("fer-fusion", "1")
    assert verdict["aliases"] == ["challenger"]


def test_every_epoch_of_each_backbone_is_in_one_mlflow_run(finished: Workspace) -> None:
    store = client(finished)
    experiment = store.get_experiment_by_name("fer2013")
    found = store.search_runs([experiment.experiment_id])
    runs = {run.info.run_name.partition(" ")[0]: run for run in found}
    assert set(runs) == BACKBONES | {"fusion"}
    for name in BACKBONES:
        assert runs[name].info.status == "FINISHED"
        history = store.get_metric_history(runs[name].info.run_id, "val_accuracy")
        with (finished.folder / f"plots/curves/{name}.csv").open() as stream:
            curve = [float(row["val_accuracy"]) for row in csv.DictReader(stream)]
        assert [point.value for point in history] == curve
        assert len(curve) == 2


def test_a_second_repro_runs_no_stage(copied: Workspace) -> None:
    with copied.repo() as repo:
        assert repo.reproduce() == []


@pytest.fixture(scope="module")
def for_edits(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return copy_workspace(finished, tmp_path_factory.mktemp("for_edits"))


@pytest.fixture
def unedited(
    for_edits: Workspace, finished: Workspace, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """One copy for all edits: params.yaml is as it was, and nothing else is changed."""
    shutil.copy2(finished.folder / "params.yaml", for_edits.folder)
    monkeypatch.chdir(for_edits.folder)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", for_edits.env["DVC_SITE_CACHE_DIR"])
    return for_edits


def test_without_an_edit_nothing_is_touched(unedited: Workspace) -> None:
    assert Repo(unedited.folder).status() == {}


@pytest.mark.parametrize(
    ("edit", "touched"),
    [
        (
            {"seed": 1},
            {"prepare", "calibrate", "evaluate", "report", "register"}
            | {f"train@{name}" for name in BACKBONES},
        ),
        ({"data__sample__seed": 1}, {"ingest"}),
        ({"data__protocol": "paper"}, {"ingest", "prepare", "evaluate"}),
        ({"data__labels": "ferplus_majority"}, {"ingest"}),
        ({"data__conflicts": "drop"}, {"prepare"}),
        (
            {"backbones__resnet50__finetune__learning_rate": 0.5},
            {"train@resnet50", "calibrate", "evaluate", "report", "register"},
        ),
        ({"training__augment__flip": 0.0}, {f"train@{name}" for name in BACKBONES}),
        ({"predict__batch_size": 3}, {f"predict@{name}" for name in BACKBONES}),
        (
            {"predict__tta": "five_crops_flip"},
            {"register"} | {f"predict@{name}" for name in BACKBONES},
        ),
        ({"fusion__method": "uniform"}, {"calibrate"}),
        ({"evaluation__ece_bins": 3}, {"evaluate"}),
        ({"gate__min_gain": 1.0}, {"report", "register"}),
        ({"registry__model_name": "other"}, {"register"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_param_touches_the_stages_that_read_it(
    edit: dict[str, object], touched: set[str], unedited: Workspace
) -> None:
    unedited.edit_params(**edit)
    assert set(Repo(unedited.folder).status()) == touched


@pytest.mark.parametrize("path", ["fer_pipeline/reports/templates/page.html.j2", "locks/pages.txt"])
def test_a_style_sheet_and_a_new_jinja2_touch_the_pages_alone(
    path: str, unedited: Workspace
) -> None:
    file = unedited.folder / path
    before = file.read_text()
    file.write_text(before.replace("border-radius: 10px", "border-radius: 9px") + "\n")
    assert set(Repo(unedited.folder).status()) == {"describe", "report"}
    file.write_text(before)


def test_a_new_style_neither_scores_test_again_nor_registers_again(copied: Workspace) -> None:
    style = copied.folder / "fer_pipeline/reports/templates/page.html.j2"
    style.write_text(style.read_text().replace("border-radius: 10px", "border-radius: 9px"))
    copied.check("git", "commit", "--quiet", "--all", "--message", "Rounder corners")
    with copied.repo() as repo:
        assert {one.addressing for one in repo.reproduce()} == {"describe", "report"}
    for page in ("report", "data"):
        assert "border-radius: 9px" in (copied.folder / f"reports/{page}.html").read_text()


def test_a_gate_that_does_not_pass_registers_nothing_and_is_no_error(
    copied: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    here = in_process(copied)
    here.edit_params(gate__min_gain=1.0, registry__model_name="refused")
    here.check(*stage("report"))
    with caplog.at_level(logging.INFO, "fer_pipeline"):
        here.check(*stage("register"))
    assert "gate not passed: nothing registered" in caplog.messages
    verdict = read(copied, "registry/verdict.json")
    assert (verdict["passed"], verdict["version"], verdict["aliases"]) == (False, None, [])
    assert not client(copied).search_registered_models("name = 'refused'")
    assert "Gate not passed" in (copied.folder / "reports/report.html").read_text()


def test_an_experiment_is_recorded_shown_and_becomes_a_version_when_asked(
    copied: Workspace,
) -> None:
    copied.check("git", "add", "--all")
    copied.check("git", "commit", "--quiet", "--message", "Results")
    change = ("--set-param", "fusion.method=uniform", "--name", "try")
    said = copied.check("dvc", "exp", "run", "--temp", *change)
    assert "'dvc exp apply try', then 'fer registry register'" in said
    store = client(copied)
    (latest,) = store.search_runs(["1"], order_by=["attributes.start_time DESC"], max_results=1)
    assert latest.data.params["fusion.method"] == "uniform"
    aliases = store.get_registered_model("fer-fusion").aliases
    assert {str(number) for number in aliases.values()} == {"1"}

    with copied.repo() as repo:
        repo.experiments.apply("try")
    verdict = read(copied, "registry/verdict.json")
    assert (verdict["passed"], verdict["version"]) == (True, None)
    assert read(copied, "models/fused/fusion.json")["method"] == "uniform"
    with copied.repo() as repo:
        files = repo.metrics.show()[""]["data"]
        assert files["metrics/summary.json"]["data"]["fused"] is not None
        assert "metrics/data.json" in files
        changed = repo.params.diff()["diff"]["params.yaml"]
        assert changed["fusion.method"] == {"old": "nll", "new": "uniform"}
        repo.metrics.diff()
    copied.check("dvc", "plots", "show")
    page = (copied.folder / "dvc_plots/index.html").read_text()
    for plot in (
        "reports_curves",
        "plots_confusion_fused",
        "plots_accuracy",
        "plots_classes",
        "plots_simplex",
    ):
        assert f"{plot}_csv" in page

    in_process(copied).check("fer", "registry", "register")
    verdict = read(copied, "registry/verdict.json")
    assert (verdict["version"], verdict["aliases"]) == ("2", ["challenger"])
    with copied.repo() as repo:
        assert repo.status() == {}


def test_fer_predict_reads_a_picture_with_the_fused_model(
    copied: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = np.load(copied.folder / "data/prepared/test.npz")["images"][0]
    Image.fromarray(face).resize((200, 220)).save(copied.folder / "face.png")
    monkeypatch.chdir(copied.folder)
    done = CliRunner().invoke(app, ["predict", "face.png"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert all(emotion in done.stdout.splitlines()[1] for emotion in EMOTIONS)
    (row,) = (line for line in done.stdout.splitlines() if "face.png" in line)
    name, found, *chances = (cell.strip() for cell in row.split("│")[1:-1])
    shares = [float(chance.removesuffix("%")) for chance in chances]
    assert name == "face.png"
    assert shares[EMOTIONS.index(found)] == max(shares)
    assert sum(shares) == pytest.approx(100, abs=0.5)


@pytest.mark.parametrize(("page", "links"), [("report", ["data.html"]), ("data", [])])
def test_a_page_loads_nothing_from_elsewhere(
    page: str, links: list[str], finished: Workspace
) -> None:
    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [value or "" for key, value in attrs if key in ("src", "href")]

    parser = Links()
    parser.feed((finished.folder / f"reports/{page}.html").read_text())
    assert [link for link in parser.found if not link.startswith(("#", "data:"))] == links


def test_the_data_metrics_say_what_the_faces_are_like(finished: Workspace) -> None:
    data = read(finished, "metrics/data.json")
    assert data["source"]["uri"] == "sample"
    assert data["source"]["synthetic"] is True
    assert data["images"] == {"train": 28, "val": 14, "test": 14}
    assert sum(data["classes"]["Training"].values()) == 28
    assert data["quality"]["images"] == 56
    assert (data["known"], data["drift"]) == (None, None)
    assert set(data["cleaning"].values()) == {0}

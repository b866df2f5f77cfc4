"""The flow `sweep`: many combinations as experiments, on stages that sleep and on the sample."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow_bench import FlowBench, last_line, make_bench
from mlflow.tracking import MlflowClient
from prefect_server import PrefectServer
from processes import FOREVER_S, assert_none_left, output_of, wait_until
from ruamel.yaml import YAML
from workspace import Workspace

from fer_pipeline.errors import FerError, FlowError
from flows.experiments import (
    Combination,
    as_table,
    combine,
    parse_seeds,
    parse_values,
    spread,
    summarize,
)
from flows.sweep import _require_identity
from flows.trees import git

SCORE = """
import json
from pathlib import Path
from ruamel.yaml import YAML
from fer_pipeline.events import emit

params = YAML(typ="safe").load(Path("params.yaml"))
if params["seed"] == 7:
    emit("error", message="seed 7 is unlucky", transient=False)
    raise SystemExit(1)
seed, bonus = params["seed"], {"nll": 0.0, "uniform": 0.01}[params["fusion"]["method"]]
fused = 0.60 + 0.02 * seed + bonus
single = {"resnet50": fused - 0.04, "inception_v3": fused - 0.03 + 0.02 * seed}
content = {
    "val_tta": {"single": {name: score - 0.05 for name, score in single.items()}, "fused": fused},
    "single": {name: {"accuracy": score} for name, score in single.items()},
    "fused": {"accuracy": fused},
    "best_single": "inception_v3",
    "gain": {"accuracy": 0.03 - 0.02 * seed, "ci95": [0, 0], "mcnemar_p": 1},
    "test": {"images": 10},
}
verdict = {"passed": seed < 2, "version": None, "model_name": "fer-fusion", "reasons": []}
for name, what in {"metrics/evaluation.json": content, "registry/verdict.json": verdict}.items():
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(json.dumps(what))
"""


@pytest.fixture
def bench(root: Path, tmp_path: Path, server: PrefectServer) -> FlowBench:
    """prepare, a training of each of two backbones by seed, and scores made up from the seed."""
    names = ("resnet50", "inception_v3")
    bench = make_bench(root, tmp_path / "bench", server, names)
    params = YAML().load((root / "params.yaml").read_text())
    del params["backbones"]["resnet101"]
    YAML().dump(params, bench.folder / "params.yaml")
    (bench.folder / "score.py").write_text(SCORE)
    path = bench.folder / "dvc.yaml"
    graph = YAML().load(path.read_text())
    graph["stages"]["prepare"]["params"] = ["data.sample"]
    graph["stages"]["train"]["do"]["params"] = ["seed", "backbones.${key}"]
    del graph["stages"]["calibrate"]
    graph["stages"]["evaluate"] = {
        "cmd": "python step.py evaluate && python score.py",
        "deps": [f"out/train@{name}" for name in names],
        "params": ["seed", "fusion.method"],
        "outs": ["metrics/evaluation.json", "registry/verdict.json"],
    }
    YAML().dump(graph, path)
    (bench.folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (bench.folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n/site\n")
    ignored = ("/out", "/metrics", "/registry", "/plan.json", "*.jsonl", "/began-*", "/tried-*")
    (bench.folder / ".gitignore").write_text("\n".join((*ignored, "__pycache__", "")))
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "-m", "Start")):
        bench.workspace.check("git", *command)
    bench.workspace.env["BENCH"] = str(bench.folder)
    return bench


def begun(bench: FlowBench) -> Counter[str]:
    """How often each stage has begun, in whatever tree."""
    lines = (bench.folder / "notes.jsonl").read_text().splitlines()
    notes = [json.loads(line) for line in lines]
    return Counter(note["stage"] for note in notes if note["what"] == "begin")


def experiments(bench: FlowBench) -> set[str]:
    listed = bench.workspace.check("dvc", "exp", "list", "--name-only")
    return set(listed.split())


def run_of(bench: FlowBench, name: str) -> dict[str, Any]:
    """The newest sweep with such a name."""
    return next(run for run in bench.server.flow_runs() if run["name"].startswith(f"{name} at "))


def test_without_an_author_git_is_asked_for_one_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = [f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    for name in (*roles, "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    git(tmp_path, "init", "--quiet")
    with pytest.raises(
        FlowError, match=r"git knows no author: run 'git config --global user\.name"
    ):
        _require_identity(tmp_path)
    for name in roles:
        monkeypatch.setenv(name, "a@example.org")
    _require_identity(tmp_path)


@pytest.mark.slow
def test_what_is_common_runs_once_and_what_is_done_not_again(
    bench: FlowBench, tmp_path: Path
) -> None:
    bench.plan(prepare={"seconds": 6})  # long enough for both to want it
    table = tmp_path / "table.csv"
    sweep = ("sweep", "--seeds", "1", "--set", "fusion.method=nll,uniform")
    before = bench.workspace.check("git", "status", "--porcelain")

    status, output = bench.run(*sweep, "--output", str(table))

    assert status == 0, output
    trainings = {"train@resnet50": 1, "train@inception_v3": 1}
    assert begun(bench) == {"prepare": 1, **trainings, "evaluate": 2}
    with table.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["seed"], row["fusion.method"]) for row in rows] == [("1", "nll"), ("1", "uniform")]
    assert {row["experiment"] for row in rows} == experiments(bench)
    for column in ("val fused", "test fused"):
        assert [float(row[column]) for row in rows] == pytest.approx([0.62, 0.63])
    assert [row["gate"] for row in rows] == ["True", "True"]
    last = last_line(output)
    assert "fusion.method=uniform: fused 63.00%, gain +1.00 points, gate passed in 1 of 1." in last
    assert "picks by val (PublicTest)" in output
    artifact = bench.server.artifacts(run_of(bench, "1 x seed, 2 x fusion.method")["id"])[
        "fer-sweep"
    ]
    assert '"experiment": "mean of 1"' in artifact["data"]
    assert not list((bench.folder / ".dvc/tmp/trees").iterdir())
    assert bench.workspace.check("git", "status", "--porcelain") == before

    bench.forget()
    values = {"seed": [1], "fusion.method": ["nll", "uniform"]}
    assert bench.run_here("sweep", values=values).message == last
    assert not (bench.folder / "notes.jsonl").exists()
    bench.workspace.check("dvc", "exp", "apply", rows[1]["experiment"])
    assert json.loads((bench.folder / "metrics/evaluation.json").read_text())["best_single"]
    assert "method: uniform" in (bench.folder / "params.yaml").read_text()


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on_and_one_that_fails_stops_no_other(
    bench: FlowBench,
) -> None:
    bench.plan(train_resnet50={"seconds": FOREVER_S, "checkpoint": True})
    process = bench.start("sweep", "--seeds", "1,7")
    bench.wait_until_begun("train@resnet50")
    runs = [run for run in bench.server.flow_runs() if run["state"]["type"] == "RUNNING"]

    process.send_signal(signal.SIGKILL)
    output_of(process)

    assert_none_left(f"{bench.folder}/")
    for run in runs:  # that of the sweep, and of its combinations
        wait_until(lambda id_=run["id"]: bench.server.state(id_)["name"] == "Crashed", "known")
    bench.plan(train_resnet50={"checkpoint": True})
    state = bench.run_here("sweep", values={"seed": [1, 7]})
    assert state.is_failed()
    assert str(state.message).startswith("1 of 2 failed: seed-7-")
    assert str(state.message).endswith(": evaluate failed: seed 7 is unlucky")
    (done,) = experiments(bench)
    assert done.startswith("seed-1-")
    (tree,) = (bench.folder / ".dvc/tmp/trees").iterdir()  # of the one that failed
    assert tree.name.startswith("sweep-seed-7-")
    assert (tree / "checkpoint-train@resnet50").read_text() in ("1", "2")


@pytest.mark.slow
def test_cancelling_ends_every_combination(bench: FlowBench) -> None:
    bench.plan(train_resnet50={"seconds": FOREVER_S}, train_inception_v3={"seconds": FOREVER_S})
    process = bench.start("sweep", "--seeds", "0..9")
    bench.wait_until_begun("train@resnet50", "train@inception_v3")
    run = run_of(bench, "10 x seed")

    bench.server.cancel(run["id"])

    output = output_of(process)
    assert process.returncode == 1
    assert last_line(output) == "error: The run was cancelled."
    assert_none_left(f"{bench.folder}/")
    assert not experiments(bench)


@pytest.mark.slow
def test_on_the_sample_nothing_is_registered_and_experiments_can_be_compared(
    copied: Workspace, server: PrefectServer
) -> None:
    bench = FlowBench(copied, server)

    status, output = bench.run("sweep", "--set", "gate.min_gain=-1.0,-0.9")

    assert status == 0, output
    assert "Running stage 'train" not in output
    assert "gate.min_gain=-1.0: fused" in last_line(output)
    assert "gate.min_gain=-0.9: fused" in last_line(output)
    assert output.count("an experiment is not registered by itself") == 1
    assert "right on the same images" in copied.check("fer", "compare", *experiments(bench))
    store = MlflowClient(f"sqlite:///{copied.folder / 'mlflow.db'}")
    (experiment,) = store.search_experiments(filter_string="name = 'fer2013'")
    fusions = store.search_runs([experiment.experiment_id], "tags.`fer.stage` = 'register'")
    assert [run.data.metrics["gate_passed"] for run in fusions] == [1.0, 1.0]


@pytest.mark.slow
def test_what_git_does_not_have_is_refused_before_anything_runs(bench: FlowBench) -> None:
    (bench.folder / "score.py").write_text("")
    state = bench.run_here("sweep", values={"seed": [0, 1]})
    assert state.is_failed()
    assert str(state.message).startswith("not committed: score.py")
    assert not (bench.folder / "notes.jsonl").exists()


def test_seeds_are_ranges_and_lists() -> None:
    assert parse_seeds("0..3,7") == [0, 1, 2, 3, 7]
    assert parse_values("fusion.method=nll,uniform") == ("fusion.method", ["nll", "uniform"])
    assert parse_values("a=[1, 2],null") == ("a", [[1, 2], None])


@pytest.mark.parametrize(
    ("option", "text"),
    [
        *(("seeds", text) for text in ("", "a", "3..1", "1..", "-1", "1,,2")),
        ("set", "a"),
        ("set", "a="),
        ("set", "=1"),
        ("set", "a=["),
    ],
)
def test_what_is_no_list_is_named(option: str, text: str) -> None:
    parse: Callable[[str], object] = parse_seeds if option == "seeds" else parse_values
    with pytest.raises(FlowError, match=f"^--{option} is '{re.escape(text)}': write "):
        parse(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": [1]}, "params.yaml has no 'sed' to override"),
        ({"fusion.method": ["nll", "magic"]}, "fusion.method"),
        ({"seed": [1, 2, 1]}, "seed has a value twice: 1, 2, 1"),
        ({}, "nothing to combine: give --seeds"),
        ({"seed": list(range(1001))}, "1,001 combinations are more than 1,000"),
    ],
)
def test_what_can_not_be_combined_is_said(
    values: dict[str, list[object]], message: str, root: Path
) -> None:
    with pytest.raises(FerError, match=message):
        combine(root, None, values, "0" * 40, {})


def test_a_name_is_gits_and_stands_for_all_that_decides(root: Path) -> None:
    values = {"seed": [3], "backbones.resnet50.finetune.learning_rate": [0.5]}
    (one,) = combine(root, None, values, "0" * 40, {})
    assert re.fullmatch(r"seed-3-learning_rate-0_5-[0-9a-f]{6}", one.name)
    assert "seed: 3" in one.files["params.yaml"]
    others = combine(root, "cpu", values, "0" * 40, {}) + combine(root, None, values, "1" * 40, {})
    others += combine(root, None, values, "0" * 40, {"data/source.lock.yaml": "another"})
    assert len({one.name, *(other.name for other in others)}) == 4


def test_the_spread_is_over_the_seeds_of_each_other_value() -> None:
    wanted = [
        Combination(f"seed-{seed}-{method}", {"seed": seed, "fusion.method": method}, {})
        for seed in (0, 1, 2, 3)
        for method in ("nll", "greedy")
    ]
    rows = [
        {
            **{"experiment": one.name, **one.values, "val resnet50": 0.5, "test resnet50": 0.55},
            "test fused": 0.60 + 0.02 * one.values["seed"],
            **{"best single": "resnet50", "gain": 0.04 - 0.02 * one.values["seed"]},
            "gate": one.values["seed"] < 2,
        }
        for one in wanted
    ]
    rows[-2:] = [{"experiment": one.name, **one.values, "error": "away"} for one in wanted[-2:]]
    nll, greedy = summarize(wanted, rows)
    assert (nll.values, greedy.values) == ({"fusion.method": "nll"}, {"fusion.method": "greedy"})
    assert nll.sentence == (
        "fusion.method=nll: fused 62.00% ± 2.00, gain +2.00 ± 2.00 points (mean ± standard "
        "deviation; 95 % interval of the mean gain -2.97 to +6.97), gate passed in 2 of 3."
    )
    text = as_table([*rows, *nll.lines, *greedy.lines]).to_string()
    assert "away" in text
    assert "2 of 3" in text
    assert not re.search(r"\.\d{5}", text)


def test_the_spread_is_students() -> None:
    found = spread([{"gain": value} for value in (0.60, 0.62, 0.64)])["gain"]
    # t for two degrees of freedom is 4.3027 (any table): 4.3027 * 0.02 / sqrt(3)
    assert list(found) == pytest.approx([0.62, 0.02, 0.049683], abs=1e-6)
    (alone,) = summarize(
        [Combination("seed-0", {"seed": 0}, {})],
        [{"experiment": "seed-0", "test fused": 0.6, "gain": 0.0, "gate": False}],
    )
    assert alone.sentence == "all: fused 60.00%, gain +0.00 points, gate passed in 0 of 1."
    assert alone.lines == [
        {"experiment": "mean of 1", "test fused": 0.6, "gain": 0.0, "gate": "0 of 1"}
    ]

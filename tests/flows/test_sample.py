"""The flows on the project itself: the synthetic sample, its registry, and a source of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from edition_files import fer2013_csv, only, random_faces, write
from flow_bench import FlowBench, last_line
from prefect_server import PrefectServer
from processes import output_of, wait_until
from workspace import InProcess, Workspace, copy_workspace, make_workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(
    finished: Workspace, tmp_path_factory: pytest.TempPathFactory, server: PrefectServer
) -> FlowBench:
    """The finished project on the sample; the flow `pipeline` has fused anew."""
    bench = FlowBench(copy_workspace(finished, tmp_path_factory.mktemp("project")), server)
    status, output = bench.run("pipeline", "--set", "fusion.method=accuracy")
    assert status == 0, output
    assert "Running stage 'calibrate'" in output
    assert "git add" not in output  # DVC's advice, below each stage
    return bench


def test_the_pipeline_runs_to_the_registry_and_shows_its_results(project: FlowBench) -> None:
    run = project.newest_run()

    commit = project.workspace.check("git", "rev-parse", "--short", "HEAD").strip()
    assert run["name"] == f"custom fusion.method=accuracy at {commit}"
    assert run["state"]["message"].endswith(" Gate passed: version 2 of fer-fusion.")
    tasks = project.server.tasks(run["id"])
    names = {name: state["name"] for name, state in tasks.items()}
    assert {names[name] for name in ("calibrate", "evaluate", "register")} == {"Completed"}
    assert {names[name] for name in ("ingest", "prepare", "train@inception_v3")} == {"Cached"}
    artifacts = project.server.artifacts(run["id"])
    assert '"model": "fused"' in artifacts["fer-metrics"]["data"]
    verdict = artifacts["fer-verdict"]["data"]
    assert "Gate passed: version 2 of fer-fusion" in verdict
    assert "reports/report.html" in verdict
    assert "| fusion |" in verdict
    # DVC, and with it `dvc repro`, finds nothing left to do.
    assert "up to date" in project.workspace.check("dvc", "status")


def test_a_recipe_and_values_are_applied_and_bad_ones_change_nothing(project: FlowBench) -> None:
    before = (project.folder / "params.yaml").read_text()

    state = project.run_here(overrides={"fusion.method": "magic"})
    assert state.is_failed()
    assert "fusion.method" in str(state.message)
    assert (project.folder / "params.yaml").read_text() == before

    state = project.run_here(overrides={"fusion.method": "uniform"}, targets=["train"])
    assert state.message == "Everything is up to date."  # no training depends on it
    # Metrics and verdict lie there, but are of the run before, with another fusion.
    shown = project.server.artifacts(project.newest_run()["id"])
    assert not {"fer-metrics", "fer-verdict"} & shown.keys()
    assert "method: uniform" in (project.folder / "params.yaml").read_text()


def test_promotion_waits_for_an_approval_and_moves_the_alias(project: FlowBench) -> None:
    process = project.start("promotion", "promote", "--reason", "the first", "--ask")
    run = _paused(project)
    assert "promote 2?" in _description(project, run)  # by number, whoever is challenger
    answer = {"decision": "approve", "your_name": "Ada", "comment": "looks right"}
    resumed = project.server.ask(f"/flow_runs/{run['id']}/resume", run_input=answer)
    assert resumed["status"] == "ACCEPT", resumed

    output = output_of(process)

    assert process.returncode == 0, output
    shown = project.workspace.check("fer", "registry", "history", "--json")
    assert "the first; looks right" in shown
    assert f"Ada, flow run '{run['name']}'" in shown
    assert last_line(output) == "champion: version 2, until now none"


def test_cancelling_ends_a_question_that_nobody_has_answered(project: FlowBench) -> None:
    def cancel() -> str:
        run = _paused(project)
        project.server.cancel(run["id"])
        return str(run["id"])

    with ThreadPoolExecutor() as pool:
        cancelling = pool.submit(cancel)
        state = project.run_here("promotion", version=2, require_approval=True)

    assert (state.name, state.message) == ("Cancelled", "The run was cancelled.")
    assert project.server.state(cancelling.result())["name"] == "Cancelled"


def test_a_rollback_without_a_champion_before_says_so(project: FlowBench) -> None:
    state = project.run_here("promotion", action="rollback")

    assert state.is_failed()
    assert str(state.message).startswith("rollback failed: ")


def test_ingest_takes_a_new_version_and_tells_of_it(
    root: Path, tmp_path: Path, server: PrefectServer
) -> None:
    made = make_workspace(root, _new(tmp_path / "project"))
    project = FlowBench(InProcess(made.folder, made.env), server)
    source = write(only(fer2013_csv(random_faces(0))), tmp_path / "fer2013.csv")
    project.workspace.check("fer", "source", "pin", str(source))
    project.workspace.check("dvc", "remote", "add", "--default", "kept", str(tmp_path / "kept"))
    write(only(fer2013_csv(random_faces(1))), source)
    (tmp_path / "kept").write_text("no folder, as good as a server that is away")
    state = project.run_here("ingest")
    assert str(state.message).startswith("push failed: ")
    assert _pinned(project.workspace) == "unchanged"  # the pin has moved
    (tmp_path / "kept").unlink()
    status, output = project.run("ingest")

    assert status == 0, output
    assert last_line(output).endswith("; pinned, read and checked.")
    assert _pinned(project.workspace) == "unchanged"
    assert (project.folder / "data/prepared/train.npz").exists()
    assert list((tmp_path / "kept").rglob("*"))  # pushed
    (event,) = wait_until(lambda: _events(server, str(source)), "the event is sent")
    assert event["resource"]["prefect.resource.id"] == "fer-fusion.source"
    state = project.run_here("ingest")
    assert state.name == "Unchanged"
    assert str(state.message).endswith("is as it was pinned.")


def _paused(project: FlowBench) -> dict[str, Any]:
    """The run that waits for an answer."""
    runs = project.server.flow_runs
    found: dict[str, Any] = wait_until(
        lambda: next((run for run in runs() if run["state"]["type"] == "PAUSED"), None),
        "the run is paused",
    )
    return found


def _description(project: FlowBench, run: dict[str, Any]) -> str:
    """What stands above the form on the run's page."""
    key = run["state"]["state_details"]["run_input_keyset"]["description"]
    address = f"{project.server.api}/flow_runs/{run['id']}/input/{key}"
    shown = wait_until(lambda: (got := requests.get(address, timeout=30)).ok and got, "a form")
    return str(shown.json())


def _events(server: PrefectServer, uri: str) -> list[dict[str, Any]]:
    """The events of a new version of this source; other tests send some of theirs."""
    wanted = {"event": {"name": ["fer-fusion.source.updated"]}}
    events = server.ask("/events/filter", filter=wanted)["events"]
    return [event for event in events if event["payload"].get("uri") == uri]


def _pinned(workspace: Workspace) -> str:
    return workspace.check("fer", "source", "status").strip().rpartition(": ")[2]


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder

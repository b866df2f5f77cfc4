"""Run a flow once, deploy them all, or work for them: `python -m flows --help`."""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from ruamel.yaml import YAML

from fer_pipeline.cli import Commands
from fer_pipeline.errors import FlowError
from fer_pipeline.events import exit_status
from flows.server import require_server_for_all, start_server

app = typer.Typer(
    cls=Commands,
    help="Run a flow once. It reports to the Prefect server that is configured, else to one that "
    "it starts for the time of the run.",
    no_args_is_help=True,
    add_completion=False,
)
Recipe = Annotated[
    str | None, typer.Option(help="A name in recipes/, to put in place of params.yaml.")
]
Wait = Annotated[float, typer.Option(help="Seconds to wait for another run in that folder.")]
Workers = Annotated[
    bool, typer.Option("--workers", help="Send the trainings to Prefect workers, anywhere.")
]
Pool = Annotated[str, typer.Option(help="The work pool of these workers.")]
Folder = Annotated[Path, typer.Option(help="The folder of dvc.yaml.")]


@app.command()
def pipeline(
    recipe: Recipe = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="A value for params.yaml, as KEY=VALUE.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A stage to bring up to date; all if none is named.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Run stages that are up to date, too.")] = False,
    workers: Workers = False,
    pool: Pool = "fer-stages",
    wait: Wait = 60.0,
    folder: Folder = Path(),
) -> None:
    """The graph of dvc.yaml: what 'dvc repro' does, with the trainings in parallel."""
    from flows.params import compose

    overrides = dict(_key_and_value(text) for text in override or [])
    if recipe is not None or overrides:
        compose(folder, recipe, overrides)  # what is wrong is said before a server starts
    which = {"recipe": recipe, "overrides": overrides, "targets": target or [], "force": force}
    _run("pipeline", **which, **_place(workers, pool), folder=folder, wait_for_workspace_s=wait)


@app.command()
def sweep(
    seeds: Annotated[str, typer.Option(help="Seeds, as 0..9 or 1,4,7.")] = "",
    lists: Annotated[
        list[str] | None, typer.Option("--set", help="Values for params.yaml, as KEY=A,B,C.")
    ] = None,
    recipe: Recipe = None,
    output: Annotated[Path | None, typer.Option(help="A CSV file for the table.")] = None,
    workers: Workers = False,
    pool: Pool = "fer-stages",
    folder: Folder = Path(),
) -> None:
    """The graph for every combination of seeds and values, as DVC experiments, and their spread."""
    from flows.experiments import SEED, combine, parse_seeds, parse_values

    values = {SEED: parse_seeds(seeds)} if seeds else {}
    for key, listed in map(parse_values, lists or []):
        if key in values:
            raise FlowError(f"{key} is given twice: name all its values once")
        values[key] = listed
    combine(folder, recipe, values, "", {})  # what is wrong is said before a server starts
    which = {"values": values, "recipe": recipe, "output": output}
    _run("sweep", **which, **_place(workers, pool), folder=folder)


@app.command()
def ingest(wait: Wait = 600.0, folder: Folder = Path()) -> None:
    """Take a new version of the source, if there is one; says 'unchanged' if not."""
    _run("ingest", folder=folder, wait_for_workspace_s=wait)


@app.command()
def score(
    source: Annotated[str, typer.Argument(help="New faces: a folder, a table, an archive.")],
    model: Annotated[str, typer.Option(help="A version, or an alias.")] = "champion",
    output: Annotated[Path | None, typer.Option(help="A file for the predictions, too.")] = None,
    folder: Folder = Path(),
) -> None:
    """Predict new faces, and say whether they have drifted from what the model was measured on."""
    _run("score", source=source, model=model, output=output, folder=folder)


@app.command()
def promotion(
    action: Annotated[Literal["promote", "rollback"], typer.Argument(help="What to do.")],
    version: Annotated[
        int | None, typer.Argument(help="To promote; the challenger if none is given.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept with the move.")] = "",
    force: Annotated[bool, typer.Option(help="Promote against the policy.")] = False,
    ask: Annotated[
        bool, typer.Option("--ask", help="Pause until the move is approved on the run's page.")
    ] = False,
    folder: Folder = Path(),
) -> None:
    """Make a version of the registered model the champion, or undo the last move."""
    move = {"action": action, "version": version, "reason": reason, "force": force}
    _run("promotion", **move, require_approval=ask, folder=folder)


@app.command()
def deploy(
    pool: Annotated[
        str, typer.Option(envvar="FER_POOL", help="The work pool; made if there is none.")
    ] = "fer",
    suffix: Annotated[
        str, typer.Option(envvar="FER_SUFFIX", help="Ends the names, as in 'weekly-SUFFIX'.")
    ] = "",
    stage_pool: Annotated[
        str, typer.Option(help="The work pool of the workers that take single stages.")
    ] = "fer-stages",
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Replace deployments of another folder.")
    ] = False,
    folder: Folder = Path(),
) -> None:
    """Deploy the flows to run in that folder by schedule, by event and on request."""
    require_server_for_all()
    start_server()()
    from flows.deploy import deploy, deploy_stage

    deploy(folder, pool, suffix and f"-{suffix}", take_over=take_over)
    deploy_stage(stage_pool)
    typer.echo(f"deployed; to do the work: prefect worker start --pool {pool}")
    typer.echo(f"to take single stages: python -m flows worker --pool {stage_pool}")


@app.command()
def worker(
    pool: Annotated[str, typer.Option(help="The work pool.")] = "fer-stages",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Stages at once; as many as there are slots.")
    ] = None,
    folder: Folder = Path(),
) -> None:
    """Take single stages of pipelines that run elsewhere, until it is stopped."""
    from flows.deploy import start_worker

    start_worker(folder, pool, limit)


@app.command()
def stack(
    command: Annotated[
        list[str] | None, typer.Argument(help="Run this, after '--', then stop; else until Ctrl-C.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="How many run stages.")] = 2,
    state: Annotated[Path, typer.Option(help="The folder of all that is kept.")] = Path(".stack"),
    folder: Folder = Path(),
) -> None:
    """PostgreSQL, an S3 store, MLflow, Prefect and workers as processes of this machine."""
    from flows.stack import run_stack

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise typer.Exit(run_stack(folder, state, workers, command or [], typer.echo))


def _place(workers: bool, pool: str) -> dict[str, str]:
    """Where stages that take a slot run."""
    if workers:
        require_server_for_all()
    return {"where": "workers" if workers else "here", "pool": pool}


def _key_and_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"'{text}' is not KEY=VALUE")
    return key, YAML(typ="safe").load(value)


def _run(name: str, **parameters: Any) -> None:
    """Run a flow to its end; exit status 0, or 1 with one line that says why."""
    # The interpreter's end then looks for no cycles among Prefect's objects: half a second.
    atexit.register(gc.freeze)
    # SIGTERM ends the flow as Ctrl-C does, which scripts' '&' has ignored: with all it started.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    gc.disable()  # imports make objects by the hundred thousand, and hardly any garbage
    wait_until_ready = start_server()
    flow = getattr(import_module(f"flows.{name}"), name)  # takes seconds, as the server does
    for needed_later in ("fastapi.encoders", "networkx", "dvc.scm"):  # by Prefect and by DVC
        import_module(needed_later)
    gc.freeze()
    gc.enable()
    from prefect.settings import temporary_settings

    from flows.runs import settle

    with temporary_settings(wait_until_ready()):
        state = settle(flow(**parameters, return_state=True))
    if state.is_completed():
        typer.echo(state.message)
        return
    typer.echo(f"error: {state.message}", err=True)
    sys.exit(1)


def main() -> None:
    """Entry point: one line and exit status 1 for every error that the user can correct."""
    sys.exit(exit_status(app))


if __name__ == "__main__":
    main()

"""`fer registry`: who is champion, how that came about, and how to change it."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from fer_pipeline.cli.model import JsonOption, open_registry
from fer_pipeline.paths import PARAMS, require_project

app = typer.Typer(
    help="The registered model: challenger, champion, and the way back.", no_args_is_help=True
)

Reason = Annotated[str, typer.Option(help="Why; it stays on record.")]
By = Annotated[str | None, typer.Option(help="Who or what asks; the user's name if left out.")]


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Show champion, challenger and previous champion, and what the policy says."""
    from fer_pipeline.registry.promote import read_status

    with open_registry() as (tracking, params):
        now = read_status(tracking, params)
    if as_json:
        typer.echo(json.dumps(now, indent=2))
        return
    Console().print(_status_table(now))
    decision: Any = now["decision"]
    if decision:
        says = {True: "promote", False: "do not promote", None: "undecided"}[decision["promote"]]
        typer.echo(f"policy: {says}: {decision['reason']}")


@app.command()
def history(as_json: JsonOption = False) -> None:
    """List every move of 'champion': when, who, why, from which version to which."""
    from dataclasses import asdict

    from fer_pipeline.registry.aliases import read_moves

    with open_registry() as (tracking, params):
        moves = read_moves(tracking, params.registry.model_name)
    if as_json:
        typer.echo(json.dumps([asdict(move) for move in moves], indent=2))
        return
    if not moves:
        typer.echo(f"{params.registry.model_name} has had no champion yet")
        return
    table = Table(
        Column("when (UTC)", no_wrap=True), "what", "from", "to", "by", "reason", "policy"
    )
    for move in moves:
        note = {"FINISHED": "", "KILLED": " (taken back)"}.get(move.status, " (interrupted)")
        when = move.at[:16].replace("T", " ")  # a minute: seconds and zone are in the JSON
        told = (when, f"{move.action}{note}", move.came_from, move.to, move.by, move.reason)
        table.add_row(*(text or "–" for text in (*told, move.policy)))
    Console().print(table)


@app.command()
def promote(
    version: Annotated[
        str | None, typer.Argument(help="A version; the challenger if left out.")
    ] = None,
    reason: Reason = "none given",
    by: By = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where the policy says no; that is recorded.")
    ] = False,
) -> None:
    """Make a version champion, if it passes its check and the policy allows it."""
    from fer_pipeline.registry.promote import promote as make_champion

    with open_registry() as (tracking, params):
        move = make_champion(
            tracking, params, version, by=by or _user(), reason=reason, force=force
        )
    if move is None:
        typer.echo(f"{f'version {version}' if version else 'the challenger'} is champion already")
    else:
        typer.echo(f"champion: version {move.to}, until now {move.came_from or 'none'}")
        typer.echo(f"policy: {move.policy}")


@app.command()
def rollback(reason: Reason = "none given", by: By = None) -> None:
    """Make the previous champion champion again."""
    from fer_pipeline.registry.promote import roll_back

    with open_registry() as (tracking, params):
        name = params.registry.model_name
        move = roll_back(tracking, name, by=by or _user(), reason=reason)
    typer.echo(f"champion: version {move.to}, until now {move.came_from}")


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=0, help="How many of the newest versions stay.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which would go.")] = False,
) -> None:
    """Delete old versions with their files; champion, previous and challenger always stay."""
    from fer_pipeline.registry.versions import collect_garbage

    with open_registry() as (tracking, params):
        gone = collect_garbage(tracking, params.registry.model_name, keep, dry_run=dry_run)
    for number in gone:
        typer.echo(f"version {number}: {'would go' if dry_run else 'deleted'}")
    if not gone:
        typer.echo("nothing to delete")


@app.command()
def register() -> None:
    """Make a version of the results that are here, such as those of an applied experiment."""
    from fer_pipeline.repair import require_idle

    require_project()
    require_idle(Path())
    stage = ("repro", "--force", "--single-item", "register")
    sys.exit(subprocess.run([sys.executable, "-m", "dvc", *stage], check=False).returncode)


@app.command()
def relocate() -> None:
    """Have mlflow.db name the folder beside it, after the project was moved or copied."""
    from fer_pipeline.params.load import load_params
    from fer_pipeline.registry.local_store import relocate as rename
    from fer_pipeline.registry.tracking import mlflow_errors, tracking_uri

    with mlflow_errors(uri := tracking_uri()):
        rows = rename(uri, load_params(PARAMS).registry.experiment)
    typer.echo(f"{rows} places changed" if rows else "nothing to change")


def _user() -> str:
    """Who is logged in; in a container the number may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _status_table(now: dict[str, object]) -> Table:
    table = Table(str(now["model_name"]), "version", "accuracy", "gain", "recipe", "commit", "data")
    for alias in ("champion", "challenger", "previous"):
        one: Any = now[alias] or {}
        told = (
            one.get("version"),
            f"{one['accuracy']:.2%}" if "accuracy" in one else None,
            f"{100 * one['gain']:+.2f}" if "gain" in one else None,
            one.get("recipe"),
            one.get("git.commit", "")[:12],
            one.get("data.sha256", "")[:12] or one.get("data.source"),
        )
        table.add_row(alias, *(text or "–" for text in told))
    return table

"""The `fer` command: what people do that is not a stage of the graph."""

from __future__ import annotations

import io
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fer_pipeline.cli import Commands
from fer_pipeline.cli import registry as registry_cli
from fer_pipeline.cli.model import JsonOption, export, show_page
from fer_pipeline.cli.predict import predict
from fer_pipeline.cli.score import score
from fer_pipeline.errors import DataError, hide_password
from fer_pipeline.events import exit_status
from fer_pipeline.paths import DOWNLOADS, PARAMS, SOURCE_LOCK, require_project

if TYPE_CHECKING:
    from fer_pipeline.data.sources.edition import Edition
    from fer_pipeline.data.sources.pins import FilePin
    from fer_pipeline.params.schema import Params

app = typer.Typer(
    cls=Commands,
    help="FER Fusion: facial expression recognition as a pipeline. 'dvc repro' runs it; "
    "this command does the rest.",
    no_args_is_help=True,
    add_completion=False,
)
source = typer.Typer(help="Where the faces come from.", no_args_is_help=True)
app.add_typer(source, name="source")
app.add_typer(registry_cli.app, name="registry")
app.command()(predict)
app.command()(score)
app.command()(export)
app.command("app")(show_page)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fer-fusion {metadata.version('fer-fusion')}")
        raise typer.Exit


VersionOption = typer.Option(
    "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
)


@app.callback()
def _options(version: Annotated[bool, VersionOption] = False) -> None:
    """What can be asked without a command."""


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A params file, such as a recipe.")] = PARAMS,
) -> None:
    """Validate a params file without running anything."""
    from fer_pipeline.models.catalog import require_known, require_weights
    from fer_pipeline.params.load import load_params

    params = load_params(path)
    require_known(params.backbones)
    for name, own in params.backbones.items():
        require_weights(name, own)
    typer.echo(f"{path} is valid: {', '.join(params.backbones)}")


@app.command()
def repair() -> None:
    """Mend what a killed 'dvc repro' can leave of DVC's own files, so that it runs again."""
    from fer_pipeline.repair import repair as mend

    require_project()
    for step in mend(Path()) or ["nothing to repair"]:
        typer.echo(step)


@app.command()
def accept(
    stages: Annotated[
        list[str] | None, typer.Argument(help="Stages; all that are out of date if left out.")
    ] = None,
) -> None:
    """Record edits of code that change no result (comments, docstrings, layout): nothing runs.

    The program that made the outs is compared with the present one; git must have its text.
    """
    from fer_pipeline.cli.accept import accept as record
    from fer_pipeline.repair import require_idle

    require_project()
    require_idle(Path())
    findings = record(stages or [])
    for found in findings:
        typer.echo(f"{found.stage}: {found.reason}")
    if not findings:
        typer.echo("nothing is out of date")
    if not all(found.accepted for found in findings):
        sys.exit(1)


@source.command()
def pin(
    uri: Annotated[
        str, typer.Argument(help="'sample', a file, archive or folder, https://… or s3://…")
    ],
    ferplus: Annotated[
        str | None, typer.Option(help="FER+'s fer2013new.csv, where it is not beside the faces.")
    ] = None,
) -> None:
    """Take the present version of a source: 'dvc repro' then reads it, and no other.

    The source is fetched, read whole as params.yaml says, and written to data/source.lock.yaml
    only if it is an edition of FER2013. Commit that file.
    """
    from fer_pipeline.data.sources.pins import read_pin, write_pin
    from fer_pipeline.data.sources.source import Fetcher, pin_source
    from fer_pipeline.params.load import load_params
    from fer_pipeline.stages.progress import bytes_bar

    for name in (uri, ferplus or ""):
        if not name.isprintable():  # such as bytes that are no UTF-8, which no lock file can hold
            raise DataError(f"{name!r} holds what can't be printed: rename it")
    params = load_params(PARAMS)
    before = read_pin(SOURCE_LOCK) if SOURCE_LOCK.exists() else None
    with bytes_bar(hide_password(uri)) as progress:
        fetcher = Fetcher(DOWNLOADS, progress)
        found, edition = pin_source(uri, ferplus, params.data, before, fetcher)
    drift = None
    if found.profile and found.previous:
        # SciPy's statistics take a second to import.
        from fer_pipeline.data.quality.drift import measure_drift, require_small

        drift = measure_drift(found.profile, found.previous.profile)
        require_small(drift, params.data.max_drift, f"{SOURCE_LOCK} stays as it was")
    write_pin(found, SOURCE_LOCK)
    typer.echo(f"pinned {uri} ({_version(found.source)}) in {SOURCE_LOCK}")
    if edition is not None:
        typer.echo(f"{len(edition.faces):,} faces: {edition.name}")
        _warn_of_other_counts(edition, params)
    if drift and found.previous:
        typer.echo(f"drift from {_version(found.previous.source)}: {drift.largest:.3f}")


@source.command()
def status(as_json: JsonOption = False) -> None:
    """Say what is pinned, and whether the source has moved on since."""
    from fer_pipeline.data.sources.pins import read_pin
    from fer_pipeline.data.sources.source import upstream_moved

    require_project()
    pinned = read_pin(SOURCE_LOCK)
    changes = [(one, upstream_moved(one)) for one in (pinned.source, pinned.ferplus) if one]
    if as_json:
        words = "; ".join(f"{one.uri}: {moved}" for one, moved in changes if moved)
        found = {"uri": pinned.source.uri, "moved": words, "command": pinned.command}
        typer.echo(json.dumps(found))
        return
    for one, moved in changes:
        typer.echo(f"{one.uri} ({_version(one)}): {moved or 'unchanged'}")
    if any(moved for _, moved in changes):
        typer.echo(f"to take what is there now: {pinned.command}")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A git revision, a DVC experiment, or 'workspace'.")],
    b: Annotated[str, typer.Argument(help="Another one.")] = "workspace",
) -> None:
    """Put two runs side by side: their scores, and whether the fused models really differ.

    Both are read from git and DVC's cache; nothing is run or checked out.
    """
    from fer_pipeline.cli.compare import conclusion, gain_of, read_run, score_table
    from fer_pipeline.params.load import load_params

    params = load_params(PARAMS)
    run_a, run_b = read_run(a), read_run(b)
    gain = gain_of(run_b, run_a, params.evaluation, params.seed)
    Console().print(score_table(run_a, run_b))
    typer.echo(conclusion(run_a, run_b, gain))


def main() -> None:
    """Entry point: one line and exit status 1 for every error that the user can mend."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # what the terminal's encoding lacks
    sys.exit(exit_status(app))


def _warn_of_other_counts(edition: Edition, params: Params) -> None:
    """Faces that were left out or added show in the counts alone."""
    from fer_pipeline.data.quality.duplicates import count_classes, differences_from_known

    if params.data.labels != "fer" or params.data.protocol == "holdout":
        return
    differences = differences_from_known(count_classes(edition.faces))
    if differences:
        typer.echo(
            f"note: class counts differ from FER2013's in {len(differences)} places: this is a "
            f"part of it, or another set"
        )


def _version(pin: FilePin) -> str:
    """What tells a version from others, short enough for a line."""
    return pin.version or f"sha256 {pin.sha256[:12]}…"

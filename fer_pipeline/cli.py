"""The `fer` command: what people do that is not a stage of the graph."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fer_pipeline.errors import FerError
from fer_pipeline.layout import FUSION, PARAMS, SOURCE_LOCK, model_file, require

app = typer.Typer(
    help="FER Fusion: facial expression recognition as a pipeline. 'dvc repro' runs it; "
    "this command does the rest.",
    no_args_is_help=True,
    add_completion=False,
)
source = typer.Typer(help="Where the faces come from.", no_args_is_help=True)
app.add_typer(source, name="source")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A params file, such as a recipe.")] = PARAMS,
) -> None:
    """Validate a params file without running anything."""
    from fer_pipeline.models.catalog import require_known
    from fer_pipeline.params import load_params

    params = load_params(path)
    require_known(params.backbones)
    typer.echo(f"{path} is valid: {', '.join(params.backbones)} on {params.data.source}")


@source.command()
def pin(uri: Annotated[str, typer.Argument(help="'sample', or the path of a file.")]) -> None:
    """Write the source's present version to data/source.lock.yaml: 'dvc repro' insists on it."""
    from fer_pipeline.data.sources import resolve, write_pin

    found = resolve(uri)
    write_pin(found, SOURCE_LOCK)
    typer.echo(f"pinned {uri} ({_version(found.version, found.sha256)}) in {SOURCE_LOCK}")


@source.command()
def status() -> None:
    """Say what is pinned, what params.yaml names, and whether the two agree."""
    from fer_pipeline.data.sources import read_pin, resolve
    from fer_pipeline.params import load_params

    named = load_params(PARAMS).data.source
    pinned, now = read_pin(SOURCE_LOCK), resolve(named)
    typer.echo(f"params.yaml  {named} ({_version(now.version, now.sha256)})")
    if pinned is None or pinned.uri != named:
        typer.echo(f"not pinned: run 'fer source pin {named}'")
    elif pinned == now:
        typer.echo("pinned, unchanged")
    else:
        typer.echo(f"changed since it was pinned ({_version(pinned.version, pinned.sha256)})")


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Pictures of one face each, cropped to it.")],
) -> None:
    """Read the expression of faces with the fused model that 'dvc repro' has made here."""
    import tempfile

    from fer_pipeline.emotions import EMOTIONS
    from fer_pipeline.models.fusion import read_fusion
    from fer_pipeline.params import load_params
    from fer_pipeline.serving.bundle import write_bundle
    from fer_pipeline.serving.images import read_images
    from fer_pipeline.serving.predictor import FusedPredictor

    pixels = read_images(images)
    params = load_params(PARAMS)
    files = {name: require(model_file(name), f"train@{name}") for name in params.backbones}
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder), params.backbones, read_fusion(FUSION), files)
        chances = FusedPredictor.load(Path(folder)).probabilities(pixels)
    table = Table("image", "expression", *EMOTIONS)
    for path, row in zip(images, chances, strict=True):
        table.add_row(str(path), EMOTIONS[row.argmax()], *(f"{chance:.1%}" for chance in row))
    Console().print(table)


def main() -> None:
    """Entry point: one line and exit status 1 for every error that the user can mend."""
    try:
        app()
    except FerError as error:
        if os.environ.get("FER_DEBUG"):
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def _version(version: str, sha256: str) -> str:
    return f"version {version}" if version else f"sha256 {sha256[:12]}…"

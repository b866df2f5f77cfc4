"""`fer export`: the fused model as a file for other runtimes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from fer_pipeline.cli.model import MODEL_HELP, choose_bundle
from fer_pipeline.errors import FusionError
from fer_pipeline.paths import VAL


def export(
    version: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    format: Annotated[Literal["onnx"], typer.Option(help="The format of the file.")] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="In int8, calibrated on val: smaller and faster.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="The file; fused.onnx, or fused-int8.onnx, if left out.")
    ] = None,
) -> None:
    """Write the fused model, with its views, weights and temperature, as one graph.

    It is checked on val first: nothing is written unless it answers as the model does.
    """
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise FusionError(
            f"{missing[0]} is not installed: install it with: pip install 'fer-fusion[onnx]'"
        )
    from fer_pipeline.data.faces import load_split
    from fer_pipeline.serving.onnx_export import export_onnx
    from fer_pipeline.stages.progress import image_bar

    path = output or Path("fused-int8.onnx" if int8 else "fused.onnx")
    val = load_split(VAL)
    with choose_bundle(version) as bundle:
        found = export_onnx(bundle, val, path, image_bar, int8=int8)
        typer.echo(f"{bundle.name} as {path}, {path.stat().st_size / 1e6:.0f} MB")
    typer.echo(f"float32 is within {found.difference:.1g} of the model's probabilities")
    if found.accuracy:
        typer.echo("accuracy on val: {:.2%} in float32, {:.2%} in int8".format(*found.accuracy))

"""The fused model that a command works with, and the commands that do no more than hand it on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fer_pipeline.errors import FusionError
from fer_pipeline.files import read_json
from fer_pipeline.paths import FUSION, PARAMS, VAL, VERDICT, model_file, require

if TYPE_CHECKING:
    from fer_pipeline.params.schema import Params
    from fer_pipeline.registry.tracking import Tracking
    from fer_pipeline.serving.bundle import Bundle

MODEL_HELP = (
    "A version (3), an alias (champion), or models:/NAME@ALIAS; if left out, what the last "
    "'dvc repro' made here."
)
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]
ModelOption = Annotated[str | None, typer.Option("--model", help=MODEL_HELP)]


@contextmanager
def open_registry() -> Iterator[tuple[Tracking, Params]]:
    """The store that has answered, and the params; what MLflow raises becomes one line."""
    from fer_pipeline.params.load import load_params
    from fer_pipeline.registry.tracking import connect, mlflow_errors
    from fer_pipeline.stages.launch import set_up_log

    set_up_log(sys.stderr)  # what is on stdout may be read by a program
    params = load_params(PARAMS)
    tracking = connect(params.registry.experiment)
    with mlflow_errors(tracking.uri):
        yield tracking, params


@contextmanager
def choose_bundle(model: str | None) -> Iterator[Bundle]:
    """Give the fused model that is asked for, as files.

    Raises:
        DataError: the last run's is asked for, and it has made none.
        FusionError: its fusion does not fit params.yaml.
        RegistryError: the registry does not have it, or can't be reached.
    """
    if model is None:
        yield _last_run()
        return
    from fer_pipeline.registry.fetch import fetch_bundle, find_version, parse_model

    with open_registry() as (tracking, params):
        name, chosen = parse_model(model, params.registry.model_name)
        with fetch_bundle(tracking, name, find_version(tracking, name, chosen)) as bundle:
            yield bundle


def _last_run() -> Bundle:
    from fer_pipeline.fusion.result import read_fusion
    from fer_pipeline.params.load import load_params
    from fer_pipeline.provenance import model_digest
    from fer_pipeline.serving.bundle import Bundle, describe, parse_change

    params = load_params(PARAMS)
    files = {name: require(model_file(name), "") for name in params.backbones}
    spec = describe(read_fusion(FUSION), params.backbones, params.predict.tta)
    verdict = read_json(VERDICT, "register") if VERDICT.exists() else {}
    of_these = verdict.get("model_sha256") == model_digest(files)
    return Bundle("the last run", spec, files, parse_change(verdict["bf16"]) if of_these else None)


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
            f"{missing[0]} is not installed: in the project's folder, pip install -e '.[onnx]'"
        )
    from fer_pipeline.data.faces import load_split
    from fer_pipeline.serving.onnx_export import export_onnx
    from fer_pipeline.stages.progress import image_bar

    path = output or Path("fused-int8.onnx" if int8 else "fused.onnx")
    with choose_bundle(version) as bundle:
        found = export_onnx(bundle, load_split(VAL), path, image_bar, int8=int8)
        typer.echo(f"{bundle.name} as {path}, {path.stat().st_size / 1e6:.0f} MB")
    typer.echo(f"float32 is within {found.difference:.1g} of the model's probabilities")
    if found.accuracy:
        typer.echo("accuracy on val: {:.2%} in float32, {:.2%} in int8".format(*found.accuracy))


def show_page(
    model: ModelOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the page is.")] = 8501,
    host: Annotated[
        str, typer.Option(help="127.0.0.1 for this machine alone, 0.0.0.0 for all that reach it.")
    ] = "127.0.0.1",
) -> None:
    """Try the fused model on a page: a photo in, the expressions of its faces out."""
    from fer_pipeline.app.server import Shown, require_free, require_streamlit, serve
    from fer_pipeline.serving.speed import pick_predictor

    require_streamlit()
    require_free(host, port)
    with choose_bundle(model) as bundle:
        shown = Shown(pick_predictor(bundle), bundle.name)
    typer.echo(f"{shown.name} is at http://{host}:{port}; Ctrl-C ends it")
    serve(shown, host, port)

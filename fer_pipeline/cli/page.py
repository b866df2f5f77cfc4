"""The command `fer app`: a page to try the fused model."""

from __future__ import annotations

from typing import Annotated

import typer

from fer_pipeline.cli.model import ModelOption, choose_bundle


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
        shown = Shown(pick_predictor(bundle.spec, bundle.files, change=bundle.bf16), bundle.name)
    typer.echo(f"{shown.name} is at http://{host}:{port}; Ctrl-C ends it")
    serve(shown, host, port)

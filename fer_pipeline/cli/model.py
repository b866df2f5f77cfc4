"""The fused model that a command works with: that of the last run, or one from the registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fer_pipeline.files import read_json
from fer_pipeline.paths import FUSION, PARAMS, VERDICT, model_file, require

if TYPE_CHECKING:
    from fer_pipeline.serving.bundle import Bundle

MODEL_HELP = (
    "A version (3), an alias (champion), or models:/NAME@ALIAS; if left out, what the last "
    "'dvc repro' made here."
)
ModelOption = Annotated[str | None, typer.Option("--model", help=MODEL_HELP)]


@contextmanager
def choose_bundle(model: str | None) -> Iterator[Bundle]:
    """Give the fused model that is asked for, as files.

    Raises:
        DataError: the last run's is asked for, and it has made none.
        FusionError: its fusion does not fit params.yaml.
        RegistryError: the registry does not have it, or can't be reached.
    """
    from fer_pipeline.params.load import load_params

    params = load_params(PARAMS)
    if model is None:
        from fer_pipeline.fusion.result import read_fusion
        from fer_pipeline.provenance import content_digest
        from fer_pipeline.serving.bundle import Bundle, describe
        from fer_pipeline.serving.precision import parse_change

        files = {name: require(model_file(name), f"train@{name}") for name in params.backbones}
        spec = describe(read_fusion(FUSION), params.backbones, params.predict.tta)
        verdict = read_json(VERDICT, "register") if VERDICT.exists() else {}
        of_these = verdict.get("model_sha256") == content_digest([FUSION, *files.values()])
        bf16 = parse_change(verdict["bf16"]) if of_these else None
        yield Bundle("the last run", spec, files, bf16)
        return
    from fer_pipeline.registry.fetch import fetch_bundle, find_version, parse_model
    from fer_pipeline.registry.tracking import connect

    name, chosen = parse_model(model, params.registry.model_name)
    tracking = connect(params.registry.experiment)
    with fetch_bundle(tracking, name, find_version(tracking, name, chosen)) as bundle:
        yield bundle

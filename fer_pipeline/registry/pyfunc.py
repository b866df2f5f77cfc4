"""The registered model's code: MLflow stores this file and runs it when the model is loaded.

So no object is pickled: what travels is this file, the package beside it, and a bundle of
safetensors (`fer_pipeline.serving.bundle`).
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import RequestError
from fer_pipeline.serving.batching import Batcher
from fer_pipeline.serving.bundle import PRECISION_VARIABLE, open_bundle, read_change
from fer_pipeline.serving.requests import read_request
from fer_pipeline.serving.speed import pick_predictor

REQUESTS = 16
"""So many requests are read, and wait, at the same time; those beyond wait unread."""


class BadRequest(MlflowException):
    """What a client is told; MLflow's server would put all that was sent before it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "message" or not hasattr(self, name):
            super().__setattr__(name, value)


class FusedModel(PythonModel):
    """Faces in, one column per emotion out: probabilities, or logits if asked for."""

    # MLflow finds both methods by their exact parameter names.
    def load_context(self, context: PythonModelContext) -> None:
        bundle = open_bundle(Path(context.artifacts["bundle"]), "this version")
        change = read_change(Path(context.artifacts["record"]))
        choice = os.environ.get(PRECISION_VARIABLE, "auto")
        self._predictor = pick_predictor(replace(bundle, bf16=change), choice)
        self._batcher = Batcher(self._predictor.compute)
        self._timeout_s: float | None = None
        server: Any = sys.modules.get("mlflow.pyfunc.scoring_server")
        if server is not None:
            # MLflow's server reads Parquet by itself, of which a kilobyte may be gigabytes.
            server.parse_parquet_input = _refuse_parquet
            self._prepare_server()

    def _prepare_server(self) -> None:
        self._timeout_s = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()  # type: ignore[no-untyped-call]
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # imported by a program that is no server
            return
        # Python's own pool has six threads on two cores: no more requests would wait together.
        loop.set_default_executor(ThreadPoolExecutor(REQUESTS, "request"))

    # A plain np.ndarray is an annotation that MLflow leaves alone; it warns of none at all.
    def predict(  # type: ignore[no-untyped-def]
        self, context, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Faces, as `read_request` takes them, to a frame with the seven emotions as columns.

        `params`: `output` is `probabilities` or `logits`; with `singles` there are columns
        `BACKBONE.EMOTION` with the same of each backbone by itself.

        Raises:
            BadRequest: the request is no good; MLflow's server answers 400 with the message.
        """
        asked = params or {}
        output = asked.get("output", "probabilities")
        try:
            if output not in ("probabilities", "logits"):
                raise RequestError(f"output is {output!r}: ask for 'probabilities' or 'logits'")
            images = read_request(model_input)
        except RequestError as error:
            raise BadRequest(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        logits = self._batcher.compute(images, self._timeout_s)
        prediction = self._predictor.conclude(logits)
        values, singles = prediction.probabilities, prediction.single_probabilities
        if output == "logits":
            values, singles = prediction.logits, prediction.single_logits
        frame = pd.DataFrame(values, columns=list(EMOTIONS))
        if not asked.get("singles", False):
            return frame
        return frame.join([_columns(name, single) for name, single in singles.items()])


def _refuse_parquet(parquet_input: object) -> None:
    raise BadRequest("Parquet is not read: send JSON", error_code=INVALID_PARAMETER_VALUE)


def _columns(backbone: str, values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, columns=[f"{backbone}.{emotion}" for emotion in EMOTIONS])


mlflow.models.set_model(FusedModel())

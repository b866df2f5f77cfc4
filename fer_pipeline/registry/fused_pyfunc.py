"""The registered model's code: MLflow stores this file and runs it when the model is loaded.

So no object is pickled: what travels is this file, the package beside it, and a bundle of
safetensors (`fer_pipeline.serving.bundle`).
"""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.serving.predictor import FusedPredictor


class FusedModel(PythonModel):
    """Faces in, one column per emotion out: probabilities, or logits if asked for."""

    # MLflow finds both methods by their exact parameters, and takes annotations on
    # `model_input` for a schema of its own, so `predict` has none.
    def load_context(self, context) -> None:  # type: ignore[no-untyped-def]
        self._predictor = FusedPredictor.load(Path(context.artifacts["bundle"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """(N, 48, 48) uint8 images to a frame with the seven emotions as columns."""
        images = np.asarray(model_input, np.uint8)
        wanted = (params or {}).get("output", "probabilities")
        if wanted not in ("probabilities", "logits"):
            raise ValueError(f"output is {wanted!r}: ask for 'probabilities' or 'logits'")
        return pd.DataFrame(getattr(self._predictor, wanted)(images), columns=list(EMOTIONS))


mlflow.models.set_model(FusedModel())

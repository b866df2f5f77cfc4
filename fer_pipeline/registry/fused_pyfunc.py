"""The registered model's code: MLflow stores this file and runs it when the model is loaded.

So no object is pickled: what travels is this file, the package beside it, and a bundle of
safetensors (`fer_pipeline.serving.bundle`).
"""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.serving.predictor import FusedPredictor


class FusedModel(PythonModel):
    """Faces in, one column per emotion out: probabilities, or logits if asked for."""

    # MLflow finds both methods by their exact parameter names.
    def load_context(self, context: PythonModelContext) -> None:
        self._predictor = FusedPredictor.load(Path(context.artifacts["bundle"]))

    # A plain np.ndarray is an annotation that MLflow leaves alone: the signature given when
    # the model was logged stays in force.
    def predict(  # type: ignore[no-untyped-def]
        self, context, model_input: np.ndarray, params: dict[str, str] | None = None
    ) -> pd.DataFrame:
        """(N, 48, 48) uint8 images to a frame with the seven emotions as columns."""
        images = np.asarray(model_input, np.uint8)
        wanted = (params or {}).get("output", "probabilities")
        if wanted not in ("probabilities", "logits"):
            raise ValueError(f"output is {wanted!r}: ask for 'probabilities' or 'logits'")
        return pd.DataFrame(getattr(self._predictor, wanted)(images), columns=list(EMOTIONS))


mlflow.models.set_model(FusedModel())

"""MLflow runs, and the registered model with its versions: the only package that imports mlflow.

MLflow reads its switches while it is imported, so they are set here, before any module of this
package can import it: no telemetry, half a minute of patience with a server that has answered
before (its own default is four), no progress bars for copies from disk to disk, and no addresses
of runs on stdout, which programs read. A value in the environment wins.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

"""The only room that imports mlflow.

MLflow reads its switches while it is being imported, so they are set here, before any module
of the room can import it: no telemetry, no bars for copying a file from disk to disk, and no
addresses of runs on stdout, where programs read. A value from the environment wins.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

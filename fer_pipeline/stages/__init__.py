"""The stages of the graph, each `python -m fer_pipeline.stages.NAME`.

Under DVC on Linux a stage ends when DVC is killed: one that went on alone would write its outs
beside the next `dvc repro`. The kernel is asked for this here, where a stage's process arrives
first, because importing torch and MLflow takes seconds in which DVC may die unnoticed. The same
holds for the further processes of a training on several devices. Elsewhere, importing this does
nothing.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_STARTED_BY_ANOTHER = {"DVC_STAGE", "LOCAL_RANK"}  # by DVC, by Lightning Fabric


def _end_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)  # DVC was gone before the kernel knew


if _STARTED_BY_ANOTHER & set(os.environ) and sys.platform.startswith("linux"):
    _end_with_parent()

"""Entry of every stage: `python -m fer_pipeline.stages NAME [BACKBONE]`, beside `dvc.yaml`.

What must come first happens here, before anything that takes seconds to import.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_STARTED_BY_ANOTHER = {"DVC_STAGE", "LOCAL_RANK"}  # by DVC, by Lightning Fabric


def end_with_parent() -> None:
    """Under DVC on Linux, ask the kernel to end this process when its parent ends.

    A stage that went on behind a killed `dvc repro` would write its outs beside the next one. The
    same holds for the further processes of a training on several devices.
    """
    if not (_STARTED_BY_ANOTHER & set(os.environ) and sys.platform.startswith("linux")):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)  # the parent was gone before the kernel knew


if __name__ == "__main__":
    end_with_parent()
    from fer_pipeline.stages.launch import main

    sys.exit(main())

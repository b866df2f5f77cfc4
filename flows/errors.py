"""What ends a flow on purpose; each message stands by itself."""

from __future__ import annotations

from fer_pipeline.errors import FerError


class FlowError(FerError):
    """A flow can't start or go on."""


class BusyError(FlowError):
    """Another process works here, or holds what is needed."""

    transient = True


class CommandError(FlowError):
    """A command of the run failed."""


class PassingCommandError(CommandError):
    """It failed for a reason that may have passed in a minute: a server, a lock."""

    transient = True


class StoppedError(FlowError):
    """The run is ending: nothing new is started."""

"""A command of the project as a flow runs it: its lines in the log, its events heard."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect.logging import get_run_logger

from fer_pipeline.events import VARIABLE, Listener
from flows.errors import CommandError, PassingCommandError
from flows.process import Children


@dataclass
class Outcome:
    """What came of a command.

    Attributes:
        status: its exit status.
        lines: what it printed.
        error: what it said in its last words for people, or empty.
        passing: whether it said that the same may succeed in a minute.
    """

    status: int = 0
    lines: list[str] = field(default_factory=list)
    error: str = ""
    passing: bool = False

    def document(self) -> dict[str, Any]:
        """The JSON object that it printed, after whatever else it had to say.

        Raises:
            CommandError: there is none.
        """
        start = next((n for n, line in enumerate(self.lines) if line.startswith("{")), None)
        if start is None:
            raise CommandError(f"no JSON in the answer: {' '.join(self.lines)[:200]}")
        text = "\n".join(self.lines[start:])
        document: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
        return document


def execute(
    children: Children,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    deadline_s: float | None = None,
    held: Sequence[int] = (),
    on_event: Callable[[str, dict[str, Any]], None] | None = None,
) -> Outcome:
    """Run a command to its end, whatever that is.

    Args:
        children: runs it.
        command: to run, in the folder of `children`.
        env: over this process's own environment.
        deadline_s: when it is ended at the latest.
        held: descriptors of locks for it to hold.
        on_event: told of what the command tells by `fer_pipeline.events`.

    Raises:
        StoppedError: the flow run is ending.
    """
    log = get_run_logger()
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="fer-events-") as folder:
        file = Path(folder) / "events.jsonl"
        listener = Listener(file)

        def listen() -> None:
            for event in listener.read():
                kind = event.pop("event")
                if kind == "error":
                    outcome.error, outcome.passing = event["message"], event["transient"]
                elif on_event:
                    on_event(kind, event)

        def on_line(text: str) -> None:
            log.info(text)
            outcome.lines.append(text)
            listen()

        outcome.status = children.run(
            command, on_line, {**(env or {}), VARIABLE: str(file)}, deadline_s, held
        )
        listen()
    return outcome


def require_success(outcome: Outcome, what: str) -> Outcome:
    """The outcome itself, if it is one.

    Raises:
        PassingCommandError: it failed, and the same may succeed in a minute.
        CommandError: it failed.
    """
    if outcome.status == 0:
        return outcome
    kind = PassingCommandError if outcome.passing else CommandError
    reason = outcome.error or f"exit status {outcome.status}, see its log"
    raise kind(f"{what} failed: {reason}")

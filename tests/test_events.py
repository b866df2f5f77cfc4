"""Events: nothing without a listener, whole lines in order with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_pipeline.events import VARIABLE, Listener, emit

LONG = 3_000  # more than fits into a buffer of stdio's, were there one for several lines


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "events.jsonl"))
    return tmp_path / "events.jsonl"


@pytest.mark.parametrize("said", [None, ""])
def test_without_a_listener_nothing_is_told(
    said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    if said is not None:
        monkeypatch.setenv(VARIABLE, said)
    emit("epoch", epoch=1)
    assert list(tmp_path.iterdir()) == []


def test_events_arrive_once_and_in_order(file: Path) -> None:
    listener = Listener(file)
    assert listener.read() == []
    emit("run", name="ä\nb", uri=None)
    emit("epoch", epoch=1, val_accuracy=0.25)
    assert listener.read() == [
        {"event": "run", "name": "ä\nb", "uri": None},
        {"event": "epoch", "epoch": 1, "val_accuracy": 0.25},
    ]
    assert listener.read() == []
    emit("error", message="no", transient=True)
    assert listener.read() == [{"event": "error", "message": "no", "transient": True}]
    assert len(Listener(file).read()) == 3


def test_a_line_that_is_being_written_waits(file: Path) -> None:
    listener = Listener(file)
    line = json.dumps({"event": "epoch", "backbone": "ä"}, ensure_ascii=False).encode() + b"\n"
    with file.open("ab", buffering=0) as stream:
        stream.write(line + line[:-5])
        assert listener.read() == [{"event": "epoch", "backbone": "ä"}]
        assert listener.read() == []
        stream.write(line[-5:-1])
        assert listener.read() == []
        stream.write(line[-1:] + line[:3])
        assert listener.read() == [{"event": "epoch", "backbone": "ä"}]


def test_the_lines_of_many_processes_do_not_mix(file: Path, root: Path) -> None:
    code = f"""
import sys
from fer_pipeline.events import emit
sys.stdin.read()
for number in range(100):
    emit("epoch", who=sys.argv[1], number=number, text=sys.argv[1] * {LONG})
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, who],
            env=os.environ | {"PYTHONPATH": str(root), VARIABLE: str(file)},
            stdin=subprocess.PIPE,
        )
        for who in "abcd"
    ]
    for process in processes:  # all at the same time
        assert process.stdin is not None
        process.stdin.close()
    listener = Listener(file)
    events = []
    while any(process.poll() is None for process in processes):
        events += listener.read()
    events += listener.read()
    assert [process.returncode for process in processes] == [0] * 4
    assert len(events) == 400
    for who in "abcd":
        own = [event for event in events if event["who"] == who]
        assert [event["number"] for event in own] == list(range(100))
        assert {event["text"] for event in own} == {who * LONG}

"""One version per content, whoever registers it, however often and at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_pipeline.registry.aliases import set_challenger
from fer_pipeline.registry.tracking import Tracking, connect
from fer_pipeline.registry.versions import (
    CONTENT_TAG,
    LONGEST_DESCRIPTION,
    deduplicate,
    discard_version,
    find_versions,
    shorten,
)

PROCESSES = 4
START_TIMEOUT_S = 300

# Registers contents one after another, as soon as there is a starting gun. The bundle is none:
# what is registered is not read here.
REGISTER = """
import sys, time
from pathlib import Path
import numpy as np
import torch
from fer_pipeline.registry.candidate import Candidate
from fer_pipeline.registry.runs import open_run
from fer_pipeline.registry.tracking import connect
from fer_pipeline.registry.versions import register_once

name, *contents = sys.argv[1:]
shared = Path(sys.argv[0]).parent
bundle = Path("bundle")
bundle.mkdir(parents=True)
(bundle / "spec.json").write_text("{}")
tracking = connect("faces")
(shared / f"ready-{name}").touch()
while not (shared / "go").exists():
    time.sleep(0.001)
example = np.zeros((1, 48, 48), np.uint8)
for turn, content in enumerate(contents):
    with open_run(tracking, name, {"turn": turn}) as run:
        candidate = Candidate(
            content=content,
            run_id=run.run_id,
            folders={"bundle": bundle},
            example=example,
            tags={},
            description="A card",
        )
        print(content, register_once(tracking, "raced", candidate))
"""


def make_versions(store: Tracking, name: str, contents: str) -> None:
    """A version for each letter, made as by somebody who was killed right after."""
    store.client.create_registered_model(name)
    for content in contents:
        store.client.create_model_version(name, "nowhere", tags={CONTENT_TAG: content})


def numbers(store: Tracking, name: str) -> list[str]:
    return sorted(str(one.version) for one in store.client.search_model_versions(f"name='{name}'"))


def test_a_content_that_was_never_registered_is_not_found(store: Tracking) -> None:
    make_versions(store, "known", "ab")
    assert find_versions(store, "known", "b") == ["2"]
    assert find_versions(store, "known", "c") == []
    assert find_versions(store, "unknown", "a") == []


def test_the_lowest_version_of_a_content_stays(store: Tracking) -> None:
    make_versions(store, "copies", "babcbb")
    assert deduplicate(store, "copies", "b") == "1"
    assert numbers(store, "copies") == ["1", "2", "4"]
    assert deduplicate(store, "copies", "b") == "1"


def test_a_version_with_an_alias_is_never_removed(store: Tracking) -> None:
    make_versions(store, "named", "aaa")
    set_challenger(store, "named", "2")
    assert deduplicate(store, "named", "a") == "1"
    assert numbers(store, "named") == ["1", "2"]


def test_the_numbers_of_removed_versions_are_not_given_again(store: Tracking) -> None:
    make_versions(store, "numbers", "aa")
    deduplicate(store, "numbers", "a")
    made = store.client.create_model_version("numbers", "nowhere", tags={CONTENT_TAG: "b"})
    assert str(made.version) == "3"


def test_a_version_that_is_gone_can_be_discarded_again(store: Tracking) -> None:
    make_versions(store, "gone", "a")
    discard_version(store, "gone", "1")
    discard_version(store, "gone", "1")
    assert numbers(store, "gone") == []


def test_a_discarded_version_leaves_no_files(store: Tracking, tmp_path: Path) -> None:
    make_versions(store, "files", "")
    model = store.client.create_logged_model(store.experiment_id)
    (tmp_path / "weights").write_text("many")
    store.client.log_model_artifact(model.model_id, str(tmp_path / "weights"))
    store.client.create_model_version("files", model.model_uri)
    (file,) = (Path.cwd() / "mlartifacts").rglob("weights")
    assert file.read_text() == "many"
    discard_version(store, "files", "1")
    assert not file.exists()
    assert numbers(store, "files") == []


def test_a_long_card_is_cut_after_a_line_and_says_so() -> None:
    card = "\n".join(f"line {number}" for number in range(2000))
    cut = shorten(card)
    assert LONGEST_DESCRIPTION - 20 < len(cut) <= LONGEST_DESCRIPTION
    kept, _, pointer = cut.partition("\n\n")
    assert card.startswith(f"{kept}\n")
    assert "artifact of the run" in pointer
    assert shorten("short") == "short"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machines", "contents"), [(1, "aa"), (4, "ab")], ids=["one machine", "four machines"]
)
def test_registrations_from_four_processes_at_once_make_one_version_per_content(
    machines: int, contents: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines see one database, but not each other's locks, which lie beside it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    store = connect("faces")
    script = tmp_path / "register.py"
    script.write_text(REGISTER)
    processes = []
    for number in range(PROCESSES):
        machine = tmp_path / f"machine-{number % machines}"
        machine.mkdir(exist_ok=True)
        (machine / f"{number}").mkdir()
        if not (machine / "mlflow.db").exists():
            (machine / "mlflow.db").symlink_to(tmp_path / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{machine / 'mlflow.db'}")
        processes.append(
            subprocess.Popen(
                [sys.executable, str(script), str(number), *contents],
                cwd=machine / f"{number}",
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while len(list(tmp_path.glob("ready-*"))) < PROCESSES:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in processes)
            time.sleep(0.01)
        (tmp_path / "go").touch()
        said = [process.communicate(timeout=START_TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * PROCESSES, "\n".join(
        err for _, err in said
    )
    answers = [
        line
        for out, _ in said
        for line in out.splitlines()
        if line[:2] in {f"{c} " for c in contents}
    ]
    assert len(answers) == PROCESSES * len(contents)
    assert len(set(answers)) == len(set(contents))  # all say the same of a content
    left = store.client.search_model_versions("name = 'raced'")
    assert sorted(one.tags[CONTENT_TAG] for one in left) == sorted(set(contents))
    assert {f"{one.tags[CONTENT_TAG]} {one.version}" for one in left} == set(answers)
    assert {one.description for one in left} == {"A card"}

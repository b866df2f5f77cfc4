"""One version per content, whoever registers it, however often and at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from fer_pipeline.registry.aliases import set_challenger
from fer_pipeline.registry.tracking import Tracking
from fer_pipeline.registry.versions import (
    CONTENT_TAG,
    LONGEST_DESCRIPTION,
    deduplicate,
    discard_version,
    find_versions,
    shorten,
)

TESTS = Path(__file__).parents[1]
PROCESSES = 4
CONTENTS = "ab"
TIMEOUT_S = 300

# Forks a process per folder, for the imports take longest. Each registers the contents one after
# another as soon as all are connected.
REGISTER = """
import os, sys, time, traceback
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fused_model import register_content
from fer_pipeline.registry.tracking import connect

contents, folders = sys.argv[2], [Path(name) for name in sys.argv[3:]]
gun = Path("go").resolve()

def race(folder):
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder.parent / 'mlflow.db'}"
    os.chdir(folder)
    tracking = connect("faces")
    Path("ready").touch()
    while not gun.exists():
        time.sleep(0.001)
    Path("bundle").mkdir()
    with Path("answers").open("a") as answers:
        for content in contents:
            number = register_content(tracking, "raced", content, Path("bundle"))
            print(content, number, file=answers)

for folder in folders:
    if os.fork() == 0:
        try:
            race(folder)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
while not all((folder / "ready").exists() for folder in folders):
    assert not os.waitpid(-1, os.WNOHANG)[0], "one has ended before it was connected"
    time.sleep(0.01)
gun.touch()
sys.exit(any([os.waitpid(-1, 0)[1] for _ in folders]))
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
def test_registrations_from_two_machines_at_once_make_one_version_per_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> None:
    """Machines see one database, but not each other's locks, which lie beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path)
    folders = []
    for number in range(PROCESSES):
        machine = tmp_path / f"machine-{number % 2}"
        folders.append(machine / f"{number}")
        folders[-1].mkdir(parents=True)
        if not (machine / "mlflow.db").exists():
            (machine / "mlflow.db").symlink_to(tmp_path / "mlflow.db")
    done = subprocess.run(
        [sys.executable, "-c", REGISTER, TESTS, CONTENTS, *folders],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    answers = [line for folder in folders for line in (folder / "answers").read_text().splitlines()]
    assert len(answers) == PROCESSES * len(CONTENTS)
    assert len(set(answers)) == len(CONTENTS)  # all say the same of a content
    store = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    left = store.search_model_versions("name = 'raced'")
    assert {f"{one.tags[CONTENT_TAG]} {one.version}" for one in left} == set(answers)
    assert len(left) == len(CONTENTS)
    assert {one.description for one in left} == {"A card"}

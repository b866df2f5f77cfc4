"""One version per content, whoever registers it, however often and at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from processes import WITHIN_S

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
PROCESSES = 3

# Forks a process per folder, for the imports take longest. Each registers the same content as soon
# as all are connected.
REGISTER = """
import os, sys, time, traceback
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fused_model import register_content
from fer_pipeline.registry.tracking import connect

folders = [Path(name) for name in sys.argv[2:]]

def race(folder):
    tracking = connect("faces")
    folder.mkdir()
    while not all(one.exists() for one in folders):
        time.sleep(0.001)
    number = register_content(tracking, "raced", "a", folder)
    (folder / "answer").write_text(number)

for folder in folders:
    if os.fork() == 0:
        try:
            race(folder)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
sys.exit(any([os.wait()[1] for _ in folders]))
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
def test_registrations_at_once_make_one_version_per_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path / 'others.db'}")  # not asked
    shutil.copy(empty_database, tmp_path)
    folders = [tmp_path / str(number) for number in range(PROCESSES)]
    done = subprocess.run(
        [sys.executable, "-c", REGISTER, TESTS, *folders],
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, done.stderr
    (left,) = MlflowClient(uri, registry_uri=uri).search_model_versions()
    assert {(folder / "answer").read_text() for folder in folders} == {str(left.version)}
    assert (left.tags[CONTENT_TAG], left.description) == ("a", "A card")

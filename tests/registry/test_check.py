"""No alias moves to a version that can't be fetched, is damaged, or scores otherwise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from fused_model import (
    NAME,
    SMALL,
    draw_test_split,
    make_bundle,
    make_version,
    put_test_split,
    register_bundle,
)
from processes import WITHIN_S, wait_until

from fer_pipeline.errors import RegistryError
from fer_pipeline.params.schema import Params
from fer_pipeline.paths import SCRATCH
from fer_pipeline.registry.aliases import Aliases, read_aliases
from fer_pipeline.registry.check import check_version
from fer_pipeline.registry.fetch import open_storage
from fer_pipeline.registry.policy import compare_versions
from fer_pipeline.registry.promote import nominate
from fer_pipeline.registry.record import (
    IMAGES,
    Record,
    images_to_check,
    load_record,
    read_record,
    write_record,
)
from fer_pipeline.registry.tracking import Tracking
from fer_pipeline.serving.predictor import FusedPredictor
from fer_pipeline.serving.requests import MAX_IMAGES

SPLIT = draw_test_split()
WEIGHTS = f"bundle/{SMALL[0]}.safetensors"

CHECK = """
import sys
from fer_pipeline.registry.check import check_version
from fer_pipeline.registry.tracking import connect
check_version(connect("faces"), *sys.argv[1:])
"""


@pytest.fixture(scope="module")
def bundle(params: Params, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(params, tmp_path_factory.mktemp("bundle"), SMALL[:1])


@pytest.fixture(scope="module")
def number(store: Tracking, bundle: Path) -> str:
    return register_bundle(store, bundle, SPLIT)


@pytest.fixture
def artifacts(store: Tracking, number: str) -> Iterator[Path]:
    """Where the version's files lie; what a test does to them is undone."""
    files = Path(open_storage(store, NAME, number).artifact_dir) / "artifacts"
    kept = files.with_name("kept")
    shutil.copytree(files, kept)
    yield files
    shutil.rmtree(files)
    kept.rename(files)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without prepared data."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(store: Tracking, number: str, params: Params) -> str:
    """What is said when the version is to become challenger; and that it has not."""
    with pytest.raises(RegistryError) as refused:
        nominate(store, params, number)
    assert read_aliases(store, NAME) == Aliases(None, None, None)
    return str(refused.value)


@pytest.mark.slow
def test_other_logits_than_those_on_record_are_refused(
    store: Tracking, number: str, artifacts: Path, params: Params, elsewhere: Path
) -> None:
    put_test_split(SPLIT, elsewhere)
    record = load_record(artifacts / "record")
    logits = record.logits.copy()
    logits[0, 3] += 2e-4
    write_record(replace(record, logits=logits), artifacts / "record")
    says = refusal(store, number, params)
    assert "a logit of 16 test images differs by 0.0002 from the one on record" in says


@pytest.mark.slow
def test_damaged_weights_are_refused_by_name(
    store: Tracking, number: str, artifacts: Path, params: Params, elsewhere: Path
) -> None:
    content = bytearray((artifacts / WEIGHTS).read_bytes())
    content[-1] ^= 1  # the last bit of a mantissa: no logit would show it
    (artifacts / WEIGHTS).write_bytes(content)
    says = refusal(store, number, params)
    assert (
        "version 1 is not whole: its shufflenet_v2_x0_5.safetensors is missing or not what was"
        in says
    )


@pytest.mark.slow
def test_missing_weights_are_refused_by_name(
    store: Tracking, number: str, artifacts: Path, params: Params, elsewhere: Path
) -> None:
    (artifacts / WEIGHTS).unlink()
    assert f"its {SMALL[0]}.safetensors is missing or not" in refusal(store, number, params)


def scoring_processes(parent: int) -> list[psutil.Process]:
    """Those that score for a process; to connect it may start others."""
    return [
        process
        for process in psutil.process_iter(["ppid", "cmdline"])
        if process.info["ppid"] == parent
        and any(word.endswith("scoring.py") for word in process.info["cmdline"] or ())
    ]


@pytest.mark.slow
def test_a_killed_check_leaves_no_process_and_the_next_clears_its_files_and_passes(
    store: Tracking, number: str, elsewhere: Path
) -> None:
    """Without the test images the drawn faces are scored."""
    put_test_split(draw_test_split(seed=5), elsewhere)
    process = subprocess.Popen([sys.executable, "-c", CHECK, NAME, number])
    (child,) = wait_until(lambda: scoring_processes(process.pid), "no check")
    process.kill()
    process.wait()
    assert psutil.wait_procs([child], timeout=WITHIN_S)[1] == []
    assert list((elsewhere / SCRATCH).glob("*/images.npy"))
    assert check_version(store, NAME, number).startswith("16 drawn faces score as on record")
    assert list((elsewhere / SCRATCH).iterdir()) == []


@pytest.mark.slow
def test_a_version_that_has_lost_its_files_is_not_registered_again(
    store: Tracking, number: str, bundle: Path, artifacts: Path, params: Params
) -> None:
    store.client.set_registered_model_alias(NAME, "challenger", number)
    try:
        (artifacts / WEIGHTS).unlink()
        assert register_bundle(store, bundle, SPLIT) == number
        with pytest.raises(
            RegistryError, match=r"its shufflenet_v2_x0_5.safetensors has no bytes, not"
        ):
            nominate(store, params, number)
    finally:
        store.client.delete_registered_model_alias(NAME, "challenger")


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_version_without_a_whole_record_is_refused(
    damage: str, store: Tracking, number: str, artifacts: Path, params: Params, elsewhere: Path
) -> None:
    if damage == "missing":
        shutil.rmtree(artifacts / "record")
    else:
        (artifacts / "record" / "record.npz").write_bytes(b"PK torn")
    assert "the record of fer-fusion version 1 can't be read" in refusal(store, number, params)


@pytest.mark.slow
def test_a_champion_of_another_test_set_is_scored_again_by_its_own_model(
    store: Tracking, number: str, bundle: Path, params: Params, elsewhere: Path
) -> None:
    # More than a version takes in one request.
    other = draw_test_split(seed=7, images=MAX_IMAGES + 6)
    put_test_split(other, elsewhere)
    challenger = make_version(store, elsewhere / "challenger", NAME, [], other)
    comparison = compare_versions(store, params, challenger, number)
    assert (comparison.champion, comparison.images, comparison.rescored) == (
        number,
        MAX_IMAGES + 6,
        True,
    )
    logits = FusedPredictor.load(bundle).predict(other.images).logits
    right = logits.argmax(axis=1) == other.labels
    assert comparison.gain == pytest.approx(1 - right.mean())


def make_record(images: int) -> Record:
    split = draw_test_split(images=images)
    logits = np.arange(images * 7, dtype=np.float32).reshape(-1, 7)
    return Record(logits, split.labels, split.groups, "none", split.images[:2], logits[:2])


def test_a_record_is_read_back(tmp_path: Path) -> None:
    record = make_record(9)
    write_record(record, tmp_path)
    found = load_record(tmp_path)
    assert found.test_sha256 == "none"
    for name in ("logits", "labels", "groups", "drawn", "drawn_logits"):
        np.testing.assert_array_equal(getattr(found, name), getattr(record, name))


def test_a_record_in_the_registry_holds_no_test_image(store: Tracking, number: str) -> None:
    record = read_record(store, NAME, number)
    assert len(record.logits) == len(SPLIT)
    assert record.brightness is not None
    assert record.brightness.sum() == len(SPLIT)
    sent = {image.tobytes() for image in SPLIT.images}
    assert not sent & {image.tobytes() for image in record.drawn}


@pytest.mark.parametrize("images", [5, 16, 200])
def test_the_checked_images_are_all_over_the_test_set(images: int, elsewhere: Path) -> None:
    from fer_pipeline.data.faces import split_sha256

    split = draw_test_split(images=images)
    put_test_split(split, elsewhere)
    record = replace(make_record(images), test_sha256=split_sha256(split))
    pixels, logits, kind = images_to_check(record)
    assert kind == "test images"
    assert len(pixels) == min(images, IMAGES)
    np.testing.assert_array_equal(pixels[[0, -1]], split.images[[0, -1]])
    np.testing.assert_array_equal(logits[[0, -1]], record.logits[[0, -1]])
    assert len({one.tobytes() for one in pixels}) == len(pixels)

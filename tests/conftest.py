"""What tests of several folders share: the committed params, and a small prepared sample."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from session_folder import make_session_folder

# Test workers share the cores: one thread each, said before anything imports torch. With more,
# torch's threads wait for each other's turns and everything takes many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before it, too: torch chooses its folder for compiled code while it is imported.
os.environ["TMPDIR"] = make_session_folder()

import pytest
from filelock import FileLock
from workspace import Workspace, copy_workspace, environment, make_workspace

from fer_pipeline.data.faces import Split
from fer_pipeline.data.quality.duplicates import group_by_pixels
from fer_pipeline.data.quality.splits import SplitName, split_faces
from fer_pipeline.data.sources.sample import draw_sample
from fer_pipeline.params.load import load_params
from fer_pipeline.params.schema import Params

ROOT = Path(__file__).resolve().parents[1]

# Workers take whole files in this order: the longest first, so that no worker is left alone with
# one at the end. Of the first two only one needs the finished workspace: the other does not wait.
LONGEST = (
    "test_compose.py",
    "stages/test_pipeline.py",
    "flows/test_workers.py",
    "flows/test_stack.py",
    "flows/test_pipeline.py",
    "flows/test_sample.py",
    "registry/test_check.py",
    "stages/test_interruption.py",
    "flows/test_deployments.py",
    "flows/test_sweep.py",
    "registry/test_servers.py",
    "test_gpu_benchmark.py",
    "stages/test_training_resume.py",
    "stages/test_damaged_files.py",
    "test_contributing.py",
    "stages/test_devices.py",
    "test_recipes.py",
    "registry/test_versions.py",
    "registry/test_tracking.py",
    "training/test_devices.py",
    "training/test_fit.py",
)


@pytest.fixture(scope="session")
def import_path() -> list[str]:
    return list(sys.path)


@pytest.fixture(autouse=True)
def _same_import_path(import_path: list[str]) -> None:
    """MLflow puts the code of a version that it loads before all other, and leaves it there."""
    sys.path[:] = import_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture
def disown_repositories(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have git take every repository for another user's, which it refuses."""

    def disown() -> None:
        # The machine's own settings may allow them all.
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")

    return disown


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed `params.yaml`."""
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without an experiment, to be copied: its migrations take seconds."""
    from mlflow.tracking import MlflowClient

    path: Path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small networks in the catalogue, and the folder of a package that has them."""
    from fused_model import small_networks

    folder = tmp_path_factory.mktemp("code")
    with small_networks(folder):
        yield folder


@pytest.fixture(scope="session")
def splits() -> dict[SplitName, Split]:
    """28 train, 14 val and 14 test faces of the sample, prepared."""
    faces = draw_sample(28, 14, 14, seed=3)
    return split_faces(faces, group_by_pixels(faces), "official")


@pytest.fixture(scope="session")
def finished(
    root: Path, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Workspace:
    """A workspace after one undisturbed `dvc repro`, the same for all workers; to be read only."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    done = folder.with_suffix(".done")
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            shutil.copy(empty_database, folder)
            make_workspace(root, folder).check("dvc", "repro")
            done.touch()
    return Workspace(folder, environment(folder))


@pytest.fixture
def copied(finished: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished workspace, to be changed."""
    return copy_workspace(finished, tmp_path / "copy")

"""A source on a real S3 server: from the pin to the faces, and what may go wrong between."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3Server
from workspace import InProcess, Workspace, copy_workspace, make_bare_workspace, stage

from fer_pipeline.data.faces import USAGES
from fer_pipeline.data.sources.pins import read_pin
from fer_pipeline.data.store import read_faces

pytestmark = pytest.mark.slow

INGEST = stage("ingest")
URI = "s3://faces/editions/fer2013.csv"


def edition(shift: int = 0) -> bytes:
    """A small whole csv: one face of every expression in every split."""
    rows = [
        f"{code},{' '.join([str(20 * code + split + shift), '255'] * 1152)},{usage}\n"
        for split, usage in enumerate(USAGES)
        for code in range(7)
    ]
    return ("emotion,pixels,Usage\n" + "".join(rows)).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3") / "data", ("faces",))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def ingested(
    server: S3Server, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, str]:
    """A folder where the object was pinned and ingested on a fresh machine; what the pin said."""
    bare = make_bare_workspace(root, tmp_path_factory.mktemp("ingested"))
    workspace = Workspace(bare.folder, bare.env | server.env())
    put(server, edition())
    said = workspace.check("fer", "source", "pin", URI)
    shutil.rmtree(workspace.folder / "data/downloads")
    workspace.check(*INGEST)
    return workspace, said


@pytest.fixture
def workspace(ingested: tuple[Workspace, str], server: S3Server, tmp_path: Path) -> Workspace:
    """A copy of that, to be changed; the server has what was pinned."""
    put(server, edition())
    copy = copy_workspace(ingested[0], tmp_path / "copy")
    return InProcess(copy.folder, copy.env)


def put(server: S3Server, content: bytes | None) -> None:
    key = URI.partition("faces/")[2]
    if content is None:
        server.ask("delete_object", Key=key)
    else:
        server.ask("put_object", Key=key, Body=content)


def fail(workspace: Workspace, *command: str) -> str:
    done = workspace.run(*command)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_an_object_is_pinned_ingested_and_known_to_move(
    server: S3Server, ingested: tuple[Workspace, str], workspace: Workspace
) -> None:
    said = ingested[1]
    assert f"pinned {URI} (ETag=" in said
    assert "21 faces: csv with labels and splits" in said
    pin = read_pin(workspace.folder / "data/source.lock.yaml").source
    assert (pin.uri, pin.size) == (URI, len(edition()))
    faces, origin = read_faces(workspace.folder / "data/raw/faces.parquet")
    assert faces.pixels[:, 0, 0].tolist() == [20 * c + s for s in range(3) for c in range(7)]
    assert (origin.uri, origin.sha256) == (URI, pin.sha256)
    assert "unchanged" in workspace.check("fer", "source", "status")

    put(server, edition(shift=1))
    assert "now ETag=" in workspace.check("fer", "source", "status")
    assert "drift from ETag=" in workspace.check("fer", "source", "pin", URI)


def test_what_was_downloaded_is_not_fetched_again(server: S3Server, workspace: Workspace) -> None:
    (workspace.folder / "data/raw/faces.parquet").unlink()
    put(server, None)
    workspace.check(*INGEST)
    assert (workspace.folder / "data/raw/faces.parquet").exists()


@pytest.mark.parametrize(
    ("now", "message"),
    [(None, "has gone since it was pinned"), (edition(shift=1), "has changed since it was pinned")],
)
def test_an_object_that_is_not_the_pinned_one_leaves_the_earlier_faces(
    now: bytes | None, message: str, server: S3Server, workspace: Workspace
) -> None:
    good = (workspace.folder / "data/raw/faces.parquet").read_bytes()
    shutil.rmtree(workspace.folder / "data/downloads")
    put(server, now)
    line = fail(workspace, *INGEST)
    assert line.startswith(f"error: {URI}")
    assert message in line
    assert f"run 'fer source pin {URI}' to take what is there now" in line
    assert (workspace.folder / "data/raw/faces.parquet").read_bytes() == good
    assert not [path for path in workspace.folder.rglob("*.partial*") if path.stat().st_size]


def test_bytes_with_another_sha256_than_the_pinned_are_refused(workspace: Workspace) -> None:
    lock = workspace.folder / "data/source.lock.yaml"
    digest = read_pin(lock).source.sha256
    lock.write_text(lock.read_text().replace(digest, "f" * 64))
    line = fail(workspace, *INGEST)
    assert f"{URI} is not what was pinned (sha256 ffffffffffff…, now {digest[:12]}…)" in line
    assert not list((workspace.folder / "data/downloads").rglob("*.csv"))


def test_a_broken_object_is_not_pinned(server: S3Server, workspace: Workspace) -> None:
    before = (workspace.folder / "data/source.lock.yaml").read_bytes()
    put(server, b"<!DOCTYPE html><html>Sign in</html>")
    assert "is a web page, not data" in fail(workspace, "fer", "source", "pin", URI)
    assert (workspace.folder / "data/source.lock.yaml").read_bytes() == before

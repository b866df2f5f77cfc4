"""What `data.source` names, as faces: the built-in sample or a local file, pinned or not.

A place (where) is resolved here; an edition (what the bytes are) is told apart by content in
`formats`. A further place adds a branch to `read_source`, a further edition one to `_read_file`.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fer_pipeline.data import formats
from fer_pipeline.data.sample import SAMPLE_VERSION, draw_sample
from fer_pipeline.errors import DataError
from fer_pipeline.writing import whole_file

if TYPE_CHECKING:
    from fer_pipeline.data.faces import Faces
    from fer_pipeline.params import DataParams

SAMPLE_URI = "sample"


@dataclass(frozen=True)
class Pin:
    """The one version of a source that the pipeline may read, as in `data/source.lock.yaml`.

    Attributes:
        uri: the source, as `data.source` names it.
        version: the built-in sample's version, else empty.
        sha256: of the file, else empty.
    """

    uri: str
    version: str
    sha256: str


def resolve(uri: str) -> Pin:
    """The current version of a source.

    Raises:
        DataError: there is no such source.
    """
    if uri == SAMPLE_URI:
        return Pin(uri, SAMPLE_VERSION, "")
    return Pin(uri, "", _sha256(_require_file(uri)))


def read_source(params: DataParams, pin: Pin | None) -> tuple[Faces, formats.Origin]:
    """Read the faces that `data.source` names, after checking them against their pin.

    A pin of another source does not count: then the source is read as it is now.

    Raises:
        DataError: the source is missing, damaged, or not what the pin says.
    """
    current = resolve(params.source)
    pinned = pin is not None and pin.uri == params.source
    if pin is not None and pinned and pin != current:
        raise DataError(
            f"{params.source} has changed since it was pinned ({_changed(pin, current)}): "
            f"run 'fer source pin {params.source}' to accept what it is now"
        )
    synthetic = params.source == SAMPLE_URI
    if synthetic:
        sample = params.sample
        faces = draw_sample(sample.train, sample.val, sample.test, sample.seed)
    else:
        faces = _read_file(Path(params.source))
    origin = formats.Origin(
        current.uri, current.version, current.sha256, pinned=pinned, synthetic=synthetic
    )
    return faces, origin


def read_pin(path: Path) -> Pin | None:
    """The pin in a lock file, or None where there is no such file.

    Raises:
        DataError: the file is no pin.
    """
    if not path.exists():
        return None
    try:
        return Pin(**YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except (YAMLError, TypeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is no source lock ({' '.join(str(error).split())}): run 'fer source pin URI'"
        ) from None


def write_pin(pin: Pin, path: Path) -> None:
    with whole_file(path) as partial:
        YAML().dump(asdict(pin), partial)


def _require_file(uri: str) -> Path:
    path = Path(uri)
    if "://" in uri:
        raise DataError(f"data.source is {uri}: only 'sample' and local files can be read")
    if not path.exists():
        raise DataError(f"{uri} is missing: set data.source to 'sample' or to a file that exists")
    if not path.is_file():
        raise DataError(f"{uri} is a folder: set data.source to a csv or parquet file")
    if path.stat().st_size == 0:
        raise DataError(f"{uri} is empty (0 bytes): fetch it again")
    return path


def _read_file(path: Path) -> Faces:
    with path.open("rb") as stream:
        start = stream.read(4)
    return formats.read_parquet(path) if start == b"PAR1" else formats.read_csv(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _changed(pin: Pin, current: Pin) -> str:
    if pin.version != current.version:
        return f"version {pin.version!r}, now {current.version!r}"
    return f"sha256 {pin.sha256[:12]}…, now {current.sha256[:12]}…"

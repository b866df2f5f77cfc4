"""How fast editions of FER2013 are read, next to torchvision's own data set class.

    python benchmarks/ingest.py [FACES] [--rounds N]

FACES is any set that `dvc repro ingest` made (default: data/raw/faces.parquet); its faces are
repeated up to 35,887, FER2013's number, and written as each edition in a temporary folder:

    csv        fer2013.csv, 296 MB: torchvision.datasets.FER2013 (both splits, and Training alone,
               which is all that it parses then) and this project, in pairs
    pictures   35,887 PNG files in a zip and in a tar.gz
    memory     the most that a process which reads the csv holds

Prints a table, and as its last line one JSON object of the figures. Takes some minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from commands import timed
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.datasets import FER2013

from fer_pipeline.data.faces import Faces
from fer_pipeline.data.sources.edition import Reading
from fer_pipeline.data.sources.editions import read_edition
from fer_pipeline.data.store import read_faces
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.paths import FACES

FER2013_IMAGES = 35_887
READING = Reading("fer", "refuse", holdout=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("faces", nargs="?", type=Path, default=FACES, help="an ingested set")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of csv timings (default 3)")
    options = parser.parse_args()
    faces = repeat(read_faces(options.faces)[0], FER2013_IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(faces, Path(folder), options.rounds)
    table = Table("what", "figure")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}")
    Console().print(table)
    print(json.dumps(figures))


def repeat(faces: Faces, images: int) -> Faces:
    return faces.select(np.resize(np.arange(len(faces)), images))


def measure(faces: Faces, folder: Path, rounds: int) -> dict[str, float]:
    """Time every edition; each is written, read, and compared with what was written."""
    csv = folder / "fer2013" / "fer2013.csv"
    csv.parent.mkdir()
    write_csv(faces, csv)
    digest = hashlib.md5(csv.read_bytes(), usedforsecurity=False).hexdigest()
    # The class accepts the one file that it knows: it is told of this one.
    FER2013._RESOURCES = {**FER2013._RESOURCES, "fer": (csv.name, digest)}
    ours, whole, training = [], [], []
    for _ in range(rounds):
        training.append(seconds(lambda: FER2013(folder, "train")))
        whole.append(training[-1] + seconds(lambda: FER2013(folder, "test")))
        ours.append(seconds(lambda: expect(faces, csv)))
    figures = {
        "csv_megabytes": csv.stat().st_size / 1e6,
        "csv_s": statistics.median(ours),
        "torchvision_both_splits_s": statistics.median(whole),
        "torchvision_training_s": statistics.median(training),
        "csv_speedup": statistics.median(w / o for w, o in zip(whole, ours, strict=True)),
        "csv_speedup_over_training_alone": statistics.median(
            t / o for t, o in zip(training, ours, strict=True)
        ),
        "csv_peak_memory_mb": peak_memory_mb(csv),
    }
    for path, write in ((folder / "faces.zip", write_zip), (folder / "faces.tar.gz", write_tar)):
        write(faces, path)
        figures[f"pictures_{path.name.partition('.')[2]}_s"] = seconds(partial(expect, faces, path))
    return figures


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def expect(faces: Faces, path: Path) -> None:
    found = read_edition(path, READING).faces
    if len(found) != len(faces) or found.pixels.sum() != faces.pixels.sum():
        raise SystemExit(f"{path} was not read back as it was written")


def peak_memory_mb(path: Path) -> float:
    """The largest resident size of a process that does nothing but read an edition.

    From /proc, for what the kernel adds up for a parent starts with the parent's own size.
    """
    script = (
        "import sys; from pathlib import Path; from fer_pipeline.data.sources.editions import *; "
        "read_edition(Path(sys.argv[1]), Reading('fer', 'refuse', False)); "
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-c", script, str(path)]
    return int(timed(command)[1]) * 1024 / 1e6


def write_csv(faces: Faces, path: Path) -> None:
    words = [str(grey) for grey in range(256)]
    with path.open("w") as stream:
        stream.write("emotion,pixels,Usage\n")
        rows = zip(faces.emotion, faces.pixels.reshape(len(faces), -1), faces.usage, strict=True)
        for emotion, pixels, usage in rows:
            stream.write(f"{emotion},{' '.join([words[grey] for grey in pixels])},{usage}\n")


def pictures(faces: Faces) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each face as a PNG, as the folder editions name them."""
    for row, (image, code, usage) in enumerate(
        zip(faces.pixels, faces.emotion, faces.usage, strict=True)
    ):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        split = "train" if usage == "Training" else "test"
        yield f"{split}/{EMOTIONS[code]}/{usage}_{row}.png", stream.getvalue()


def write_zip(faces: Faces, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in pictures(faces):
            archive.writestr(name, content)


def write_tar(faces: Faces, path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in pictures(faces):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()

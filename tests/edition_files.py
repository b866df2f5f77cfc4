"""Every edition of FER2013 of a few random faces, in every container, and what refuses them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fer_pipeline.data.faces import USAGES, Faces
from fer_pipeline.data.sources.edition import Reading
from fer_pipeline.data.sources.editions import read_edition
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError

Files = dict[str, bytes]
"""The files of an edition: name and content."""

OFFICIAL = Reading("fer", "refuse", holdout=False)
HOLDOUT = Reading("fer", "refuse", holdout=True)
HUB_CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
"""By alphabet, as data set hubs number them: not FER2013's order."""


def random_faces(seed: int = 0) -> Faces:
    """21 faces of random pixels: each emotion once in each split, in no order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(21)
    pixels = rng.integers(0, 256, (21, 48, 48), np.uint8)
    return Faces(
        pixels, np.tile(np.arange(7, dtype=np.int8), 3)[order], np.repeat(USAGES, 7)[order]
    )


def assert_same_faces(found: Faces, wanted: Faces) -> None:
    """Equal, row by row."""
    np.testing.assert_array_equal(found.emotion, wanted.emotion)
    np.testing.assert_array_equal(found.usage, wanted.usage)
    np.testing.assert_array_equal(found.pixels, wanted.pixels)
    assert (found.pixels.dtype, found.emotion.dtype) == (np.uint8, np.int8)


def in_order(faces: Faces) -> Faces:
    """Sorted by split and emotion, for editions that don't keep the order of the rows."""
    return faces.select(np.lexsort((faces.emotion, faces.usage)))


def refusal(
    path: Path, reading: Reading = OFFICIAL, names: Path | None = None, **more: Path
) -> str:
    """The one line with which an edition is refused; it names `path`, or the file `names`."""
    with pytest.raises(DataError) as refused:
        read_edition(path, reading, **more)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(names or path))
    return message


def read_or_refuse(path: Path, content: bytes) -> Faces | None:
    """What `content` reads as; None if it is refused in one line. No other error may come out."""
    path.write_bytes(content)
    try:
        return read_edition(path, OFFICIAL).faces
    except DataError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(path))
    return None


# csv


def csv_rows(faces: Faces) -> list[list[str]]:
    """Emotion, pixels and Usage of every face, as `fer2013.csv` has them."""
    return [
        [str(emotion), " ".join(map(str, image.ravel().tolist())), str(usage)]
        for emotion, image, usage in zip(faces.emotion, faces.pixels, faces.usage, strict=True)
    ]


def csv_bytes(
    rows: Iterable[Sequence[str]], header: Sequence[str] = ("emotion", "pixels", "Usage")
) -> bytes:
    return "".join(f"{','.join(row)}\n" for row in (header, *rows)).encode()


def fer2013_csv(faces: Faces) -> Files:
    return {"fer2013.csv": csv_bytes(csv_rows(faces))}


def icml_csv(faces: Faces) -> Files:
    rows = [[emotion, usage, pixels] for emotion, pixels, usage in csv_rows(faces)]
    return {"icml_face_data.csv": csv_bytes(rows, ("emotion", " Usage", " pixels"))}


def challenge(faces: Faces) -> Files:
    """`train.csv` with labels, `test.csv` without, as Kaggle's competition gave them out."""
    train, test = faces.usage == "Training", faces.usage != "Training"
    labelled = [row[:2] for row in csv_rows(faces.select(train))]
    unlabelled = [[f'"{row[1]}"'] for row in csv_rows(faces.select(test))]
    return {
        "train.csv": csv_bytes(labelled, ("emotion", "pixels")),
        "test.csv": csv_bytes(unlabelled, ("pixels",)),
    }


def competition(faces: Faces) -> Files:
    """All that Kaggle's competition page packs into one zip."""
    return {
        "example_submission.csv": b"1\n2\n3\n",
        "fer2013.tar.gz": tar_bytes(fer2013_csv(faces), "gz"),
        **icml_csv(faces),
        **challenge(faces),
    }


# pictures


def encode(image: np.ndarray[Any, Any], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def pictures_by_folder(faces: Faces) -> Files:
    """`SPLIT/CLASS/NUMBER.png` in spellings that people use."""
    splits = {"Training": "Train", "PublicTest": "validation", "PrivateTest": "TEST"}
    classes = ("Angry", "disgusted", "fearful", "Happiness", "SAD", "surprise", "6")
    return {
        f"images/{splits[usage]}/{classes[emotion]}/im{row}.png": encode(image)
        for row, (image, emotion, usage) in enumerate(
            zip(faces.pixels, faces.emotion, faces.usage, strict=True)
        )
    }


def pictures_by_name(faces: Faces, kind: str = "PNG") -> Files:
    """Kaggle's folders, where `test` has both test splits, told apart by the files' names."""
    return {
        f"{'train' if usage == 'Training' else 'test'}/{EMOTIONS[emotion]}/{usage}_{row}.{kind}"
        .lower(): encode(image, kind)
        for row, (image, emotion, usage) in enumerate(
            zip(faces.pixels, faces.emotion, faces.usage, strict=True)
        )
    }  # fmt: skip


# parquet


def parquet_columns(faces: Faces) -> dict[str, Any]:
    """The faces as columns with PNG images, to be spoilt one at a time."""
    return {
        "emotion": faces.emotion.astype(np.int64).tolist(),
        "Usage": faces.usage.tolist(),
        "image": [encode(image) for image in faces.pixels],
    }


def parquet_bytes(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def parquet_images(faces: Faces) -> Files:
    return {"fer.parquet": parquet_bytes(parquet_columns(faces))}


def parquet_numbers(faces: Faces) -> Files:
    columns = parquet_columns(faces)
    columns["pixels"] = pa.array(list(faces.pixels.reshape(len(faces), -1)), pa.list_(pa.uint8()))
    del columns["image"]
    return {"fer.parquet": parquet_bytes(columns)}


def parquet_raw_bytes(faces: Faces) -> Files:
    columns = parquet_columns(faces) | {"image": [image.tobytes() for image in faces.pixels]}
    return {"fer.parquet": parquet_bytes(columns)}


def parquet_texts(faces: Faces) -> Files:
    """`fer2013.csv` as pandas turns it into parquet."""
    emotion, pixels, usage = zip(*csv_rows(faces), strict=True)
    columns = {"emotion": list(map(int, emotion)), "pixels": pixels, "Usage": usage}
    return {"fer.parquet": parquet_bytes(columns)}


def hub_table(faces: Faces, classes: Sequence[str] = HUB_CLASSES) -> pa.Table:
    """As Hugging Face stores images: a struct, and labels numbered by a list in the metadata."""
    feature = {"names": list(classes), "_type": "ClassLabel"}
    about = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    order = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    return pa.table(
        {
            "image": [
                {"bytes": encode(image), "path": f"{row}.png"}
                for row, image in enumerate(faces.pixels)
            ],
            "label": [order.index(EMOTIONS[emotion]) for emotion in faces.emotion],
        }
    ).replace_schema_metadata({"huggingface": json.dumps(about)})


def hub_shards(
    faces: Faces, names: Sequence[str] = ("data/train-{}", "data/validation-{}", "data/test-{}")
) -> Files:
    """Two shards for each split, and the card that lies beside them."""
    files: Files = {"README.md": b"---\nlicense: mit\n---\n# 48x48 pixels\n"}
    for usage, name in zip(USAGES, names, strict=True):
        split = faces.select(faces.usage == usage)
        for shard in (0, 1):
            rows = np.flatnonzero(np.arange(len(split)) % 2 == shard)
            file_name = name.format(f"{shard:05}-of-00002") + ".parquet"
            files[file_name] = parquet_bytes(hub_table(split.select(rows)))
    return files


# containers


def zip_bytes(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_bytes(files: Files, compression: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write_folder(files: Files, path: Path) -> Path:
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def write(content: bytes, path: Path) -> Path:
    path.write_bytes(content)
    return path


def only(files: Files) -> bytes:
    """The content of the one file of an edition."""
    (content,) = files.values()
    return content


Writer = Callable[[Files, Path], Path]

ARCHIVES: dict[str, Writer] = {
    "zip": lambda files, path: write(zip_bytes(files), path),
    "zip, stored": lambda files, path: write(zip_bytes(files, zipfile.ZIP_STORED), path),
    "tar": lambda files, path: write(tar_bytes(files), path),
    "tar.gz": lambda files, path: write(tar_bytes(files, "gz"), path),
    "folder": write_folder,
}
"""Containers of any number of files."""

CONTAINERS: dict[str, Writer] = ARCHIVES | {
    "file": lambda files, path: write(only(files), path),
    "gz": lambda files, path: write(gzip.compress(only(files), 1), path),
}
"""And those of one file."""

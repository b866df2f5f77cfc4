"""The fused model on many faces: one by one in float32, as `fer predict` does it, and as ONNX.

    python -m pip install onnxruntime-ep-openvino  # without it, int8 is measured without OpenVINO
    python benchmarks/inference.py [--sizes cpu 299] [--faces 2000]

Untrained networks, which compute as long as trained ones, at the input sizes of recipes/cpu.yaml
and at 299. `fused_speedup` and its kin are images/s divided by those of the loop over pictures, in
the same run; reading pictures counts in `folder` and in `loop`, writing results in `folder`, and
loading a model nowhere.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from fer_pipeline.arrays import UInt8Array
from fer_pipeline.data.faces import Split
from fer_pipeline.data.pictures import read_picture
from fer_pipeline.data.sources.sample import draw_face
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params.schema import Tta
from fer_pipeline.serving.bundle import Bundle, Member, Spec
from fer_pipeline.serving.inputs import read_sources
from fer_pipeline.serving.onnx_export import export_onnx
from fer_pipeline.serving.outputs import open_output, tabulate
from fer_pipeline.serving.predictor import FusedPredictor
from fer_pipeline.serving.sources import find_sources

if TYPE_CHECKING:
    from onnxruntime import OrtEpDevice

SIZES: dict[str, tuple[dict[str, tuple[int, int]], Tta]] = {
    "cpu": ({"resnet50": (40, 44), "resnet101": (40, 44), "inception_v3": (75, 82)}, "flip"),
    "299": (dict.fromkeys(("resnet50", "resnet101", "inception_v3"), (299, 299)), "centre"),
}
"""Image and resized side of each network, and the test-time augmentation."""

ONE_BY_ONE = {"cpu": 150, "299": 20}
IN_BATCHES = {"cpu": 512, "299": 48}
"""Images behind a figure, by the sizes."""

BATCH = 32

ZIPPED = 35_887
"""Faces in a zip: as many as FER2013 has."""


def make_bundle(folder: Path, sizes: Mapping[str, tuple[int, int]], tta: Tta) -> Bundle:
    """Untrained networks, by name, with their image and resized sides, and equal weights."""
    files = {}
    for name in sizes:
        state = build_backbone(name, "none").state_dict()
        files[name] = folder / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in state.items()}, files[name])
    members = tuple(Member(name, 1 / len(sizes), *own) for name, own in sizes.items())
    return Bundle("untrained networks", Spec(members, 1.0, tta), files)


def draw_faces(count: int) -> UInt8Array:
    rng = np.random.default_rng(0)
    return np.stack([draw_face(place % 7, rng) for place in range(count)])


def write_pictures(faces: UInt8Array, folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{place:05}.png" for place in range(len(faces))]
    for path, face in zip(paths, faces, strict=True):
        Image.fromarray(face).save(path)
    return paths


def per_second(work: Callable[[], int]) -> float:
    """Images/s of a work that tells how many it did."""
    started = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - started)


def loop(predictor: FusedPredictor, paths: list[Path]) -> int:
    """What a script without this project's engine does."""
    for path in paths:
        predictor.predict(read_picture(path)[0][None])
    return len(paths)


def predict(predictor: FusedPredictor, source: Path, output: Path) -> int:
    """What `fer predict SOURCE --output` does."""
    done = 0
    with open_output(output) as write, closing(read_sources(find_sources([str(source)]))) as chunks:
        for chunk in chunks:
            write(tabulate(chunk, predictor.predict(chunk.images).probabilities, {}))
            done += len(chunk.names)
    return done


def read_only(source: Path) -> int:
    with closing(read_sources(find_sources([str(source)]))) as chunks:
        return sum(len(chunk.names) for chunk in chunks)


def in_onnx_runtime(file: Path, *, openvino: bool = False) -> Callable[[UInt8Array], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if openvino:
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        load_config = json.dumps({"CPU": settings})
        options.add_provider_for_devices(openvino_cpu(), {"load_config": load_config})
    session = onnxruntime.InferenceSession(file, options)
    return lambda faces: session.run(None, {"images": faces})


@cache
def openvino_cpu() -> list[OrtEpDevice]:
    """OpenVINO's processor as ONNX Runtime has it, which registers a library once."""
    import onnxruntime
    from onnxruntime_ep_openvino import get_ep_name, get_library_path

    onnxruntime.register_execution_provider_library("openvino", get_library_path())
    found = [one for one in onnxruntime.get_ep_devices() if one.ep_name == get_ep_name()]
    return [one for one in found if one.ep_metadata["ov_device"] == "CPU"]


def in_batches(answer: Callable[[UInt8Array], object], faces: UInt8Array) -> int:
    for start in range(0, len(faces), BATCH):
        answer(faces[start : start + BATCH])
    return len(faces)


def measure(label: str, faces: UInt8Array, folder: Path) -> dict[str, float]:
    """Images/s of each way."""
    bundle = make_bundle(folder, *SIZES[label])
    few, many = faces[: ONE_BY_ONE[label]], faces[: IN_BATCHES[label]]
    pictures = write_pictures(faces if label == "cpu" else many, folder / "pictures")
    exact = FusedPredictor(bundle.spec, bundle.files)
    fast = FusedPredictor(bundle.spec, bundle.files, "bf16")
    loop(exact, pictures[:3])
    fast.predict(many[:BATCH])
    rates = {
        "loop": per_second(lambda: loop(exact, pictures[: len(few)])),
        "folder": per_second(lambda: predict(fast, folder / "pictures", folder / "out.parquet")),
        "fp32 batches": per_second(lambda: len(exact.predict(many).logits)),
        "bf16 batches": per_second(lambda: len(fast.predict(many).logits)),
    }
    # Labels that no network gives: how right untrained networks are means nothing.
    val = Split(
        few, exact.predict(few).logits.argmin(axis=1), np.arange(len(few)), few[:, 0, 0] > 0
    )
    plain, int8 = folder / "fp32.onnx", folder / "int8.onnx"
    for file in (plain, int8):
        export_onnx(bundle, val, file, lambda *_: nullcontext(lambda _: None), int8=file == int8)
    answers = {"onnx": in_onnx_runtime(plain), "int8": in_onnx_runtime(int8)}
    if find_spec("onnxruntime_ep_openvino"):
        answers["int8 OpenVINO"] = in_onnx_runtime(int8, openvino=True)
    for name, answer in answers.items():
        answer(many[:BATCH])
        rates[name] = per_second(partial(in_batches, answer, many))
    return rates


def measure_reading(predictor_rate: float, faces: UInt8Array, folder: Path) -> float:
    """The time to read as many faces as FER2013 has from a zip, by that of the networks."""
    archive, pictures = folder / "faces.zip", write_pictures(faces, folder / "zipped")
    with zipfile.ZipFile(archive, "w") as packed:
        for place in range(ZIPPED):
            packed.write(pictures[place % len(pictures)], f"{place:05}.png")
    return predictor_rate / per_second(lambda: read_only(archive))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--faces", type=int, default=2000, help="pictures in the folder")
    arguments = parser.parse_args()
    torch.set_num_threads(torch.get_num_threads())
    faces = draw_faces(max(arguments.faces, *IN_BATCHES.values()))
    figures: dict[str, float] = {}
    for label in arguments.sizes:
        with tempfile.TemporaryDirectory() as name:
            rates = measure(label, faces, Path(name))
            after = "" if label == "cpu" else f"_{label}"
            print(f"\n{label}: images/s, and times the loop")
            for way, rate in rates.items():
                print(f"  {way:14} {rate:8.1f} {rate / rates['loop']:8.2f}", flush=True)
            figures |= {
                f"fused_speedup{after}": rates["folder"] / rates["loop"],
                f"onnx_speedup{after}": rates["onnx"] / rates["loop"],
                f"int8_speedup{after}": rates["int8"] / rates["loop"],
                f"folder_images_per_s{after}": rates["folder"],
            }
            if "int8 OpenVINO" in rates:
                figures[f"int8_openvino_speedup{after}"] = rates["int8 OpenVINO"] / rates["loop"]
            if label == "cpu":
                share = measure_reading(rates["bf16 batches"], faces, Path(name))
                print(f"  reading a zip takes {share:.1%} of the networks' time")
                figures["reading_share"] = share
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()

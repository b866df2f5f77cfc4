"""The fused model as one ONNX graph, in float32 or int8, checked on val before it is written.

The graph holds all of it: the views, the networks, the weights of the fusion, and the softmax with
its temperature. It takes (N, 48, 48) uint8 and gives (N, 7) float32 probabilities, for any N.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fer_pipeline.data.faces import SIDE
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS
from fer_pipeline.errors import DataError, FusionError
from fer_pipeline.files import whole_file
from fer_pipeline.models.backbones import load_trained
from fer_pipeline.models.transforms import distinct_views, view_batch
from fer_pipeline.serving.predictor import BATCH_SIZE, FusedPredictor

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from fer_pipeline.arrays import Float32Array, Int64Array, UInt8Array
    from fer_pipeline.data.faces import Split
    from fer_pipeline.params.schema import Tta
    from fer_pipeline.serving.bundle import Bundle, Member

# Read when ONNX Runtime is imported, which else reports its use to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

MAX_DIFFERENCE = 1e-4
"""How far a probability of the float32 graph may be from the model's own."""

MAX_ACCURACY_LOSS = 0.005
"""How much accuracy on val int8 may cost."""

INPUT, OUTPUT = "images", "probabilities"

_COMPARED = 512
"""Images of val on which the float32 graph is compared with the model: a fault shows on any."""

_CALIBRATED = 128
"""Images of val that show how large the activations get."""

_QUANTISED = ["Conv", "Relu", "Add", "Concat", "MaxPool", "AveragePool"]
"""What computes in int8: the networks up to their head. Enlarging, heads and fusion stay float32,
which costs no time and would cost accuracy."""

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows work on so many images under a label, such as `stages.progress.image_bar`."""


@dataclass(frozen=True)
class Exported:
    """What the check found.

    Attributes:
        difference: the largest of a float32 probability from the model's own.
        accuracy: on val, in float32 and in int8; None where int8 was not asked for.
    """

    difference: float
    accuracy: tuple[float, float] | None


class _Backbone(nn.Module):
    """(N, 48, 48) uint8 to (N, 7) logits of one network, averaged over its views."""

    rows: Tensor
    columns: Tensor

    def __init__(self, member: Member, weights: Path, tta: Tta) -> None:
        super().__init__()
        rows, columns = view_matrices(member.image_size, member.eval_resize, tta)
        self.network = load_trained(member.name, weights)
        self.views, self.size = len(rows), member.image_size
        self.register_buffer("rows", rows[:, None])  # (V, 1, S, 48)
        self.register_buffer("columns", columns[:, None])  # (V, 1, 48, S)

    def forward(self, images: Tensor) -> Tensor:
        grey = images.float() / 127.5 - 1.0
        views = self.rows @ grey @ self.columns  # (V, N, S, S)
        seen = views.reshape(-1, 1, self.size, self.size).expand(-1, 3, -1, -1)
        logits: Tensor = self.network(seen)
        return logits.reshape(self.views, -1, NUM_EMOTIONS).mean(dim=0)


class _Fused(nn.Module):
    """(N, 48, 48) uint8 to (N, 7) probabilities: all of the graph."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            _Backbone(one, bundle.files[one.name], bundle.spec.tta) for one in bundle.spec.members
        )
        self.weights = [one.weight for one in bundle.spec.members]
        self.temperature = bundle.spec.temperature

    def forward(self, images: Tensor) -> Tensor:
        parts = zip(self.weights, self.members, strict=True)
        logits = torch.stack([weight * member(images) for weight, member in parts]).sum(dim=0)
        return torch.softmax(logits / self.temperature, dim=1)


def view_matrices(image_size: int, resize: int, tta: Tta) -> tuple[Tensor, Tensor]:
    """What `view_batch` does to an image, as products with two matrices for each view.

    Bilinear resizing, cropping and mirroring are linear and treat rows and columns apart, so their
    matrices are what `view_batch` makes of images with one white row, or one white column.

    Returns:
        (V, S, 48) and (V, 48, S) float32: a view is `rows @ image @ columns`.
    """
    white = 255 * torch.eye(SIDE, dtype=torch.uint8)
    row, column = white[:, :, None].expand(-1, -1, SIDE), white[:, None, :].expand(-1, SIDE, -1)
    rows, columns = [], []
    for view in distinct_views(tta, image_size, resize):
        seen = [view_batch(one, image_size, resize, view)[:, 0] / 2 + 0.5 for one in (row, column)]
        rows.append(seen[0][:, :, 0].T)
        columns.append(seen[1][:, 0, :])
    return torch.stack(rows).contiguous(), torch.stack(columns).contiguous()


def export_onnx(bundle: Bundle, val: Split, path: Path, bar: Bar, *, int8: bool) -> Exported:
    """Write the graph of a fused model, if it answers as the model does.

    Args:
        bundle: the fused model.
        val: labelled faces, on which int8 is calibrated and both are checked.
        path: of the file; nothing is written where a check fails.
        bar: shows how far the work is.
        int8: quantise weights and activations statically.

    Raises:
        DataError: the file can't be written, or is named as another kind.
        FusionError: the model is unknown here, or the graph does not answer as it does.
        WeightsError: a weights file is missing, damaged or of another network.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the path of a file")
    if path.suffix != ".onnx":
        raise DataError(f"{path} does not end in .onnx, as the file that is written must")
    with whole_file(path) as partial, TemporaryDirectory() as scratch:
        partial.touch()  # what can't be written is found before the work
        predictor, graph = FusedPredictor(bundle.spec, bundle.files), Path(scratch) / "fp32.onnx"
        _write_graph(_Fused(bundle), graph)
        accuracy, compared = None, val.images[:_COMPARED]
        with bar("compare with the model", 2 * len(compared)) as advance:
            wanted = _in_batches(
                lambda some: predictor.predict(some).probabilities, compared, advance
            )
            difference = require_same(_answers(graph, compared, advance), wanted)
        if int8:
            plain, graph = graph, Path(scratch) / "int8.onnx"
            _quantise(plain, graph, val.images)
            with bar("accuracy on val", 2 * len(val)) as advance:
                before, after = (_answers(one, val.images, advance) for one in (plain, graph))
            accuracy = require_accuracy(before, after, val.labels)
        _describe(graph, partial, bundle, "int8" if int8 else "fp32")
    return Exported(difference, accuracy)


def require_same(found: Float32Array, wanted: Float32Array) -> float:
    """The largest difference between (N, 7) probabilities of the graph and of the model.

    Raises:
        FusionError: it is more than `MAX_DIFFERENCE`, or some are no numbers.
    """
    difference = float(np.abs(found - wanted).max(initial=0.0))
    if not difference <= MAX_DIFFERENCE:
        raise FusionError(
            f"the ONNX graph's probabilities differ from the model's by up to {difference:.2g}, "
            f"more than {MAX_DIFFERENCE:g}: nothing was written; try other versions of torch, "
            "onnxscript and onnxruntime"
        )
    return difference


def require_accuracy(
    plain: Float32Array, int8: Float32Array, labels: Int64Array
) -> tuple[float, float]:
    """The accuracy of (N, 7) probabilities in float32 and in int8.

    Raises:
        FusionError: int8 costs more than `MAX_ACCURACY_LOSS`.
    """
    before, after = (float((found.argmax(axis=1) == labels).mean()) for found in (plain, int8))
    if before - after > MAX_ACCURACY_LOSS:
        raise FusionError(
            f"int8 has an accuracy of {after:.2%} on val, where float32 has {before:.2%}: more "
            f"than {100 * MAX_ACCURACY_LOSS:g} points are lost, so nothing was written; leave out "
            "--int8"
        )
    return before, after


def _write_graph(model: nn.Module, path: Path) -> None:
    example = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    torch.onnx.export(
        model.eval(),
        (example,),
        path,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={INPUT: {0: torch.export.Dim("N")}},
        external_data=False,
        dynamo=True,
        verbose=False,
    )


def _quantise(plain: Path, path: Path, images: UInt8Array) -> None:
    """Write the graph in int8: each output channel of the weights with a scale of its own.

    Weights are signed with a zero point of 0: OpenVINO computes others in float32.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            chosen = images[:: max(1, len(images) // _CALIBRATED)][:_CALIBRATED]
            self._batches = iter(np.array_split(chosen, max(1, len(chosen) // BATCH_SIZE)))

        def get_next(self) -> dict[str, UInt8Array] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    prepared = path.with_name("prepared.onnx")
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        path,
        Reader(),
        op_types_to_quantize=_QUANTISED,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _answers(graph: Path, images: UInt8Array, advance: Callable[[int], None]) -> Float32Array:
    """(N, 7) probabilities by ONNX Runtime, with as many threads as torch has."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session: InferenceSession = InferenceSession(graph, options)
    return _in_batches(lambda some: session.run([OUTPUT], {INPUT: some})[0], images, advance)


def _in_batches(
    answer: Callable[[UInt8Array], Float32Array], images: UInt8Array, advance: Callable[[int], None]
) -> Float32Array:
    answers = [np.empty((0, NUM_EMOTIONS), np.float32)]
    for start in range(0, len(images), BATCH_SIZE):
        answers.append(answer(images[start : start + BATCH_SIZE]))
        advance(len(answers[-1]))
    return np.concatenate(answers)


def _describe(graph: Path, path: Path, bundle: Bundle, precision: str) -> None:
    """Write the graph with what a program has to know that only has this file."""
    import onnx

    model = onnx.load(graph)
    about = {
        "labels": json.dumps(EMOTIONS),
        "model": bundle.name,
        "precision": precision,
        "spec": json.dumps(asdict(bundle.spec)),
    }
    onnx.helper.set_model_props(model, about)
    onnx.save(model, path)

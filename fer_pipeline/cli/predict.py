"""The command `fer predict`: many faces, one row for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from fer_pipeline.cli.model import ModelOption, choose_bundle
from fer_pipeline.emotions import EMOTIONS
from fer_pipeline.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from fer_pipeline.serving.inputs import Chunk
    from fer_pipeline.serving.predictor import FusedPredictor, Prediction
    from fer_pipeline.serving.sources import Source

UNREADABLE = "unreadable"
"""What a table shows in place of an expression; the line that says why would not fit it."""

CHUNK = 128
"""As many as a GPU takes at once; a CPU takes them in parts."""

FEW = 64
"""Faces that are computed sooner than it is found out in which precision they are faster."""

_LONG = 50
"""Rows that a screen hardly shows."""


def predict(
    faces: Annotated[
        list[str],
        typer.Argument(
            help="Pictures of one face each, cropped to it; folders, glob patterns; csv, parquet, "
            "npz, zip or tar of faces; '-' for paths on standard input, one a line."
        ),
    ],
    model: ModelOption = None,
    output: Annotated[
        Path | None, typer.Option(help="A .csv, .parquet or .jsonl; if left out, a table is shown.")
    ] = None,
    singles: Annotated[
        bool, typer.Option("--singles", help="What each backbone says by itself, too.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Faces that are read and computed together.")
    ] = CHUNK,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, bf16, or auto: bf16 where it is faster and changes little on val."
        ),
    ] = "auto",
) -> None:
    """Read the expression of faces with the fused model."""
    from fer_pipeline.serving.sources import count_faces, find_sources
    from fer_pipeline.serving.speed import pick_predictor

    sources = find_sources(faces)
    if precision == "auto" and (total := count_faces(sources)) is not None and total <= FEW:
        precision = "fp32"
    with _results(output) as write, choose_bundle(model) as bundle:
        predictor = pick_predictor(bundle, precision, device)
        read = unreadable = 0
        for chunk, _ in predict_chunks(predictor, sources, write, batch_size, singles):
            read += len(chunk.names)
            unreadable += len(chunk.names) - len(chunk.images)
    if output and not unreadable:
        typer.echo(f"{read:,} faces in {output}")
    if unreadable:
        place = f"column 'error' of {output} says" if output else "the lines above say"
        raise DataError(
            f"{unreadable:,} of {read:,} faces can't be read: {place} why; the others are done"
        )


def predict_chunks(
    predictor: FusedPredictor,
    sources: list[Source],
    write: Callable[[pa.RecordBatch], None],
    batch_size: int = CHUNK,
    singles: bool = False,
) -> Iterator[tuple[Chunk, Prediction]]:
    """Faces chunk by chunk, with what is said of them, once that is written."""
    from fer_pipeline.serving.inputs import read_sources
    from fer_pipeline.serving.outputs import tabulate
    from fer_pipeline.serving.sources import count_faces
    from fer_pipeline.stages.progress import image_bar

    with (
        image_bar("predict", count_faces(sources), stderr=True) as advance,
        closing(read_sources(sources, batch_size)) as chunks,
    ):
        for chunk in chunks:
            found = predictor.predict(chunk.images)
            each = found.single_probabilities if singles else {}
            write(tabulate(chunk, found.probabilities, each))
            yield chunk, found
            advance(len(chunk.names))


@contextmanager
def _results(output: Path | None) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """What takes rows: a file, or in the end the screen."""
    from fer_pipeline.serving.outputs import open_output

    if output is not None:
        with open_output(output) as write:
            yield write
        return
    import pyarrow as pa

    shown: list[pa.RecordBatch] = []
    yield shown.append
    console, rows = Console(), pa.Table.from_batches(shown)
    console.print(chances_table(rows, console))
    for row in rows.filter(rows["error"].is_valid()).to_pylist():
        typer.echo(f"{row['image']}: {row['error']}", err=True)
    if len(rows) > _LONG:
        typer.echo("to write them to a file: --output faces.csv, .parquet or .jsonl", err=True)


def chances_table(rows: pa.Table, console: Console) -> Table:
    """The expression of each face and the chances of all seven; of the top three where these do
    not fit the console.

    Args:
        rows: as `tabulate` gives them.
        console: which the table is for.
    """
    backbones = dict.fromkeys(name.partition(".")[0] for name in rows.column_names if "." in name)
    whole = Table("image", "expression", *EMOTIONS, *backbones)
    ranks = (Column(rank, no_wrap=True) for rank in ("expression", "second", "third"))
    short = Table(Column("image", overflow="fold"), *ranks, *backbones)
    for row in rows.to_pylist():
        if row["error"]:
            for table in (whole, short):
                table.add_row(row["image"], UNREADABLE)
            continue
        singles = [_ranked(row, f"{name}.")[0] for name in backbones]
        chances = [f"{row[emotion]:.1%}" for emotion in EMOTIONS]
        whole.add_row(row["image"], row["expression"], *chances, *singles)
        short.add_row(row["image"], *_ranked(row, "")[:3], *singles)
    needed = console.measure(whole, options=console.options.update(max_width=sys.maxsize)).maximum
    return whole if needed <= console.width else short


def _ranked(row: dict[str, float], prefix: str) -> list[str]:
    """The emotions with their chances, the likeliest first; a tie in the order of the labels."""
    chances = {emotion: row[prefix + emotion] for emotion in EMOTIONS}
    order = sorted(EMOTIONS, key=chances.__getitem__, reverse=True)
    return [f"{emotion} {chances[emotion]:.1%}" for emotion in order]

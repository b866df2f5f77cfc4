"""How fast MLflow's own server answers with the fused model, from one client to many.

    python benchmarks/serving.py [RECIPE] [--seconds S]

Registers a model with random weights and the sizes of a recipe (recipes/cpu.yaml) in a temporary
MLflow store, starts `mlflow models serve` on it, and sends it 1, 8 and 64 faces a request from 1, 4
and 16 clients, each of which sends its next request when it has the answer to the last. Faces are
sent as PNG in base64. Client and server share the machine. The precision is what
FER_SERVING_PRECISION says (fp32, as on record, unless it is set).

Prints a table and, as its last line, one JSON object: `latency_ms_p50` and `latency_ms_p99` of one
face from one client, and `images_per_s`, `p50_ms` and `p99_ms` of every row. Takes about S seconds
(default 10) for each of the nine, and half a minute.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from commands import failure
from inference import make_bundle
from orchestration import free_port, is_up
from PIL import Image
from rich.console import Console
from rich.table import Table

from fer_pipeline.data.sources.sample import draw_sample
from fer_pipeline.params.load import load_params
from fer_pipeline.registry.runs import open_run
from fer_pipeline.registry.tracking import connect
from fer_pipeline.registry.versions import Candidate, register_once, version_digest
from fer_pipeline.serving.bundle import bundle_files, write_bundle, write_change

ROOT = Path(__file__).resolve().parents[1]
NAME = "fer-fusion"
FACES = (1, 8, 64)
CLIENTS = (1, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    recipe = ROOT / "recipes" / "cpu.yaml"
    parser.add_argument("recipe", nargs="?", type=Path, default=recipe, metavar="RECIPE")
    parser.add_argument("--seconds", type=float, default=10, help="of each row (default 10)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        os.environ["MLFLOW_TRACKING_URI"] = uri
        register(options.recipe.resolve(), folder)
        with serve(folder) as port:
            rows = measure(port, options.seconds)
    first = rows[0]
    told = {"latency_ms_p50": first["p50_ms"], "latency_ms_p99": first["p99_ms"]}
    print(json.dumps(told | {"rows": rows}))


def register(recipe: Path, folder: Path) -> None:
    """Make version 1 of a model with untrained networks of the recipe's sizes."""
    params, bundle = load_params(recipe), folder / "bundle"
    sizes = {name: (own.image_size, own.eval_resize) for name, own in params.backbones.items()}
    made = make_bundle(folder, sizes, params.predict.tta)
    write_bundle(bundle, made.spec, made.files)
    (folder / "record").mkdir()
    write_change(None, folder / "record")
    os.chdir(folder)  # where MLflow puts what belongs to its store
    tracking, content = connect("benchmark"), version_digest(bundle_files(bundle))
    with open_run(tracking, "fusion", {"content": content}) as run:
        candidate = Candidate(
            content=content,
            run_id=run.run_id,
            folders={"bundle": bundle, "record": folder / "record"},
            tags={},
            description="Random weights",
        )
        register_once(tracking, NAME, candidate)


@contextmanager
def serve(folder: Path) -> Iterator[int]:
    """The port of a server that answers."""
    port, log = free_port(), folder / "server.log"
    command = (sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}/1")
    options = ("--env-manager", "local", "--port", str(port), "--timeout", "600")
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            (*command, *options), env=env, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        if not is_up(process, f"http://127.0.0.1:{port}/ping"):
            raise SystemExit(failure(command, process.poll(), log.read_text()))
        yield port
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)  # MLflow starts uvicorn by a shell
            process.wait()


def measure(port: int, seconds: float) -> list[dict[str, float]]:
    pictures = draw_pictures(max(FACES))
    table = Table("faces", "clients", "p50, ms", "p99, ms", "faces/s")
    rows: list[dict[str, float]] = []
    for faces in FACES:
        body = json.dumps({"inputs": pictures[:faces]}).encode()
        ask_until(port, body, time.perf_counter())  # the first of a size takes longer
        for clients in CLIENTS:
            row = {
                "faces": faces,
                "clients": clients,
                **time_requests(port, body, clients, seconds),
            }
            row["images_per_s"] = faces * row.pop("requests_per_s")
            rows.append(row)
            print(f"{faces} faces, {clients} clients: {row['p50_ms']:.1f} ms", file=sys.stderr)
            figures = (row["p50_ms"], row["p99_ms"], row["images_per_s"])
            table.add_row(str(faces), str(clients), *(f"{value:.1f}" for value in figures))
    Console().print(table)
    return rows


def draw_pictures(count: int) -> list[str]:
    """Drawn faces as PNG in base64."""
    pictures = []
    for pixels in draw_sample(count, 7, 7, seed=0).pixels[:count]:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        pictures.append(base64.b64encode(stream.getvalue()).decode())
    return pictures


def time_requests(port: int, body: bytes, clients: int, seconds: float) -> dict[str, float]:
    """Latencies of all requests that were answered, and how many a second."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        asked = [threads.submit(ask_until, port, body, started + seconds) for _ in range(clients)]
        latencies = [latency for one in asked for latency in one.result()]
    spent = time.perf_counter() - started
    p50, p99 = np.percentile(latencies, (50, 99))
    rate = len(latencies) / spent
    return {"p50_ms": 1000 * float(p50), "p99_ms": 1000 * float(p99), "requests_per_s": rate}


def ask_until(port: int, body: bytes, deadline: float) -> list[float]:
    """Seconds that each request took, over one connection: at least one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    latencies: list[float] = []
    while not latencies or time.perf_counter() < deadline:
        started = time.perf_counter()
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}: {said[:300]!r}")
        latencies.append(time.perf_counter() - started)
    connection.close()
    return latencies


if __name__ == "__main__":
    main()

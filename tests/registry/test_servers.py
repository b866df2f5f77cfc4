"""The registry on a real MLflow server, with PostgreSQL and an S3 store behind it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import mlflow
import numpy as np
import pytest
from fused_model import NAME, SMALL, draw_test_split, make_bundle, put_test_split, register_bundle
from mlflow_server import mlflow_server
from postgres_server import PostgresServer, is_installed
from processes import WITHIN_S, wait_until
from s3_server import S3Server
from typer.testing import CliRunner

from fer_pipeline.cli.main import app
from fer_pipeline.errors import RegistryError
from fer_pipeline.params.load import load_params
from fer_pipeline.params.schema import Params
from fer_pipeline.registry.aliases import CHAMPION, Aliases, read_aliases
from fer_pipeline.registry.promote import nominate, promote
from fer_pipeline.registry.runs import _log_data
from fer_pipeline.registry.tracking import Tracking, connect
from fer_pipeline.serving.predictor import FusedPredictor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not is_installed(), reason="no PostgreSQL server here: install Debian's 'postgresql'"
    ),
    # MLflow's client of artifacts leaves its connections to the collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

BUCKET = "mlflow"
SPLIT = draw_test_split()


@dataclass(frozen=True)
class Servers:
    """The three of them, and a client."""

    s3: S3Server
    tracking: Tracking
    folder: Path
    params: Params

    def objects(self) -> set[str]:
        client = self.s3.client()
        try:
            listed = client.list_objects_v2(Bucket=BUCKET)
            return {one["Key"] for one in listed.get("Contents", [])}
        finally:
            client.close()


@pytest.fixture(scope="module")
def servers(root: Path, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    shutil.copy(root / "params.yaml", folder)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("experiment: fer2013", "experiment: faces"))
    put_test_split(SPLIT, folder)
    with (
        pytest.MonkeyPatch.context() as patch,
        PostgresServer() as postgres,
        S3Server(folder / "s3", [BUCKET]) as s3,
    ):
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(root))
        # The store is killed here: waiting for its return takes minutes by default.
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        # Only the server knows the keys of the store: clients go through it.
        stores = (
            "--backend-store-uri",
            postgres.uri,
            "--artifacts-destination",
            f"s3://{BUCKET}/runs",
        )
        with mlflow_server(folder, *stores, env=s3.env()) as server:
            patch.setenv("MLFLOW_TRACKING_URI", server.uri)
            params = load_params(folder / "params.yaml")
            yield Servers(s3, connect("faces"), folder, params)


def fer(*arguments: str) -> str:
    """The output of `fer registry`."""
    done = CliRunner().invoke(app, ["registry", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_register_promote_roll_back_and_load(servers: Servers, params: Params) -> None:
    tracking = servers.tracking
    bundles = [
        make_bundle(params, servers.folder / f"model-{seed}", SMALL[:1], seed) for seed in (1, 2)
    ]
    first, second = (register_bundle(tracking, bundle, SPLIT) for bundle in bundles)
    tracking.client.set_registered_model_alias(NAME, CHAMPION, first)
    promote(tracking, servers.params, second, by="ada", reason="a test", force=True)
    assert register_bundle(tracking, bundles[0], SPLIT) == "1"
    assert read_aliases(tracking, NAME) == Aliases("2", "1", None)
    assert any(key.endswith(f"{SMALL[0]}.safetensors") for key in servers.objects())

    assert fer("rollback", "--reason", "it harms") == "champion: version 1, until now 2\n"
    assert read_aliases(tracking, NAME) == Aliases("1", "2", None)
    assert "it harms" in fer("history", "--json")

    mlflow.set_tracking_uri(tracking.uri)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    expected = FusedPredictor.load(bundles[0]).predict(SPLIT.images[:4]).probabilities
    np.testing.assert_allclose(model.predict(SPLIT.images[:4]).to_numpy(), expected, atol=1e-5)


def test_runs_that_begin_together_log_the_same_data(servers: Servers) -> None:
    client = servers.tracking.client
    together, runs = 8, 24
    begin = Barrier(together)
    ids = [client.create_run(servers.tracking.experiment_id).info.run_id for _ in range(runs)]
    for number in range(runs):  # a data set that nobody has logged yet, for every eight
        Path(f"split-{number // together}").write_text(str(number // together))

    def log(number: int) -> None:
        begin.wait(WITHIN_S)
        _log_data(client, ids[number], {Path(f"split-{number // together}"): "train"})

    with ThreadPoolExecutor(together) as pool:
        list(pool.map(log, range(runs)))

    logged = [client.get_run(one).inputs.dataset_inputs[0].dataset.name for one in ids]
    assert logged == [f"split-{number // together}" for number in range(runs)]


def test_a_store_that_dies_during_a_registration_leaves_no_version_and_the_next_succeeds(
    servers: Servers, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    tracking = servers.tracking
    bundle = make_bundle(params, servers.folder / "model-3", SMALL[1:], 3)
    aliases = read_aliases(tracking, NAME)
    versions = len(tracking.client.search_model_versions(f"name = '{NAME}'"))
    before = servers.objects()

    with ThreadPoolExecutor(1) as pool:
        registration = pool.submit(register_bundle, tracking, bundle, SPLIT)
        wait_until(lambda: servers.objects() - before or registration.done(), "files are stored")
        servers.s3.kill()
        with pytest.raises(RegistryError, match="could not be registered, and no alias was moved"):
            registration.result()
    assert read_aliases(tracking, NAME) == aliases
    assert len(tracking.client.search_model_versions(f"name = '{NAME}'")) == versions

    servers.s3.start()
    number = register_bundle(tracking, bundle, SPLIT)
    with caplog.at_level("INFO"):
        assert nominate(tracking, servers.params, number) is True
    assert "16 test images score as on record" in caplog.text
    assert read_aliases(tracking, NAME).challenger == number
    assert len(tracking.client.search_model_versions(f"name = '{NAME}'")) == versions + 1

"""The bench on which trainings are tried."""

from __future__ import annotations

import pytest
from bench import Bench

from fer_pipeline.data.faces import Split
from fer_pipeline.data.quality.splits import SplitName
from fer_pipeline.params.schema import Params


@pytest.fixture(scope="session")
def bench(splits: dict[SplitName, Split], params: Params) -> Bench:
    return Bench(splits, params.training)

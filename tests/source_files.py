"""Sources that tests pin, and how a refusal is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from edition_files import fer2013_csv, only, random_faces

from fer_pipeline.data.sources.pins import Pin
from fer_pipeline.data.sources.source import SAMPLE_PIN
from fer_pipeline.errors import DataError

FACES = random_faces()
CSV = only(fer2013_csv(FACES))
OTHER_CSV = only(fer2013_csv(random_faces(1)))
THIRD_CSV = only(fer2013_csv(random_faces(2)))
SAMPLE = Pin(SAMPLE_PIN, None, None, None)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def refusal(attempt: Callable[[], object]) -> str:
    with pytest.raises(DataError) as refused:
        attempt()
    assert "\n" not in str(refused.value)
    return str(refused.value)

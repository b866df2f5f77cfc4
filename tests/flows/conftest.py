"""What tests of the flows share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from processes import kill_all, new_mark


@pytest.fixture
def mark() -> Iterator[str]:
    """On the command line of whatever the test starts; nothing with it outlives the test."""
    made = new_mark()
    yield made
    kill_all(made)

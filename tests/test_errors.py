"""What another library says, made fit to stand inside a message."""

from __future__ import annotations

import pytest

from fer_pipeline.errors import one_line


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("no\n such\tfile", "no such file"),
        ("", "OSError"),
        ("\x1b[1mOnly\x1b[0m if you \x1b[31;1mtrust\x1b[m it", "Only if you trust it"),
        (
            "API request to http://ann:s3cret@example.org:5000/api/2.0 failed",
            "API request to http://example.org:5000/api/2.0 failed",
        ),
        ("postgresql://ann:s3:cr@et@db/x refused", "postgresql://db/x refused"),
        ("see https://example.org/@handle", "see https://example.org/@handle"),
    ],
)
def test_one_line_without_passwords(said: str, shown: str) -> None:
    assert one_line(OSError(said)) == shown


def test_a_long_message_is_cut_between_words_after_its_password_is_hidden() -> None:
    said = f"{'x' * 250} at http://ann:s3cret@example.org/{'y' * 50}"
    assert one_line(OSError(said)) == f"{'x' * 250} at …"

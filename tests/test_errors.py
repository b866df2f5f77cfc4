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
        ("see http://ann:s3c/r?e#t@host/x", "see http://host/x"),
        ("mysql+pymysql://ann:12/s3@db/x", "mysql+pymysql://db/x"),
        ("s3://AKIA:s3/cr+et@bucket/key", "s3://bucket/key"),
        ("https://t0ken@host/x", "https://host/x"),
        ("https://h/x?a=b&X-Amz-Signature=5ec2e7&c=d", "https://h/x?a=b&X-Amz-Signature=…&c=d"),
        ("'https://h/x#access_token=5ec2e7'", "'https://h/x#access_token=…'"),
        ("sqlite:////home/a@b/mlflow.db?key=", "sqlite:////home/a@b/mlflow.db?key="),
        ("see https://example.org/@handle", "see https://example.org/@handle"),
    ],
)
def test_one_line_without_passwords(said: str, shown: str) -> None:
    assert one_line(OSError(said)) == shown


def test_a_long_message_is_cut_between_words_after_its_password_is_hidden() -> None:
    said = f"{'x' * 350} at http://ann:s3cret@example.org/{'y' * 50}"
    assert one_line(OSError(said)) == f"{'x' * 350} at …"

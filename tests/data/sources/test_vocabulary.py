"""Which spellings of labels and splits are understood, and that nothing else is guessed at."""

from __future__ import annotations

import pytest

from fer_pipeline.data.sources.vocabulary import emotion_code, usage_named, usage_of_file
from fer_pipeline.emotions import EMOTIONS


def test_an_emotion_is_known_by_its_name_in_any_capitalisation_by_other_words_and_its_number() -> (
    None
):
    words = ("ANGER", "Disgusted", " fearful\t", "happiness", "Sad", "surprised", "6")
    assert [emotion_code(word) for word in words] == list(range(7))
    assert [emotion_code(code) for code in range(7)] == list(range(7))
    assert [emotion_code(code) for code in (3.0, "3.0", " 3 ")] == [3, 3, 3]
    assert [emotion_code(name) for name in EMOTIONS] == list(range(7))


@pytest.mark.parametrize("word", ["", "bored", "7", "03", 3.5, "٣", "hap", None, True, b"sad"])
def test_no_other_word_is_an_emotion(word: object) -> None:
    assert emotion_code(word) is None


@pytest.mark.parametrize(
    ("word", "usage"),
    [
        (" TRAIN ", "Training"), ("public_test", "PublicTest"), ("Public-Test", "PublicTest"),
        ("FER2013Valid", "PublicTest"), ("fer2013_public_test", "PublicTest"),
        ("TrainingSet", "Training"), ("test-00000-of-00001", "PrivateTest"), ("train_val", None),
        ("public-domain", None), ("Valid", "PublicTest"),
        ("private test", "PrivateTest"), ("test", "PrivateTest"),
        ("", None), ("holdout", None), ("tests", None), (None, None),
    ],
)  # fmt: skip
def test_a_split_is_known_by_what_people_call_it_and_by_nothing_else(
    word: object, usage: str | None
) -> None:
    assert usage_named(word) == usage


@pytest.mark.parametrize(
    ("stem", "usage"),
    [
        ("Training_1", "Training"), ("publictest_99", "PublicTest"),
        ("PrivateTest_10131363", "PrivateTest"), ("PrivateTest_12_flipped", "PrivateTest"),
        ("Training", None), ("test_1", None), ("im1", None), ("x_Training_1", None),
    ],
)  # fmt: skip
def test_only_official_file_names_say_a_split(stem: str, usage: str | None) -> None:
    assert usage_of_file(stem) == usage

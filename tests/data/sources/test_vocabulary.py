"""Which spellings of labels and splits are understood, and that nothing else is guessed at."""

from __future__ import annotations

import pytest

from fer_pipeline.data.sources.vocabulary import emotion_code, usage_named, usage_of_file
from fer_pipeline.emotions import EMOTIONS


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title, lambda word: f" {word}\t"])
def test_every_emotion_is_known_by_its_own_name_in_any_capitalisation(change: object) -> None:
    assert callable(change)
    assert [emotion_code(change(name)) for name in EMOTIONS] == list(range(7))


@pytest.mark.parametrize(
    ("word", "emotion"),
    [
        ("anger", "angry"), ("disgusted", "disgust"), ("fearful", "fear"), ("scared", "fear"),
        ("Happiness", "happy"), ("SADNESS", "sad"), ("surprised", "surprise"),
    ],
)  # fmt: skip
def test_other_words_for_an_emotion_are_known(word: str, emotion: str) -> None:
    code = emotion_code(word)
    assert code is not None
    assert EMOTIONS[code] == emotion


def test_fer2013s_numbers_are_known_as_text_and_as_numbers() -> None:
    for code in range(7):
        assert emotion_code(code) == emotion_code(str(code)) == code


@pytest.mark.parametrize(
    "word",
    ["", "contempt", "7", "-1", "03", "3.0", 3.0, "٣", "hap", "happy face", None, True, b"sad"],
)
def test_no_other_word_is_an_emotion(word: object) -> None:
    assert emotion_code(word) is None


@pytest.mark.parametrize(
    ("word", "usage"),
    [
        ("Training", "Training"), ("train", "Training"), (" TRAIN ", "Training"),
        ("PublicTest", "PublicTest"), ("public_test", "PublicTest"), ("Public-Test", "PublicTest"),
        ("validation", "PublicTest"), ("Valid", "PublicTest"), ("val", "PublicTest"),
        ("PrivateTest", "PrivateTest"), ("private test", "PrivateTest"), ("test", "PrivateTest"),
    ],
)  # fmt: skip
def test_a_split_is_known_by_what_people_call_it(word: str, usage: str) -> None:
    assert usage_named(word) == usage


@pytest.mark.parametrize("word", ["", "holdout", "tests", "0", None, "training2", "PublicTestt"])
def test_no_other_word_is_a_split(word: object) -> None:
    assert usage_named(word) is None


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

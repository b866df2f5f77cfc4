"""The synthetic sample: exact counts, planted faults, determinism, and fit for learning."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fer_pipeline.data.faces import SIDE, USAGES, Faces
from fer_pipeline.data.sources.sample import count_copies, draw_sample
from fer_pipeline.emotions import EMOTIONS, NUM_EMOTIONS
from fer_pipeline.errors import DataError

TRAIN, VAL, TEST = 700, 100, 200


@pytest.fixture(scope="module")
def sample() -> Faces:
    return draw_sample(TRAIN, VAL, TEST, seed=7)


def rows_of(sample: Faces, usage: str) -> Faces:
    return sample.select(sample.usage == usage)


def labels_by_pixels(faces: Faces) -> dict[bytes, set[int]]:
    labels: dict[bytes, set[int]] = {}
    for pixels, emotion in zip(faces.pixels, faces.emotion, strict=True):
        labels.setdefault(pixels.tobytes(), set()).add(int(emotion))
    return labels


def test_the_same_seed_gives_the_same_arrays() -> None:
    first, second = draw_sample(20, 10, 10, seed=3), draw_sample(20, 10, 10, seed=3)
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.emotion, second.emotion)
    assert np.array_equal(first.usage, second.usage)


def test_a_split_does_not_depend_on_the_size_of_another() -> None:
    small, large = draw_sample(7, 9, 7, seed=5), draw_sample(30, 9, 14, seed=5)
    assert np.array_equal(rows_of(small, "PublicTest").pixels, rows_of(large, "PublicTest").pixels)


def test_splits_have_exactly_the_sizes_asked_for_in_order(sample: Faces) -> None:
    assert sample.pixels.shape == (TRAIN + VAL + TEST, SIDE, SIDE)
    assert sample.pixels.dtype == np.uint8
    assert sample.emotion.dtype == np.int8
    assert sample.usage.tolist() == [USAGES[0]] * TRAIN + [USAGES[1]] * VAL + [USAGES[2]] * TEST


@pytest.mark.parametrize("sizes", [(7, 7, 7), (50, 14, 100)])
def test_every_split_holds_every_expression(sizes: tuple[int, int, int]) -> None:
    sample = draw_sample(*sizes, seed=1)
    for usage, size in zip(USAGES, sizes, strict=True):
        labels = rows_of(sample, usage).emotion
        assert len(labels) == size
        assert set(labels.tolist()) == set(range(NUM_EMOTIONS))


def test_class_shares_follow_fer2013_with_more_disgust(sample: Faces) -> None:
    counts = np.bincount(rows_of(sample, "Training").emotion, minlength=NUM_EMOTIONS)
    ranked = [EMOTIONS[i] for i in np.argsort(counts)[::-1]]
    assert (ranked[0], ranked[-1]) == ("happy", "disgust")
    assert counts[EMOTIONS.index("disgust")] >= 0.048 * TRAIN
    assert counts[EMOTIONS.index("happy")] == pytest.approx(0.243 * TRAIN, abs=2)


@pytest.mark.parametrize(
    ("size", "copies", "conflicts"), [(99, 0, 0), (100, 4, 1), (300, 12, 2), (1000, 40, 8)]
)
def test_copies_are_four_percent_and_a_fifth_of_them_conflict(
    size: int, copies: int, conflicts: int
) -> None:
    assert count_copies(size) == (copies, conflicts)


@pytest.mark.parametrize("usage", USAGES[1:])
def test_exactly_the_promised_copies_of_training_images_are_there(
    sample: Faces, usage: str
) -> None:
    train, other = labels_by_pixels(rows_of(sample, "Training")), rows_of(sample, usage)
    known = [train.get(pixels.tobytes()) for pixels in other.pixels]
    copies = [(labels, e) for labels, e in zip(known, other.emotion, strict=True) if labels]
    conflicts = sum(int(e) not in labels for labels, e in copies)
    assert (len(copies), conflicts) == count_copies(len(other))


def test_one_training_image_is_constant_and_no_other(sample: Faces) -> None:
    constant = np.ptp(sample.pixels, axis=(1, 2)) == 0
    assert constant.sum() == 1
    assert sample.usage[constant].item() == "Training"


def test_a_linear_classifier_is_above_chance_and_below_perfect(sample: Faces) -> None:
    halves = sample.pixels.reshape(-1, 24, 2, 24, 2).mean(axis=(2, 4)) / 255.0
    flat = (halves - halves.mean(axis=(1, 2), keepdims=True)).reshape(len(sample), -1)
    train = sample.usage == "Training"
    model = LogisticRegression(C=1.0, max_iter=500).fit(flat[train], sample.emotion[train])
    accuracy = model.score(flat[~train], sample.emotion[~train])
    most_frequent = np.bincount(sample.emotion[~train]).max() / (~train).sum()
    assert most_frequent + 0.12 < accuracy < 0.95


def test_a_split_too_small_for_every_expression_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.sample\.val is 3: .*at least 7"):
        draw_sample(14, 3, 14, seed=0)

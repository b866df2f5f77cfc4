"""Losses against their formulas, on a handful of logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fer_pipeline.training.losses import Targets, classification_loss, mix

LABELS = torch.tensor([0, 2, 1, 2])
OTHERS = torch.tensor([2, 2, 0, 1])


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def entropy_by_hand(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> float:
    logs = logits.double().log_softmax(dim=1)
    wanted = torch.full_like(logs, smoothing / 3)
    wanted[torch.arange(4), labels] += 1 - smoothing
    return float(-(wanted * logs).sum(dim=1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_cross_entropy_with_smoothed_labels(
    smoothing: float, logits: Tensor
) -> None:
    found = classification_loss(logits, Targets(LABELS), smoothing, 0.0)
    assert float(found) == pytest.approx(entropy_by_hand(logits, LABELS, smoothing), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_count_by_their_shares(smoothing: float, logits: Tensor) -> None:
    found = classification_loss(logits, Targets(LABELS, OTHERS, 0.7), smoothing, 0.0)
    wanted = 0.7 * entropy_by_hand(logits, LABELS, smoothing)
    wanted += 0.3 * entropy_by_hand(logits, OTHERS, smoothing)
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_auxiliary_logits_count_by_their_weight(logits: Tensor) -> None:
    pair = (logits, logits.flip(0))
    found = classification_loss(pair, Targets(LABELS), 0.0, 0.4)
    wanted = entropy_by_hand(logits, LABELS) + 0.4 * entropy_by_hand(logits.flip(0), LABELS)
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_logits_in_bf16_make_a_loss_in_fp32(logits: Tensor) -> None:
    rounded = logits.bfloat16()
    found = classification_loss(rounded, Targets(LABELS), 0.0, 0.0)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(entropy_by_hand(rounded.float(), LABELS), rel=1e-6)


def test_parts_of_targets_keep_labels_partners_and_share() -> None:
    part = Targets(LABELS, OTHERS, 0.7).select(slice(1, None, 2))
    assert part.labels.tolist() == [2, 2]
    assert part.others is not None
    assert part.others.tolist() == [2, 1]
    assert part.share == 0.7
    assert Targets(LABELS).select(slice(0, 2)).others is None


def test_mixup_adds_images_as_it_says_in_its_targets() -> None:
    """Images are one-hot: each pixel tells how much of which image is in it."""
    images, labels = torch.eye(6), torch.arange(6)
    mixed, targets = mix(images, labels, 0.4, np.random.default_rng(3))
    assert targets.others is not None
    assert sorted(targets.others.tolist()) == labels.tolist()
    assert 0 < targets.share < 1
    wanted = targets.share * images + (1 - targets.share) * images[targets.others]
    torch.testing.assert_close(mixed, wanted)


def test_the_share_of_mixup_has_its_beta_distribution() -> None:
    rng, images = np.random.default_rng(0), torch.eye(2)
    shares = [mix(images, torch.arange(2), 0.2, rng)[1].share for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.05)


def test_no_mixup_leaves_images_labels_and_draws_alone() -> None:
    images, labels, rng = torch.eye(6), torch.arange(6), np.random.default_rng(3)
    before = rng.bit_generator.state
    mixed, targets = mix(images, labels, 0.0, rng)
    assert mixed is images
    assert targets.others is None
    assert rng.bit_generator.state == before

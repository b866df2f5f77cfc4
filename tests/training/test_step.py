"""Losses against their formulas, on a handful of logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fer_pipeline.training.step import Targets, classification_loss, draw_mixup, mix

LABELS = torch.tensor([0, 2, 1, 2])
OTHERS = torch.tensor([2, 2, 0, 1])
SHARES = torch.tensor([0.7, 0.3])


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
    found = classification_loss(logits, Targets(LABELS), smoothing)
    assert float(found) == pytest.approx(entropy_by_hand(logits, LABELS, smoothing), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_count_by_their_shares(smoothing: float, logits: Tensor) -> None:
    found = classification_loss(logits, Targets(LABELS, OTHERS, SHARES), smoothing)
    wanted = 0.7 * entropy_by_hand(logits, LABELS, smoothing)
    wanted += 0.3 * entropy_by_hand(logits, OTHERS, smoothing)
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_logits_in_bf16_make_a_loss_in_fp32(logits: Tensor) -> None:
    rounded = logits.bfloat16()
    found = classification_loss(rounded, Targets(LABELS), 0.0)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(entropy_by_hand(rounded.float(), LABELS), rel=1e-6)


def test_parts_of_targets_keep_labels_partners_and_share() -> None:
    part = Targets(LABELS, OTHERS, SHARES).select(slice(1, None, 2))
    assert part.labels.tolist() == [2, 2]
    assert part.others is not None
    assert part.others.tolist() == [2, 1]
    assert part.shares is SHARES
    assert Targets(LABELS).select(slice(0, 2)).others is None


def test_mixup_adds_images_as_it_says_in_its_targets() -> None:
    """Images are one-hot: each pixel tells how much of which image is in it."""
    images, labels = torch.eye(6), torch.arange(6)
    partners, shares = draw_mixup(6, 0.4, np.random.default_rng(3))
    mixed, targets = mix(images, labels, partners, shares)
    assert targets.others is not None
    assert sorted(targets.others.tolist()) == labels.tolist()
    assert 0 < shares[0] < 1
    assert shares.sum() == 1
    wanted = shares[0] * images + shares[1] * images[targets.others]
    torch.testing.assert_close(mixed, wanted)


def test_the_share_of_mixup_has_its_beta_distribution() -> None:
    rng = np.random.default_rng(0)
    shares = [float(draw_mixup(2, 0.2, rng)[1][0]) for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.05)


def test_mixup_of_nothing_changes_neither_images_nor_loss_nor_draws() -> None:
    """To the last bit: epochs without mixup run the same captured step."""
    images, logits = torch.randn(6, 3), torch.randn(6, 7, requires_grad=True)
    labels, rng = torch.arange(6), np.random.default_rng(3)
    before = rng.bit_generator.state
    mixed, targets = mix(images, labels, *draw_mixup(6, 0.0, rng))
    assert rng.bit_generator.state == before
    assert torch.equal(mixed, images)
    gradients = []
    for one in (targets, Targets(labels)):
        loss = classification_loss(logits, one, 0.1)
        gradients.append((loss, *torch.autograd.grad(loss, logits)))
    for found, wanted in zip(*gradients, strict=True):
        assert torch.equal(found, wanted)

"""Features are the head's inputs, for every image, in order."""

from __future__ import annotations

import pytest
import torch
from bench import FEATURES, SIZE, Bench, small_network

from fer_pipeline.models.transforms import centre_batch
from fer_pipeline.training.features import compute_features


@pytest.mark.parametrize("batch_size", [5, 14, 100])
def test_the_head_makes_the_networks_logits_of_them(batch_size: int, bench: Bench) -> None:
    model = small_network().eval()
    counts: list[int] = []
    found = compute_features(
        model,
        model.fc,
        bench.val.pixels,
        batch_size,
        lambda images: centre_batch(images, SIZE, SIZE),
        counts.append,
    )
    assert found.shape == (14, FEATURES)
    assert not found.requires_grad
    assert not found.is_inference()  # the head is trained on them
    assert sum(counts) == 14
    with torch.no_grad():
        logits = model(centre_batch(bench.val.pixels, SIZE, SIZE))
        torch.testing.assert_close(model.fc(found), logits, atol=1e-5, rtol=1e-5)

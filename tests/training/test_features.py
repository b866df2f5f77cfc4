"""Features are the head's inputs, for every image, in order."""

from __future__ import annotations

import pytest
import torch
from bench import FEATURES, HEAD, NOTHING, RESIZE, SIZE, Bench, Notebook, small_network

from fer_pipeline.models.transforms import centre_batch
from fer_pipeline.training.features import cache_features


@pytest.mark.parametrize("batch_size", [5, 14, 100])
def test_the_head_makes_the_networks_logits_of_them(batch_size: int, bench: Bench) -> None:
    model = small_network()
    notebook = Notebook(model)
    job = bench.job(model, HEAD, observer=notebook, augment=NOTHING)
    found = cache_features(job, 1, batch_size, "fp32")
    assert found.train.shape == (1, 28, FEATURES)
    assert [sum(counts) for counts in notebook.cached] == [28 + 14]
    parts = ((found.train[0], bench.train, SIZE), (found.val, bench.val, RESIZE))
    for features, images, resize in parts:
        assert not features.requires_grad
        assert not features.is_inference()  # the head is trained on them
        with torch.no_grad():
            logits = model(centre_batch(images.pixels, SIZE, resize))
            torch.testing.assert_close(model.fc(features), logits, atol=1e-4, rtol=1e-4)

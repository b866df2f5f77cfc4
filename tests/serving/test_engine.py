"""A packed network against the same network as torch computes it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from fer_pipeline.serving.engine import can_pack, pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="bf16 by oneDNN needs AVX-512 or the like")


class Branches(nn.Module):
    """What may come after a convolution, and convolutions that must stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.before, self.after, self.summed, self.rectified = (
            nn.Conv2d(8, 8, 3, padding=1) for _ in range(5)
        )
        self.twice, self.pooled = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=4, bias=False)
        self.relu = nn.ReLU()
        for weight in self.parameters():  # or the last layers would hardly see the first
            nn.init.uniform_(weight, -0.3, 0.3)

    def forward(self, seen: Tensor) -> Tensor:
        seen = self.relu(self.first(seen))
        seen = functional.relu(self.before(seen) + self.after(seen))
        seen = self.twice(functional.relu(self.twice(seen)))
        summed, rectified = self.summed(seen), self.rectified(seen)  # and taken as they are
        seen = (summed + seen) * summed + functional.relu(rectified) + rectified
        seen = self.same(seen) + self.pooled(functional.adaptive_avg_pool2d(seen, 1))
        found: Tensor = self.grouped(seen).flatten(1)  # (N, 72)
        return found


@pytest.mark.parametrize("faces", [1, 2, 5])
def test_a_packed_network_says_the_same_of_batches_of_any_size(faces: int) -> None:
    torch.manual_seed(0)
    plain = fx.symbolic_trace(Branches()).bfloat16().to(memory_format=torch.channels_last)
    batch = torch.randn(faces, 8, 8, 8).bfloat16().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        wanted = plain(batch)
        pack(plain, batch[:2])
        found = plain(batch)
    kinds = {name: type(module).__name__ for name, module in plain.named_children()}
    assert {name for name, kind in kinds.items() if kind == "Conv2d"} == {"twice", "same"}
    assert sum(node.target == "relu" for node in plain.graph.nodes) == 0
    # bf16 has eight bits, and a sum that is not rounded before the ReLU is another in the last.
    torch.testing.assert_close(found, wanted, atol=0.02 * float(wanted.std()), rtol=0.02)

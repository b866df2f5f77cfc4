"""Real trainings of a real ResNet-50, or of a smaller one, on 28 faces of 32 pixels."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from bench import HEAD, NOTHING, PHASE, RESIZE, SIZE, Bench, Notebook, fit, small_network
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import ResNet

from fer_pipeline.errors import TrainingError
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.models.inference import compute_logits
from fer_pipeline.models.transforms import centre_batch
from fer_pipeline.training.history import Trained
from fer_pipeline.training.job import Images
from fer_pipeline.training.optimizers import rate_factor

# What the module's fixtures train is shared: one worker runs all of it.

CPU = torch.device("cpu")
ONE_BATCH = PHASE.model_copy(update={"batch_size": 28})
ONE_HEAD_BATCH = HEAD.model_copy(update={"batch_size": 28})


@pytest.fixture(scope="module")
def untrained() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet50", "none")


@pytest.fixture(scope="module")
def fitted(bench: Bench, untrained: nn.Module) -> tuple[Trained, Notebook]:
    """An epoch of the head of ResNet-50 and one of all of it."""
    notebook = Notebook(deepcopy(untrained))
    return fit(bench.job(notebook.model, observer=notebook)), notebook


def fit_small(bench: Bench, *phases: object, **changes: object) -> tuple[Trained, Notebook]:
    notebook = Notebook(small_network())
    job = bench.job(notebook.model, *phases, observer=notebook, **changes)  # type: ignore[arg-type]
    return fit(job), notebook


@pytest.fixture(scope="module")
def flattered(bench: Bench) -> tuple[Trained, Notebook, Images]:
    """Val labels are what the untrained network says: two tiny steps keep that, the last do not."""
    said = compute_logits(small_network(), bench.val.pixels, SIZE, RESIZE, 14).argmax(dim=1)
    val = Images(bench.val.pixels, said)
    tiny = HEAD.model_copy(update={"epochs": 2, "learning_rate": 1e-7})
    wild = ONE_BATCH.model_copy(update={"learning_rate": 0.1})
    return *fit_small(bench, tiny, wild, val=val), val


def scores(trained: Trained, val: Images, model: nn.Module) -> tuple[float, float]:
    """Accuracy and mean NLL on val of the returned weights, in a fresh network."""
    model.load_state_dict(trained.state)
    chances = compute_logits(model, val.pixels, SIZE, RESIZE, 5).softmax(dim=1)
    picked = chances[torch.arange(len(val.labels)), val.labels]
    hits = chances.argmax(dim=1) == val.labels
    return float(hits.double().mean()), float(-picked.double().log().mean())


def test_the_same_seed_gives_the_same_bits_and_another_does_not(bench: Bench) -> None:
    changes = {"dropout": 0.3, "mixup": 0.2}
    first, first_notebook = fit_small(bench, **changes)
    torch.manual_seed(99)
    again, notebook = fit_small(bench, **changes)
    assert again.state.keys() == first.state.keys()
    assert all(torch.equal(again.state[key], value) for key, value in first.state.items())
    assert torch.equal(notebook.heads[-1], first_notebook.heads[-1])
    for one, other in zip(again.history, first.history, strict=True):
        assert (one.train_loss, one.val_loss) == (other.train_loss, other.val_loss)
    _, other = fit_small(bench, seed=1, **changes)
    assert not torch.equal(other.heads[0], first_notebook.heads[0])


def test_every_epoch_and_batch_is_reported(fitted: tuple[Trained, Notebook]) -> None:
    trained, notebook = fitted
    assert notebook.started == [("head", 1, 2, 28), ("finetune", 2, 2, 28)]
    assert notebook.batches == [[14, 14], [14, 14]]
    assert tuple(notebook.done) == trained.history
    assert [record.epoch for record in trained.history] == [1, 2]
    assert [record.phase for record in trained.history] == ["head", "finetune"]
    assert all(record.images_per_s > 0 for record in trained.history)


def test_the_recorded_figures_are_those_of_the_returned_weights(
    bench: Bench, fitted: tuple[Trained, Notebook]
) -> None:
    trained, _ = fitted
    assert trained.best in trained.history
    assert trained.best.val_accuracy == max(record.val_accuracy for record in trained.history)
    accuracy, loss = scores(trained, bench.val, build_backbone("resnet50", "none"))
    assert accuracy == pytest.approx(trained.best.val_accuracy, abs=1e-6)
    assert loss == pytest.approx(trained.best.val_loss, rel=1e-4)


def test_the_first_of_the_best_epochs_is_returned_and_not_the_last(
    flattered: tuple[Trained, Notebook, Images],
) -> None:
    trained, notebook, val = flattered
    assert [record.val_accuracy for record in trained.history[:2]] == [1.0, 1.0]
    assert trained.best == trained.history[0]
    assert torch.equal(trained.state["fc.weight"], notebook.heads[0])
    assert not torch.equal(notebook.heads[0], notebook.heads[1])
    assert scores(trained, val, small_network())[0] == 1.0


def test_after_the_head_phase_all_but_the_head_is_as_it_was(
    flattered: tuple[Trained, Notebook, Images],
) -> None:
    state = flattered[0].state  # of the first epoch
    before = small_network().state_dict()
    changed = {key for key, value in before.items() if not torch.equal(state[key], value)}
    assert changed == {"fc.weight", "fc.bias"}


def test_returned_weights_are_copies_on_the_cpu(fitted: tuple[Trained, Notebook]) -> None:
    trained, notebook = fitted
    live = {tensor.data_ptr() for tensor in notebook.model.state_dict().values()}
    for tensor in trained.state.values():
        assert tensor.device == CPU
        assert tensor.is_contiguous()
        assert tensor.data_ptr() not in live


@pytest.mark.parametrize(("batch_size", "batches"), [(12, [12, 12]), (100, [28])])
def test_a_short_last_batch_is_left_out_unless_it_is_all_there_is(
    batch_size: int, batches: list[int], bench: Bench
) -> None:
    _, notebook = fit_small(bench, None, PHASE.model_copy(update={"batch_size": batch_size}))
    assert notebook.batches == [batches]


def test_without_a_head_phase_everything_trains_from_the_first_epoch(bench: Bench) -> None:
    trained, notebook = fit_small(bench, None, ONE_BATCH)
    assert notebook.started == [("finetune", 1, 1, 28)]
    assert [record.phase for record in trained.history] == ["finetune"]
    before = small_network().state_dict()
    assert not torch.equal(trained.state["conv1.weight"], before["conv1.weight"])


def test_the_train_loss_is_the_mean_over_the_images(bench: Bench) -> None:
    """While the head stands still, it is that of the untrained network."""
    still = HEAD.model_copy(update={"learning_rate": 1e-30})
    trained, _ = fit_small(bench, still, ONE_BATCH, augment=NOTHING)
    logits = compute_logits(small_network(), bench.train.pixels, SIZE, SIZE, 28)
    wanted = float(functional.cross_entropy(logits, bench.train.labels))
    assert trained.history[0].train_loss == pytest.approx(wanted, rel=1e-5)
    assert trained.history[0].learning_rate == 1e-30


def test_every_epoch_has_an_order_of_its_own(bench: Bench) -> None:
    """While the head stands still, the loss changes only with the four images left out."""
    still = HEAD.model_copy(update={"epochs": 3, "batch_size": 12, "learning_rate": 1e-30})
    trained, _ = fit_small(bench, still, ONE_BATCH, augment=NOTHING)
    losses = {round(record.train_loss, 5) for record in trained.history[:3]}
    assert len(losses) == 3


def test_the_head_takes_adams_steps(bench: Bench) -> None:
    """Two epochs of one batch, against Adam on the frozen network's features by hand."""
    phase = ONE_HEAD_BATCH.model_copy(update={"epochs": 2, "learning_rate": 0.1})
    trained, notebook = fit_small(bench, phase, ONE_BATCH, augment=NOTHING)
    frozen: nn.Module = small_network().eval()
    head = frozen.get_submodule("fc")
    frozen.fc = nn.Identity()
    with torch.no_grad():
        features = frozen(centre_batch(bench.train.pixels, SIZE, SIZE))  # (28, FEATURES)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        loss = functional.cross_entropy(head(features), bench.train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = [record.train_loss for record in trained.history[:2]]
    assert found == pytest.approx(losses, rel=1e-3)
    # Where a gradient is next to nothing, Adam makes much of its rounding error.
    apart = (notebook.heads[1] - head.get_parameter("weight")).abs()
    assert apart.quantile(0.95) < 1e-3


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_loss_that_is_no_number_ends_the_training(clip_norm: float | None, bench: Bench) -> None:
    wild = PHASE.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingError) as ended:
        fit_small(bench, HEAD, wild, clip_norm=clip_norm)
    assert str(ended.value) == (
        "resnet50: the loss of epoch 2 (finetune), step 2, is nan: "
        "lower backbones.resnet50.finetune.learning_rate"
    )


def test_a_network_wrecked_by_its_last_step_ends_the_training(bench: Bench) -> None:
    with pytest.raises(TrainingError) as ended:
        fit_small(bench, None, ONE_BATCH.model_copy(update={"learning_rate": 1e30}))
    assert str(ended.value) == (
        "resnet50: the loss on val after epoch 1 (finetune) is nan: "
        "lower backbones.resnet50.finetune.learning_rate"
    )


@pytest.mark.parametrize("patience", [1, 2])
def test_fine_tuning_ends_after_epochs_without_a_better_val_accuracy(
    patience: int, bench: Bench, flattered: tuple[Trained, Notebook, Images]
) -> None:
    """All val labels are right from the first epoch, so that no later one is better."""
    tiny = HEAD.model_copy(update={"epochs": 2, "learning_rate": 1e-7})
    many = ONE_BATCH.model_copy(update={"epochs": 9})
    trained, notebook = fit_small(bench, tiny, many, val=flattered[2], patience=patience)
    assert [record.phase for record in trained.history] == ["head"] * 2 + ["finetune"] * patience
    assert trained.best.epoch == 1
    assert [epochs for _, _, epochs, _ in notebook.started] == [11] * (2 + patience)


def test_a_better_epoch_starts_the_patience_again(bench: Bench) -> None:
    """Val labels are what the same training says after its second epoch: that one is right."""
    steady = {"schedule": "constant", "ema_decay": None}
    _, taught = fit_small(bench, None, PHASE.model_copy(update={"epochs": 2}), **steady)
    said = compute_logits(taught.model, bench.val.pixels, SIZE, RESIZE, 14).argmax(dim=1)
    many, val = PHASE.model_copy(update={"epochs": 7}), Images(bench.val.pixels, said)
    trained, _ = fit_small(bench, None, many, val=val, patience=2, **steady)
    accuracies = [record.val_accuracy for record in trained.history]
    best = accuracies.index(1.0)
    assert best == 1
    assert trained.best.epoch == best + 1
    assert len(accuracies) == best + 1 + 2


def test_the_rate_follows_its_schedule_within_each_phase(bench: Bench) -> None:
    head = HEAD.model_copy(update={"epochs": 2, "learning_rate": 1e-2})
    many = PHASE.model_copy(update={"epochs": 4})  # of two steps each
    trained, _ = fit_small(bench, head, many, schedule="cosine", warmup_epochs=2)
    wanted = [1e-2 * rate_factor("cosine", step, 4, 0) for step in (0, 2)]
    wanted += [1e-3 * rate_factor("cosine", step, 8, 4) for step in (0, 2, 4, 6)]
    found = [record.learning_rate for record in trained.history]
    assert found == pytest.approx(wanted)
    assert found[4] == 1e-3


def test_the_average_is_the_model_that_counts(bench: Bench) -> None:
    many = PHASE.model_copy(update={"epochs": 2})
    trained, notebook = fit_small(bench, None, many, ema_decay=0.999)
    assert scores(trained, bench.val, small_network()) == pytest.approx(
        (trained.best.val_accuracy, trained.best.val_loss), rel=1e-4
    )
    assert not torch.equal(trained.state["fc.weight"], notebook.heads[trained.best.epoch - 1])


class Lost(ResNet):
    """A network on a GPU that fails in the second epoch."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        if self.passes > 2:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nSearch for it")
        return super().forward(x)


def test_a_gpu_that_fails_ends_in_one_line_and_the_last_checkpoint_stays(
    bench: Bench, tmp_path: Path
) -> None:
    finetune = PHASE.model_copy(update={"epochs": 3})
    with pytest.raises(TrainingError) as ended:
        fit(bench.job(small_network(kind=Lost), None, finetune), tmp_path)
    assert str(ended.value) == (
        "resnet50: the GPU failed (CUDA error: unspecified launch failure Search for it): look at "
        "it with nvidia-smi, then run it again: it goes on from its last checkpoint"
    )
    assert [path.name[:11] for path in tmp_path.rglob("*.pt")] == ["epoch-00001"]

"""What one step of each phase moves, what it must leave alone, and what divides it in parts."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from bench import (
    HEAD,
    NOTHING,
    PHASE,
    Bench,
    Notebook,
    assert_same_bits,
    copy_weights,
    fit,
    group_norm,
    small_network,
)
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import ResNet

from fer_pipeline.data.faces import Split
from fer_pipeline.data.quality.splits import SplitName
from fer_pipeline.errors import TrainingError
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.params.schema import Params, Phase
from fer_pipeline.training import capture
from fer_pipeline.training.history import Trained
from fer_pipeline.training.job import Job
from fer_pipeline.training.phases import PhaseRun, enter_phase

ONE_BATCH = PHASE.model_copy(update={"batch_size": 28, "learning_rate": 1.0})
PLAIN_SGD = {"optimizer": "sgd", "momentum": 0.0, "augment": NOTHING}
"""With one batch and rate 1, weights move by the gradient."""


@pytest.fixture(scope="module")
def untrained() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("resnet50", "none")


@pytest.fixture
def model(untrained: nn.Module) -> nn.Module:
    return deepcopy(untrained)


def train_two_steps(model: nn.Module, phase: Phase) -> None:
    """Two, because residual branches that start at zero get no gradient in the first."""
    optimizer = torch.optim.Adam(enter_phase(model, "resnet50", phase), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        images = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1
        loss = functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {key for key, now in model.state_dict().items() if not torch.equal(now, before[key])}


def test_the_head_phase_moves_the_head_and_keeps_batch_norm_statistics(model: nn.Module) -> None:
    before = copy_weights(model)
    train_two_steps(model, "head")
    assert moved(model, before) == {"fc.weight", "fc.bias"}


def test_the_finetune_phase_moves_every_weight_and_statistic_even_after_the_head_phase(
    model: nn.Module,
) -> None:
    train_two_steps(model, "head")
    before = copy_weights(model)
    train_two_steps(model, "finetune")
    assert moved(model, before) == set(before)


def test_a_phase_gives_the_weights_that_it_moves(model: nn.Module) -> None:
    head = enter_phase(model, "resnet50", "head")
    assert [id(weight) for weight in head] == [id(model.fc.weight), id(model.fc.bias)]
    assert [module for module in model.modules() if module.training] == [model.fc]
    everything = enter_phase(model, "resnet50", "finetune")
    assert len(everything) == len(list(model.parameters()))
    assert all(module.training for module in model.modules())


def test_only_inceptions_head_is_in_training_mode_while_it_alone_trains() -> None:
    model = build_backbone("inception_v3", "none")
    enter_phase(model, "inception_v3", "head")
    assert [name for name, module in model.named_modules() if module.training] == ["fc"]


def steps_of(
    bench: Bench,
    model: nn.Module,
    name: Phase = "finetune",
    micro_batch: int = 28,
    **changes: object,
) -> dict[str, Tensor]:
    """How far each weight moves in an epoch of one batch, which is given in parts."""
    before = copy_weights(model)
    head = HEAD.model_copy(update={"batch_size": 28, "learning_rate": 1.0})
    job = bench.job(model, head, ONE_BATCH, **(PLAIN_SGD | changes))
    PhaseRun(job, name, 1, "fp32", micro_batch).train(1)
    return {key: value - before[key] for key, value in model.state_dict().items()}


@pytest.mark.parametrize("micro_batch", [14, 9, 3, 2])
@pytest.mark.parametrize("changes", [{}, {"mixup": 0.4, "label_smoothing": 0.1}])
def test_parts_of_a_batch_add_up_to_its_gradient(
    micro_batch: int, changes: dict[str, object], bench: Bench
) -> None:
    whole = steps_of(bench, small_network(group_norm), **changes)
    parts = steps_of(bench, small_network(group_norm), micro_batch=micro_batch, **changes)
    assert max(step.abs().max() for step in whole.values()) > 0.1
    for key, step in whole.items():
        torch.testing.assert_close(parts[key], step, atol=1e-5, rtol=1e-5)


def test_parts_of_a_batch_add_up_in_the_head_phase_whatever_the_norm(bench: Bench) -> None:
    whole = steps_of(bench, small_network(), "head")
    parts = steps_of(bench, small_network(), "head", 5)
    assert {key for key, step in whole.items() if step.any()} == {"fc.weight", "fc.bias"}
    for key, step in whole.items():
        torch.testing.assert_close(parts[key], step, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch"), [(28, 3), (28, 9), (27, 13), (7, 3), (5, 2), (5, 4), (14, 100)]
)
def test_no_part_is_of_a_single_image(batch_size: int, micro_batch: int, bench: Bench) -> None:
    model = small_network()
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    phase = PHASE.model_copy(update={"batch_size": batch_size})
    run = PhaseRun(bench.job(model, None, phase), "finetune", 1, "fp32", micro_batch)
    run.train(1)
    assert sum(seen) == 28 // batch_size * batch_size
    assert min(seen) >= 2
    assert max(seen) <= max(3, micro_batch)


class Cramped(ResNet):
    """A network that has memory for so many images at once."""

    fits = 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.fits:
            raise torch.OutOfMemoryError(f"no memory for {len(x)} images")
        return super().forward(x)


def fit_cramped(bench: Bench, fits: int, **changes: object) -> tuple[Trained, Notebook]:
    model = small_network(group_norm, Cramped)
    model.fits = fits
    notebook = Notebook(model)
    return fit(cramped_job(bench, notebook, **changes)), notebook


def cramped_job(bench: Bench, notebook: Notebook, **changes: object) -> Job:
    head = HEAD.model_copy(update={"learning_rate": 0.1})
    finetune = PHASE.model_copy(update={"epochs": 2, "batch_size": 28, "learning_rate": 0.1})
    return bench.job(notebook.model, head, finetune, observer=notebook, **(PLAIN_SGD | changes))


@pytest.mark.parametrize(
    ("fits", "notes"),
    [
        (27, {"micro_batch.finetune": "14"}),
        (5, {"micro_batch.head": "3", "micro_batch.finetune": "3"}),
    ],
)
def test_out_of_memory_keeps_the_effective_batch(
    fits: int, notes: dict[str, str], bench: Bench
) -> None:
    ample, ample_notebook = fit_cramped(bench, 100)
    tight, notebook = fit_cramped(bench, fits)
    assert (ample_notebook.notes, notebook.notes) == ({}, notes)
    assert notebook.batches == ample_notebook.batches == [[14, 14], [28], [28]]
    for one, other in zip(tight.history, ample.history, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=1e-4)
        assert one.learning_rate == other.learning_rate
    for key, value in ample.state.items():
        torch.testing.assert_close(tight.state[key], value, atol=1e-4, rtol=1e-3)


def test_memory_that_holds_no_two_images_ends_the_training(bench: Bench) -> None:
    with pytest.raises(TrainingError) as ended:
        fit_cramped(bench, 1)
    assert str(ended.value) == (
        "resnet50: out of memory: lower backbones.resnet50.image_size or head.batch_size"
    )


def test_out_of_memory_while_views_are_cached_takes_fewer_images_at_once(bench: Bench) -> None:
    notebook = Notebook(small_network(kind=Cramped))
    notebook.model.fits = 4
    head = HEAD.model_copy(update={"cached_views": 2})
    trained = fit(bench.job(notebook.model, head, observer=notebook))
    # The head alone, which trains on the stored views, has memory for its whole batch.
    assert notebook.notes == {"micro_batch.finetune": "3"}
    assert notebook.batches == [[14, 14], [14, 14]]
    *failed, cached = notebook.cached
    assert (failed, sum(cached), max(cached)) == ([[]] * 4, 2 * 28 + 14, 3)
    assert len(trained.history) == 2


def test_views_that_memory_does_not_hold_end_the_training_before_any_forward_pass(
    bench: Bench,
) -> None:
    model = small_network()
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with pytest.raises(TrainingError) as ended:
        fit(bench.job(model, HEAD.model_copy(update={"cached_views": 10**12})))
    assert str(ended.value) == (
        "resnet50: out of memory: lower backbones.resnet50.image_size or head.cached_views"
    )
    assert seen == []


@pytest.mark.parametrize("views", [1, 3])
def test_cached_views_cost_one_forward_pass_each_for_all_epochs(views: int, bench: Bench) -> None:
    model = small_network()
    seen: list[int] = []
    model.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    head = HEAD.model_copy(update={"epochs": 30, "cached_views": views})
    run = PhaseRun(bench.job(model, head), "head", 1, "fp32", 14)
    before = copy_weights(model)
    losses = []
    for epoch in range(1, 31):
        losses.append(run.train(epoch)[0])
        run.validate()
    assert sum(seen) == views * 28 + 14  # val's once
    assert moved(model, before) == {"fc.weight", "fc.bias"}
    assert losses[-1] < losses[0]


def test_a_fresh_crop_each_epoch_costs_one_forward_pass_each(bench: Bench) -> None:
    model = small_network()
    seen: list[int] = []
    model.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    run = PhaseRun(bench.job(model), "head", 1, "fp32", 14)
    for epoch in (1, 2):
        run.train(epoch)
    assert sum(seen) == 2 * 28


def test_one_cached_view_without_augmentation_trains_as_fresh_views_do(bench: Bench) -> None:
    heads = []
    for views in (0, 1):
        model = small_network()
        head = HEAD.model_copy(update={"cached_views": views, "learning_rate": 0.1})
        run = PhaseRun(bench.job(model, head, **PLAIN_SGD), "head", 1, "fp32", 14)
        heads.append((run.train(1)[0], run.validate(), model.fc.weight.detach().clone()))
    (fresh_loss, fresh_val, fresh), (cached_loss, cached_val, cached) = heads
    assert cached_loss == pytest.approx(fresh_loss, abs=1e-5)
    assert cached_val == pytest.approx(fresh_val, abs=1e-5)
    torch.testing.assert_close(cached, fresh, atol=1e-4, rtol=0)


def test_cached_views_differ_from_each_other_and_are_all_used(bench: Bench) -> None:
    """While the head stands still, the loss of an epoch tells which views were drawn."""
    losses = {}
    for views in (1, 4):
        still = HEAD.model_copy(
            update={"cached_views": views, "learning_rate": 1e-30, "batch_size": 28}
        )
        run = PhaseRun(bench.job(small_network(), still), "head", 1, "fp32", 28)
        losses[views] = {round(run.train(epoch)[0], 6) for epoch in range(1, 7)}
    assert len(losses[1]) == 1
    assert len(losses[4]) == 6


@pytest.mark.parametrize("clip_norm", [0.01, 1e6])
def test_a_gradient_is_clipped_to_its_largest_norm(clip_norm: float, bench: Bench) -> None:
    free = steps_of(bench, small_network(group_norm))
    clipped = steps_of(bench, small_network(group_norm), clip_norm=clip_norm)
    norm = float(torch.cat([step.flatten() for step in free.values()]).norm())
    factor = min(1.0, clip_norm / norm)
    assert norm > 0.01
    for key, step in free.items():
        torch.testing.assert_close(clipped[key], step * factor, atol=1e-6, rtol=1e-2)


def test_parts_are_clipped_together(bench: Bench) -> None:
    whole = steps_of(bench, small_network(group_norm), clip_norm=0.01)
    parts = steps_of(bench, small_network(group_norm), micro_batch=3, clip_norm=0.01)
    for key, step in whole.items():
        torch.testing.assert_close(parts[key], step, atol=1e-5, rtol=0)


def test_the_average_follows_every_step_of_fine_tuning_and_none_of_the_head(bench: Bench) -> None:
    model = small_network()

    class Follower(Notebook):
        def batch_done(self, images: int) -> None:
            weights.append(model.conv1.weight.detach().clone())

    weights: list[Tensor] = []
    job = bench.job(model, ema_decay=0.3, observer=Follower(model))
    head = PhaseRun(job, "head", 1, "fp32", 14)
    assert head.model is model
    run = PhaseRun(job, "finetune", 2, "fp32", 14)
    for epoch in (2, 3):
        run.train(epoch)
    average = weights[0]
    for update, weight in enumerate(weights[1:], start=1):
        kept = min(0.3, (1 + update) / (10 + update))
        average = kept * average + (1 - kept) * weight
    torch.testing.assert_close(run.model.conv1.weight, average, atol=1e-6, rtol=1e-5)
    assert len(weights) == 4


def test_mixup_is_off_in_the_last_epochs_and_in_the_head_phase(bench: Bench) -> None:
    """With rates of nearly 0 and batches of everything only mixing changes the loss."""
    still = {"batch_size": 28, "learning_rate": 1e-30}
    head = HEAD.model_copy(update={"epochs": 2, **still})
    finetune = PHASE.model_copy(update={"epochs": 4, **still})
    trained = fit(
        bench.job(
            small_network(group_norm),
            head,
            finetune,
            augment=NOTHING,
            mixup=0.4,
            mixup_off_epochs=2,
        )
    )
    losses = [record.train_loss for record in trained.history]
    plain = losses[0]
    assert [loss == pytest.approx(plain, abs=1e-5) for loss in losses] == (
        [True, True, False, False, True, True]
    )


def test_dropout_is_on_in_training_and_off_in_validation_and_in_cached_views(bench: Bench) -> None:
    torch.manual_seed(0)
    model = build_backbone("resnet50", "none", dropout=0.5)
    still = HEAD.model_copy(update={"cached_views": 1, "learning_rate": 1e-30, "batch_size": 28})
    run = PhaseRun(bench.job(model, still, augment=NOTHING), "head", 1, "fp32", 28)
    losses = [run.train(epoch)[0] for epoch in (1, 2, 1)]
    assert losses[0] != losses[1]
    assert losses[0] == losses[2]  # dropout too is drawn by the epoch's number
    assert run.validate() == run.validate()


def test_a_phase_that_takes_over_goes_on_where_the_other_stopped(bench: Bench) -> None:
    """Optimiser, schedule and average come from the state; the weights are set beside it."""
    changes = {"schedule": "cosine", "ema_decay": 0.9}
    phase = PHASE.model_copy(update={"epochs": 3})
    model = small_network()
    run = PhaseRun(bench.job(model, None, phase, **changes), "finetune", 1, "fp32", 14)
    run.train(1)
    other_model = small_network()
    other_model.load_state_dict(copy_weights(model))
    other = PhaseRun(bench.job(other_model, None, phase, **changes), "finetune", 1, "fp32", 14)
    other.load_state_dict(deepcopy(run.state_dict()))
    assert other.learning_rate == run.learning_rate < 1e-3
    run.train(2)
    other.train(2)
    assert_same_bits(copy_weights(other_model), copy_weights(model))
    assert_same_bits(copy_weights(other.model), copy_weights(run.model))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="steps are captured on GPUs")
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_captured_step_trains_as_one_that_is_not(
    optimizer: str, splits: dict[SplitName, Split], params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(splits, params.training, "cuda")
    changes = {
        "optimizer": optimizer,
        "schedule": "onecycle",
        "clip_norm": 1.0,
        "ema_decay": 0.9,
        "mixup": 0.2,
        "mixup_off_epochs": 1,
    }
    phase = PHASE.model_copy(update={"epochs": 6, "batch_size": 7})

    def train(captured: bool) -> tuple[dict[str, Tensor], list[float]]:
        monkeypatch.setattr(capture, "WARM_CALLS", 3 if captured else 10**9)
        job = bench.job(small_network().cuda(), None, phase, **changes)
        run = PhaseRun(job, "finetune", 1, "fp32", 7)
        losses = [run.train(epoch)[0] for epoch in range(1, 7)]
        assert run.captured == captured
        return copy_weights(run.model), losses

    (weights, losses), (wanted, wanted_losses) = train(captured=True), train(captured=False)
    assert losses == pytest.approx(wanted_losses, rel=1e-3)
    for key, value in wanted.items():
        torch.testing.assert_close(weights[key], value, atol=1e-3, rtol=1e-2)

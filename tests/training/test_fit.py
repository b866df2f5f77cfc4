"""Real trainings of a real ResNet-50, on 28 faces of 32 pixels."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fer_pipeline.data.faces import Split
from fer_pipeline.data.splits import SplitName
from fer_pipeline.errors import TrainingError
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.models.inference import compute_logits
from fer_pipeline.models.inputs import centre_batch
from fer_pipeline.params import (
    AugmentParams,
    BackboneParams,
    Params,
    PhaseParams,
    TrainingParams,
)
from fer_pipeline.training.fit import Images, Trainer, hold
from fer_pipeline.training.records import EpochRecord, Phase, Trained

# What the module's fixtures train is shared: one worker runs all of it.

CPU = torch.device("cpu")
SIZE, RESIZE = 32, 36
PHASE = PhaseParams(epochs=1, batch_size=14, learning_rate=1e-3)
ONE_BATCH = PhaseParams(epochs=1, batch_size=28, learning_rate=1e-3)


class Notebook:
    """Writes down what a trainer reports, and the head's weights after each epoch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.started: list[tuple[Phase, int, int, int]] = []
        self.batches: list[list[int]] = []
        self.done: list[EpochRecord] = []
        self.heads: list[Tensor] = []

    def epoch_started(self, phase: Phase, epoch: int, epochs: int, images: int) -> None:
        self.started.append((phase, epoch, epochs, images))
        self.batches.append([])

    def batch_done(self, images: int) -> None:
        self.batches[-1].append(images)

    def epoch_done(self, record: EpochRecord) -> None:
        self.done.append(record)
        self.heads.append(self.model.get_parameter("fc.weight").detach().clone())


class Bench:
    """One untrained backbone and the tiny splits, trained as a test asks for."""

    def __init__(self, splits: dict[SplitName, Split], training: TrainingParams) -> None:
        torch.manual_seed(0)
        self.untrained = build_backbone("resnet50", "none")
        self.train, self.val = hold(splits["train"], CPU), hold(splits["val"], CPU)
        self.training = training

    def fit(
        self,
        head: PhaseParams | None = PHASE,
        finetune: PhaseParams = PHASE,
        *,
        seed: int = 0,
        val: Images | None = None,
        training: TrainingParams | None = None,
    ) -> tuple[Trained, Notebook]:
        model = deepcopy(self.untrained)
        notebook = Notebook(model)
        params = BackboneParams(
            weights="none", image_size=SIZE, eval_resize=RESIZE, head=head, finetune=finetune
        )
        trainer = Trainer(
            model,
            "resnet50",
            params,
            training or self.training,
            self.train,
            val or self.val,
            seed,
            notebook,
        )
        return trainer.fit(), notebook


@pytest.fixture(scope="module")
def bench(splits: dict[SplitName, Split], params: Params) -> Bench:
    return Bench(splits, params.training)


@pytest.fixture(scope="module")
def fitted(bench: Bench) -> tuple[Trained, Notebook]:
    """An epoch of the head and one of all."""
    return bench.fit()


@pytest.fixture(scope="module")
def flattered(bench: Bench) -> tuple[Trained, Notebook, Images]:
    """Val labels are what the untrained network says: two tiny steps keep that, the last do not."""
    said = compute_logits(bench.untrained, bench.val.pixels, SIZE, RESIZE, 14).argmax(dim=1)
    val = Images(bench.val.pixels, said)
    tiny = PHASE.model_copy(update={"epochs": 2, "learning_rate": 1e-7})
    return *bench.fit(tiny, ONE_BATCH.model_copy(update={"learning_rate": 0.1}), val=val), val


def scores(trained: Trained, val: Images) -> tuple[float, float]:
    """Accuracy and mean NLL on val of the returned weights, in a fresh network."""
    model = build_backbone("resnet50", "none")
    model.load_state_dict(trained.state)
    chances = compute_logits(model, val.pixels, SIZE, RESIZE, 5).softmax(dim=1)
    picked = chances[torch.arange(len(val.labels)), val.labels]
    hits = chances.argmax(dim=1) == val.labels
    return float(hits.double().mean()), float(-picked.double().log().mean())


def test_the_same_seed_gives_the_same_bits(bench: Bench, fitted: tuple[Trained, Notebook]) -> None:
    torch.manual_seed(99)  # a ResNet draws nothing from the global generator
    again, notebook = bench.fit()
    first, first_notebook = fitted
    assert again.state.keys() == first.state.keys()
    assert all(torch.equal(again.state[key], value) for key, value in first.state.items())
    assert torch.equal(notebook.heads[-1], first_notebook.heads[-1])
    for one, other in zip(again.history, first.history, strict=True):
        assert (one.train_loss, one.val_loss) == (other.train_loss, other.val_loss)


def test_another_seed_gives_other_weights(bench: Bench, fitted: tuple[Trained, Notebook]) -> None:
    _, other = bench.fit(finetune=ONE_BATCH, seed=1)
    assert not torch.equal(other.heads[0], fitted[1].heads[0])


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
    accuracy, loss = scores(trained, bench.val)
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
    assert scores(trained, val)[0] == 1.0


def test_after_the_head_phase_all_but_the_head_is_as_it_was(
    bench: Bench, flattered: tuple[Trained, Notebook, Images]
) -> None:
    state = flattered[0].state  # of the first epoch
    before = bench.untrained.state_dict()
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
    _, notebook = bench.fit(None, PHASE.model_copy(update={"batch_size": batch_size}))
    assert notebook.batches == [batches]


def test_without_a_head_phase_everything_trains_from_the_first_epoch(bench: Bench) -> None:
    trained, notebook = bench.fit(None, ONE_BATCH)
    assert notebook.started == [("finetune", 1, 1, 28)]
    assert [record.phase for record in trained.history] == ["finetune"]
    assert not torch.equal(
        trained.state["conv1.weight"], bench.untrained.state_dict()["conv1.weight"]
    )


@pytest.fixture(scope="module")
def plain(bench: Bench) -> TrainingParams:
    """Nothing is augmented, so that a training can be repeated by hand."""
    nothing = AugmentParams(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
    return bench.training.model_copy(update={"augment": nothing})


def test_the_train_loss_is_the_mean_over_the_images(bench: Bench, plain: TrainingParams) -> None:
    """While the head stands still, it is that of the untrained network."""
    still = PHASE.model_copy(update={"learning_rate": 1e-30})
    trained, _ = bench.fit(still, ONE_BATCH, training=plain)
    logits = compute_logits(bench.untrained, bench.train.pixels, SIZE, SIZE, 28)
    wanted = float(functional.cross_entropy(logits, bench.train.labels))
    assert trained.history[0].train_loss == pytest.approx(wanted, rel=1e-5)
    assert trained.history[0].learning_rate == 1e-30


def test_every_epoch_has_an_order_of_its_own(bench: Bench, plain: TrainingParams) -> None:
    """While the head stands still, the loss changes only with the four images left out."""
    still = PhaseParams(epochs=3, batch_size=12, learning_rate=1e-30)
    trained, _ = bench.fit(still, ONE_BATCH, training=plain)
    losses = {round(record.train_loss, 5) for record in trained.history[:3]}
    assert len(losses) == 3


def test_the_head_takes_adams_steps(bench: Bench, plain: TrainingParams) -> None:
    """Two epochs of one batch, against Adam on the frozen network's features by hand."""
    phase = ONE_BATCH.model_copy(update={"epochs": 2, "learning_rate": 0.1})
    trained, notebook = bench.fit(phase, ONE_BATCH, training=plain)
    frozen = deepcopy(bench.untrained).eval()
    head = frozen.get_submodule("fc")
    frozen.fc = nn.Identity()
    with torch.no_grad():
        features = frozen(centre_batch(bench.train.pixels, SIZE, SIZE))  # (28, 2048)
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


def test_a_loss_that_is_no_number_ends_the_training(bench: Bench) -> None:
    with pytest.raises(TrainingError) as ended:
        bench.fit(finetune=PHASE.model_copy(update={"learning_rate": 1e30}))
    assert str(ended.value) == (
        "resnet50: the loss of epoch 2 (finetune) is nan: "
        "lower backbones.resnet50.finetune.learning_rate"
    )


def test_a_network_wrecked_by_its_last_step_ends_the_training(bench: Bench) -> None:
    with pytest.raises(TrainingError, match="epoch 1"):
        bench.fit(None, ONE_BATCH.model_copy(update={"learning_rate": 1e30}))

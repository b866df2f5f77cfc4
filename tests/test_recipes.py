"""Every shipped recipe is valid, and every backbone of it trains for one batch."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torchvision.models import get_model, get_model_weights

from fer_pipeline.data.faces import Split
from fer_pipeline.data.quality.duplicates import group_by_pixels
from fer_pipeline.data.quality.splits import split_faces
from fer_pipeline.data.sources.sample import draw_sample
from fer_pipeline.models.backbones import build_backbone
from fer_pipeline.models.catalog import require_known
from fer_pipeline.params.load import load_params
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.fit import Trainer
from fer_pipeline.training.history import Observer
from fer_pipeline.training.job import Job, seed_of, to_device

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
BATCH = 4  # one batch of it in seven faces
NAMES = sorted(path.name for path in RECIPES.glob("*.yaml"))
# Each recipe, and each backbone in turn; at the largest inputs the quickest.
TRAININGS = list(zip(NAMES, itertools.cycle(("resnet101", "resnet50", "inception_v3"))))


class Counter(Observer):
    """An observer that only counts."""

    images = 0

    def batch_done(self, images: int) -> None:
        self.images += images


def put_imagenet_weights(torch_home: Path, name: str) -> None:
    """A file of ImageNet's shapes under torchvision's name, in its cache.

    The numbers in it are random: a test can't download, and the code can't tell.
    """
    checkpoints = torch_home / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    options = {"init_weights": False} if name == "inception_v3" else {}
    state = get_model(name, weights=None, **options).state_dict()
    torch.save(state, checkpoints / get_model_weights(name).DEFAULT.url.rpartition("/")[2])


@pytest.fixture(scope="module")
def seven() -> dict[str, Split]:
    """Seven faces in each split: the smallest sample."""
    faces = draw_sample(7, 7, 7, seed=1)
    return split_faces(faces, group_by_pixels(faces), "official")


def test_the_committed_params_are_the_sample_recipe() -> None:
    assert (RECIPES / "sample.yaml").read_text() == (RECIPES.parent / "params.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid(name: str) -> None:
    require_known(load_params(RECIPES / name).backbones)


def test_the_paper_recipe_follows_the_paper() -> None:
    params = load_params(RECIPES / "paper.yaml")
    assert params.data.protocol == "paper"
    assert params.fusion.method == "accuracy"
    batches = {"resnet50": 8, "resnet101": 8, "inception_v3": 16}
    rates = {"resnet50": 1e-4, "resnet101": 1e-4, "inception_v3": 1e-5}
    for name, own in params.backbones.items():
        assert (own.weights, own.image_size, own.eval_resize) == ("imagenet", 299, 320)
        assert own.head is not None
        assert (own.head.epochs, own.finetune.epochs) == (30, 30)
        assert own.head.batch_size == own.finetune.batch_size == batches[name]
        assert (own.head.learning_rate, own.finetune.learning_rate) == (1e-3, rates[name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backbone"), TRAININGS)
def test_a_recipe_trains_for_one_batch(
    name: str,
    backbone: str,
    seven: dict[str, Split],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """In everything as the recipe says, but that the batch is a small one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    params = load_params(RECIPES / name)
    own = params.backbones[backbone]
    if own.weights == "imagenet":
        put_imagenet_weights(tmp_path / "torch", backbone)
    once = own.finetune.model_copy(update={"epochs": 1, "batch_size": BATCH})
    own = own.model_copy(update={"head": None, "finetune": once})
    fabric = Fabric(accelerator="cpu", devices=1)
    observer = Counter()
    job = Job(
        fabric,
        build_backbone(backbone, own.weights, params.training.dropout),
        backbone,
        own,
        params.training,
        to_device(seven["train"], fabric.device),
        to_device(seven["val"], fabric.device),
        seed_of(backbone, params.seed),
        observer,
    )
    checkpoints = Checkpoints(tmp_path / "checkpoints", "key")
    trained = Trainer(job, checkpoints).fit()
    checkpoints.clear()
    assert len(trained.history) == 1
    assert observer.images == BATCH

"""Every network of the catalogue, and every way in which initial weights can be wrong."""

from __future__ import annotations

import shutil
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._dynamo.utils import is_compile_supported
from torchvision.models import get_model
from torchvision.ops import roi_align

from fer_pipeline.errors import WeightsError
from fer_pipeline.models.backbones import build_backbone, head_of, load_trained
from fer_pipeline.models.catalog import CATALOG

# The networks and files of the module's fixtures are shared: one worker runs all of it.

# torchvision's names for its ImageNet weights, as its users find them in their caches.
IMAGENET_FILES = {
    "resnet50": "resnet50-11ad3fa6.pth",
    "inception_v3": "inception_v3_google-0cc3c7bd.pth",
}

State = Mapping[str, Tensor]

SEED = 0


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """Every network of the catalogue, from random weights."""
    torch.manual_seed(SEED)
    return {name: build_backbone(name, "none") for name in CATALOG}


@pytest.fixture(scope="module")
def imagenet_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """1000-class state dicts as torchvision ships them, Inception's with its auxiliary head."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("imagenet")
    options = {"inception_v3": {"init_weights": False}}
    for name, file_name in IMAGENET_FILES.items():
        model = get_model(name, weights=None, **options.get(name, {}))
        torch.save(model.state_dict(), folder / file_name)
    yield {name: folder / file_name for name, file_name in IMAGENET_FILES.items()}
    shutil.rmtree(folder)


@pytest.fixture
def large_file(tmp_path: Path) -> Iterator[Path]:
    """A file that pytest shall not keep."""
    yield tmp_path / "model.safetensors"
    (tmp_path / "model.safetensors").unlink(missing_ok=True)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's folder for downloads, empty, and no way to download."""
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        nowhere = f"http://127.0.0.1:{closed_soon.getsockname()[1]}"
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, nowhere)
        monkeypatch.setenv(variable.upper(), nowhere)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    # urllib keeps the proxies that it found in the environment at first use.
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def hollow() -> Iterator[None]:
    """Networks without memory: to fill one takes longer than to refuse a file for it."""
    with torch.device("meta"):
        yield


class Bomb:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return (Path.mkdir, (self.path,))


def images_for(name: str) -> Tensor:
    size = CATALOG[name].min_image_size
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1


def without_head(state: State) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(("fc.", "AuxLogits."))}


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Zeros in the right shapes, in a file of a few kilobytes."""
    state = model.state_dict()
    return {key: value.new_zeros(()).expand(value.shape) for key, value in state.items()}


def assert_same_states(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("name", CATALOG)
def test_every_backbone_gives_seven_logits_at_its_smallest_input(
    name: str, networks: dict[str, nn.Module]
) -> None:
    networks[name].eval()
    with torch.inference_mode():
        logits = networks[name](images_for(name))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


def test_torchvisions_other_layers_ask_the_compiler_that_was_not_imported_with_them() -> None:
    pooled = roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 2)
    assert torch.equal(pooled, torch.ones(1, 1, 2, 2))
    assert roi_align.__globals__["is_compile_supported"]("cpu") == is_compile_supported("cpu")


@pytest.mark.parametrize("name", CATALOG)
def test_every_backbone_gives_plain_logits_in_training_too(
    name: str, networks: dict[str, nn.Module]
) -> None:
    model = networks[name].train()
    logits = model(images_for(name).repeat(2, 1, 1, 1))
    assert isinstance(logits, Tensor)
    assert logits.shape == (4, 7)


@pytest.mark.parametrize("name", CATALOG)
def test_every_backbone_is_in_channels_last(name: str, networks: dict[str, nn.Module]) -> None:
    convolutions = [weight for weight in networks[name].parameters() if weight.ndim == 4]
    assert len(convolutions) > 50
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)


@pytest.mark.parametrize("name", CATALOG)
def test_the_head_is_the_seven_way_layer(name: str, networks: dict[str, nn.Module]) -> None:
    head = head_of(networks[name], name)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 7
    assert head is list(networks[name].modules())[-1]


@pytest.mark.parametrize("name", CATALOG)
def test_saved_weights_give_the_same_logits(
    name: str, networks: dict[str, nn.Module], large_file: Path
) -> None:
    model = networks[name].eval()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, large_file)
    loaded = load_trained(name, large_file)
    assert not loaded.training
    assert_same_states(loaded.state_dict(), model.state_dict())
    with torch.inference_mode():
        assert torch.equal(loaded(images_for(name)), model(images_for(name)))


def test_the_same_seed_builds_the_same_network(networks: dict[str, nn.Module]) -> None:
    torch.manual_seed(SEED)
    again = dict(build_backbone("resnet50", "none").named_parameters())
    assert_same_states(again, dict(networks["resnet50"].named_parameters()))
    torch.manual_seed(SEED + 1)
    other = build_backbone("resnet50", "none")
    assert not torch.equal(other.get_parameter("conv1.weight"), again["conv1.weight"])


@pytest.mark.parametrize("name", IMAGENET_FILES)
def test_imagenet_weights_come_from_the_cache_with_a_new_head(
    name: str, cache: Path, imagenet_files: dict[str, Path]
) -> None:
    (cache / IMAGENET_FILES[name]).symlink_to(imagenet_files[name])
    model = build_backbone(name, "imagenet")
    assert_same_states(
        without_head(model.state_dict()),
        without_head(torch.load(imagenet_files[name], weights_only=True)),
    )
    assert head_of(model, name).weight.shape == (7, 2048)
    assert not any(key.startswith("AuxLogits.") for key in model.state_dict())


def test_imagenets_auxiliary_head_is_not_kept(cache: Path, imagenet_files: dict[str, Path]) -> None:
    (cache / IMAGENET_FILES["inception_v3"]).symlink_to(imagenet_files["inception_v3"])
    model = build_backbone("inception_v3", "imagenet")
    assert_same_states(
        without_head(model.state_dict()),
        without_head(torch.load(imagenet_files["inception_v3"], weights_only=True)),
    )
    assert not any(key.startswith("AuxLogits.") for key in model.state_dict())


@pytest.mark.parametrize("name", ["resnet50", "inception_v3"])
def test_dropout_zeroes_its_share_of_the_heads_inputs_in_training_alone(name: str) -> None:
    model, without = (build_backbone(name, "none", dropout) for dropout in (0.3, 0.0))
    assert model.state_dict().keys() == build_backbone(name, "none").state_dict().keys()
    without.load_state_dict(model.state_dict())
    images, seen = images_for(name).repeat(2, 1, 1, 1), []
    for network in (model, without):
        head_of(network, name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for training in (True, False):
            model.train(training)(images)
            without.train(training)(images)
    dropped, whole, after, wanted = seen
    share = float((dropped[whole != 0] == 0).float().mean())
    assert share == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(dropped[dropped != 0], whole[dropped != 0] / 0.7)
    torch.testing.assert_close(after, wanted)


@pytest.mark.parametrize(("dropout", "share"), [(None, 0.5), (0.2, 0.2), (0.0, 0.0)])
def test_inceptions_own_dropout_is_kept_or_replaced_and_acts_with_the_head_alone(
    dropout: float | None, share: float
) -> None:
    model = build_backbone("inception_v3", "none", dropout).eval()
    head, seen = head_of(model, "inception_v3"), []
    head.train().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        head(torch.ones(50, 2048))
    assert float((seen[0] == 0).float().mean()) == pytest.approx(share, abs=0.01)
    assert model.train().get_submodule("dropout")(torch.ones(1000)).all()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_may_come_from_a_file_of_any_number_of_classes(
    suffix: str, imagenet_files: dict[str, Path], large_file: Path
) -> None:
    path = imagenet_files["resnet50"]
    state = torch.load(path, weights_only=True)
    if suffix == ".safetensors":
        path = large_file
        save_file(state, path)
    model = build_backbone("resnet50", str(path))
    assert_same_states(without_head(model.state_dict()), without_head(state))


@pytest.mark.usefixtures("hollow")
def test_without_a_network_the_file_and_its_folder_are_named(cache: Path) -> None:
    with pytest.raises(WeightsError) as refused:
        build_backbone("resnet50", "imagenet")
    assert f"put resnet50-11ad3fa6.pth into {cache}" in str(refused.value)
    assert "set backbones.resnet50.weights to none or a path" in str(refused.value)
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("hollow")
@pytest.mark.parametrize("content", [b"", b"<html>Sign in</html>", b"PK\x03\x04 and no more"])
def test_a_damaged_download_is_named(content: bytes, cache: Path) -> None:
    path = cache / IMAGENET_FILES["resnet50"]
    path.write_bytes(content)
    with pytest.raises(WeightsError) as refused:
        build_backbone("resnet50", "imagenet")
    assert str(refused.value).startswith(f"{path} is damaged (")
    assert str(refused.value).endswith("): delete it and try again")


@pytest.mark.usefixtures("hollow")
def test_a_cut_off_download_is_named(cache: Path, imagenet_files: dict[str, Path]) -> None:
    path = cache / IMAGENET_FILES["resnet50"]
    with imagenet_files["resnet50"].open("rb") as whole:
        path.write_bytes(whole.read(1_000_000))
    with pytest.raises(WeightsError, match="is damaged") as refused:
        build_backbone("resnet50", "imagenet")
    assert str(path) in str(refused.value)


@pytest.mark.usefixtures("hollow")
@pytest.mark.parametrize("content", [b"", b"<html>Sign in</html>", b"PK\x03\x04 and no more"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_named(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as refused:
        build_backbone("resnet50", str(path))
    assert str(refused.value).startswith(f"weights {path} can't be read: ")
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("hollow")
def test_a_text_file_is_no_state_dict_whatever_it_begins_with(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_text("hello world")
    with pytest.raises(WeightsError, match="can't be read"):
        build_backbone("resnet50", str(path))


@pytest.mark.usefixtures("hollow")
def test_one_flipped_bit_in_a_name_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"conv1.weight": torch.zeros(2, device="cpu")}, path)
    path.write_bytes(path.read_bytes().replace(b"conv1.weight", b"conv1.\xf7eight"))
    with pytest.raises(WeightsError, match="can't be read"):
        build_backbone("resnet50", str(path))


@pytest.mark.usefixtures("hollow")
def test_a_pickle_with_code_in_it_is_refused_and_not_run(cache: Path, tmp_path: Path) -> None:
    marker = tmp_path / "the code ran"
    torch.save({"fc.weight": Bomb(marker)}, tmp_path / "mine.pth")
    torch.save({"fc.weight": Bomb(marker)}, cache / IMAGENET_FILES["resnet50"])
    for weights in (str(tmp_path / "mine.pth"), "imagenet"):
        with pytest.raises(WeightsError):
            build_backbone("resnet50", weights)
    assert not marker.exists()
    run, arguments = Bomb(marker).__reduce__()
    run(*arguments)
    assert marker.exists(), "the pickle is no bomb: this test proves nothing"


@pytest.mark.usefixtures("hollow")
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    weight = torch.zeros(2, device="cpu")
    for content in ({"state_dict": {"conv1.weight": weight}, "epoch": 3}, [weight], 3):
        torch.save(content, path)
        with pytest.raises(WeightsError) as refused:
            build_backbone("resnet50", str(path))
        assert str(refused.value) == (f"weights {path} are no state dict: save model.state_dict()")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_saved_from_a_parallel_model_are_taken(
    suffix: str, networks: dict[str, nn.Module], large_file: Path
) -> None:
    path = large_file.with_suffix(suffix)
    state = nn.DataParallel(networks["resnet50"]).state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    assert {key.partition(".")[0] for key in state} == {"module"}
    model = build_backbone("resnet50", str(path))
    path.unlink()
    assert_same_states(
        without_head(model.state_dict()), without_head(networks["resnet50"].state_dict())
    )


@pytest.mark.usefixtures("hollow")
def test_a_whole_model_is_refused_without_advice_to_unpickle_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(WeightsError) as refused:
        build_backbone("resnet50", str(path))
    assert str(refused.value) == (
        f"weights {path} can't be read: more than tensors, save model.state_dict()"
    )


@pytest.mark.usefixtures("hollow")
def test_a_cached_file_that_is_no_state_dict_is_refused(cache: Path) -> None:
    torch.save([torch.zeros(2, device="cpu")], cache / IMAGENET_FILES["resnet50"])
    with pytest.raises(WeightsError, match=r"resnet50-11ad3fa6\.pth"):
        build_backbone("resnet50", "imagenet")


@pytest.mark.parametrize(
    ("name", "other", "says"),
    [
        ("resnet101", "resnet50", r"\d+ entries missing, 0 unknown, such as layer3\.6\.conv1"),
        ("resnet50", "inception_v3", r"\d+ entries missing, \d+ unknown, such as conv1\.weight"),
    ],
)
@pytest.mark.usefixtures("hollow")
# The hollow network can't keep the entries that do fit.
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
def test_weights_of_another_network_are_refused(
    name: str, other: str, says: str, imagenet_files: dict[str, Path]
) -> None:
    path = imagenet_files[other]
    with pytest.raises(WeightsError, match=f"weights {path} do not fit {name}: {says}"):
        build_backbone(name, str(path))


def test_weights_of_the_same_names_and_other_shapes_are_refused(
    networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    path = tmp_path / "wide.pth"
    torch.save(plain_state(networks["resnet50"]) | {"conv1.weight": torch.zeros(32, 3, 7, 7)}, path)
    with pytest.raises(WeightsError, match=r"do not fit resnet50: .*size mismatch for conv1"):
        build_backbone("resnet50", str(path))


@pytest.mark.usefixtures("hollow")
@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors", "."])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(WeightsError) as refused:
        build_backbone("resnet50", str(path))
    assert str(refused.value) == f"weights {path} are missing: give the path of a state dict"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("inception_v3", "Missing key"),
        ("resnet101", "Unexpected key"),
        ("thousand classes", r"size mismatch for fc\.weight"),
    ],
)
def test_trained_weights_of_another_network_are_refused(
    other: str, says: str, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    state = plain_state(networks.get(other, networks["resnet50"]))
    if other not in networks:
        state["fc.weight"] = torch.zeros(1000, 2048)
    path = tmp_path / "model.pth"
    torch.save(state, path)
    with pytest.raises(
        WeightsError, match=f"{path} is no trained resnet50 .does not fit: .*{says}"
    ):
        load_trained("resnet50", path)


@pytest.mark.usefixtures("hollow")
def test_trained_weights_must_be_there_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(WeightsError, match=f"weights {path} are missing"):
        load_trained("resnet50", path)
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7, device="cpu")}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=f"weights {path} can't be read"):
        load_trained("resnet50", path)

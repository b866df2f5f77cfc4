"""A bad edit of params.yaml is refused with the file, the key, and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from fer_pipeline.errors import ParamsError
from fer_pipeline.models.catalog import CATALOG, require_known
from fer_pipeline.params.load import load_params
from fer_pipeline.params.schema import Params

HEAD = "backbones.resnet50.head"
ABSENT = object()

RESNET = "backbones.resnet50"
AUGMENT = "training.augment"

# The key, a value that it must not have, and what the message asks for instead.
OTHER_VERBS = ("not be", "have", "match")

BAD_VALUES: list[tuple[str, object, str]] = [
    ("seed", -1, "greater than or equal to 0"),
    ("data.protocol", "mine", "'official', 'paper' or 'holdout'"),
    ("data.labels", "majority", "'fer' or 'ferplus_majority'"),
    ("data.labels", None, "'fer' or 'ferplus_majority'"),
    ("data.unlabelled", "keep", "'refuse' or 'ignore'"),
    ("data.drop_constant", "yes", "true or false"),
    ("data.drop_constant", 1, "true or false"),
    ("data.drop_constant", None, "true or false"),
    ("data.drop_train_duplicates_of", "train", "'none', 'val', 'test' or 'both'"),
    ("data.drop_train_duplicates_of", None, "'none', 'val', 'test' or 'both'"),
    ("data.conflicts", "vote", "'keep', 'majority' or 'drop'"),
    ("data.max_drift", 1.1, "less than or equal to 1"),
    ("data.max_drift", -0.1, "greater than or equal to 0"),
    ("data.max_drift", float("nan"), "less than or equal to 1"),
    ("data.max_drift", "0.1", "a valid number"),
    ("monitoring.max_drift", 1.1, "less than or equal to 1"),
    ("data.sample", None, "a mapping"),
    ("data.sample.val", 6, "greater than or equal to 7"),
    ("backbones", {}, "not be empty"),
    ("backbones", None, "a mapping"),
    (f"{RESNET}.image_size", 8, "greater than or equal to 32"),
    (f"{HEAD}.epochs", 0, "greater than or equal to 1"),
    (f"{HEAD}.epochs", True, "a valid integer"),
    (f"{HEAD}.epochs", 2.5, "a valid integer"),
    (f"{HEAD}.epochs", 2.0, "a valid integer"),
    (f"{HEAD}.epochs", "3", "a valid integer"),
    (f"{HEAD}.epochs", None, "a valid integer"),
    (f"{HEAD}.batch_size", 1, "greater than or equal to 2"),
    (f"{HEAD}.learning_rate", -1e-3, "greater than 0"),
    (f"{HEAD}.learning_rate", 0, "greater than 0"),
    (f"{HEAD}.learning_rate", 1e38, "less than or equal to 10"),
    (f"{HEAD}.learning_rate", True, "a valid number"),
    (f"{HEAD}.learning_rate", "fast", "a valid number"),
    (f"{HEAD}.learning_rate", "0.1", "a valid number"),
    (f"{HEAD}.learning_rate", float("inf"), "a finite number"),
    (f"{HEAD}.learning_rate", float("nan"), "a finite number"),
    (f"{HEAD}.cached_views", -1, "greater than or equal to 0"),
    (f"{HEAD}.cached_views", 101, "less than or equal to 100"),
    (f"{HEAD}.cached_views", None, "a valid integer"),
    ("training.precision", "fp16", "'auto', 'fp32' or 'bf16'"),
    ("training.optimizer", "rmsprop", "'adam', 'adamw' or 'sgd'"),
    ("training.momentum", 1.0, "less than 1"),
    ("training.weight_decay", -0.1, "greater than or equal to 0"),
    ("training.schedule", "linear", "'constant', 'cosine' or 'onecycle'"),
    ("training.warmup_epochs", -1, "greater than or equal to 0"),
    ("training.clip_norm", 0, "greater than 0"),
    ("training.ema_decay", 0.0, "greater than 0"),
    ("training.ema_decay", 1.0, "less than 1"),
    ("training.dropout", 1.0, "less than 1"),
    ("training.label_smoothing", 1.0, "less than 1"),
    ("training.mixup", -0.1, "greater than or equal to 0"),
    ("training.mixup_off_epochs", -1, "greater than or equal to 0"),
    ("training.patience", 0, "greater than or equal to 1"),
    (f"{AUGMENT}.rotation", 181, "less than or equal to 180"),
    (f"{AUGMENT}.rotation", -1, "greater than or equal to 0"),
    (f"{AUGMENT}.translation", 0.6, "less than or equal to 0.5"),
    (f"{AUGMENT}.brightness", 1.1, "less than or equal to 1"),
    (f"{AUGMENT}.erasing", -0.1, "greater than or equal to 0"),
    (f"{AUGMENT}.crop_scale", [1.0, 0.8], "two numbers, the smaller first"),
    (f"{AUGMENT}.crop_ratio", [1.5, 0.5], "two numbers, the smaller first"),
    (f"{AUGMENT}.crop_ratio", 1.0, "a list of two numbers"),
    (f"{AUGMENT}.flip", 1.1, "less than or equal to 1"),
    (f"{AUGMENT}.flip", float("nan"), "less than or equal to 1"),
    ("predict.batch_size", 0, "greater than or equal to 1"),
    ("predict.tta", "ten", "'centre', 'flip' or 'five_crops_flip'"),
    ("predict.tta", None, "'centre', 'flip' or 'five_crops_flip'"),
    ("fusion.method", "best", "'uniform', 'accuracy', 'nll', 'greedy' or 'grid'"),
    ("fusion.accuracy_exponent", -1, "greater than or equal to 0"),
    ("fusion.greedy_rounds", 0, "greater than or equal to 1"),
    ("fusion.stability_draws", 1, "greater than or equal to 2"),
    ("evaluation.bootstrap_draws", 9, "greater than or equal to 100"),
    ("evaluation.ece_bins", 0, "greater than or equal to 1"),
    ("gate.min_gain", 1.5, "less than or equal to 1"),
    ("gate.max_p", 5, "less than or equal to 1"),
    ("registry.experiment", "", "have at least 1 character"),
    ("registry.model_name", "a/b", "match pattern"),
]

NO_PARAMS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty or no mapping: copy one from recipes/"),
    "only a comment": (b"# to do\n", "is empty or no mapping: copy one from recipes/"),
    "list": (b"- seed\n- data\n", "is empty or no mapping: copy one from recipes/"),
    "broken": (b"seed: [1,\n", "is not valid YAML: .*line 2"),
    "duplicate key": (b"seed: 0\nseed: 1\n", 'is not valid YAML: .*duplicate key "seed"'),
    "not UTF-8": (b"seed: 0  # gr\xfc\xdfe\n", "is not valid YAML: .*0xfc"),
    "foreign tag": (b"seed: !!python/object:os.system 0\n", "is not valid YAML: .*tag"),
}


@pytest.fixture(scope="module")
def committed(root: Path) -> str:
    return (root / "params.yaml").read_text(encoding="utf-8")


def write_edited(committed: str, edits: Mapping[str, object], path: Path) -> Path:
    """The committed params with some dotted keys set, or taken out."""
    content: Any = YAML(typ="safe").load(committed)
    for key, value in edits.items():
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        if value is ABSENT:
            del section[last]
        else:
            section[last] = value
    YAML(typ="safe").dump(content, path)
    return path


def test_a_warmup_as_long_as_the_training_is_refused_with_both_keys(
    committed: str, tmp_path: Path
) -> None:
    edits = {"training.warmup_epochs": 2, "backbones.inception_v3.finetune.epochs": 2}
    path = write_edited(committed, edits, tmp_path / "mine.yaml")
    said = r"mine.yaml: training.warmup_epochs is 2: it must be below backbones.inception_v3"
    with pytest.raises(ParamsError, match=said):
        load_params(path)


def refusal(committed: str, key: str, value: object, path: Path) -> str:
    """What is said of the committed params with one value changed."""
    with pytest.raises(ParamsError) as refused:
        load_params(write_edited(committed, {key: value}, path))
    return str(refused.value)


@pytest.mark.parametrize(("key", "value", "says"), BAD_VALUES)
def test_an_impossible_value_is_refused_with_file_key_and_value(
    key: str, value: object, says: str, committed: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    said = refusal(committed, key, value, path)
    verb = "" if says.startswith(OTHER_VERBS) else "be "
    assert said.startswith(f"{path}: {key} is {value!r}: it must {verb}")
    assert says in said


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("training.augment.crop_scale", [0.5], "training.augment.crop_scale.1 is missing"),
        ("training.augment.crop_ratio", [], "training.augment.crop_ratio.0 is missing"),
        (
            "training.augment.crop_scale",
            [0.8, 1.2],
            "training.augment.crop_scale.1 is 1.2: it must be less than or equal to 1",
        ),
        ("backbones", {2: None}, "backbones.2.[key] is 2: it must be a valid string"),
    ],
)
def test_what_a_list_or_a_key_lacks_is_named(
    key: str, value: object, says: str, committed: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    assert refusal(committed, key, value, path).startswith(f"{path}: {says}")


def test_a_validation_image_smaller_than_the_input_is_refused(
    committed: str, tmp_path: Path
) -> None:
    edits = {f"{RESNET}.image_size": 64, f"{RESNET}.eval_resize": 63}
    path = write_edited(committed, edits, tmp_path / "mine.yaml")
    says = rf"{RESNET}\.eval_resize is 63: it must be at least image_size, which is 64$"
    with pytest.raises(ParamsError, match=says):
        load_params(path)


@pytest.mark.parametrize("key", ["fusion", "data.sample", "data.max_drift", f"{HEAD}.epochs"])
def test_a_missing_key_is_named_with_where_to_find_it(
    key: str, committed: str, tmp_path: Path
) -> None:
    path = write_edited(committed, {key: ABSENT}, tmp_path / "mine.yaml")
    with pytest.raises(ParamsError) as refused:
        load_params(path)
    assert str(refused.value) == f"{path}: {key} is missing: see recipes/ for complete files"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("trainings", "did you mean 'training'?"),
        (f"{HEAD}.epoch", "did you mean 'epochs'?"),
        (f"{HEAD}.cached_view", "did you mean 'cached_views'?"),
        ("gate.zzzzzz", "remove it"),
        ("data.source", "remove it, and run 'fer source pin URI'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    key: str, says: str, committed: str, tmp_path: Path
) -> None:
    path = write_edited(committed, {key: 1}, tmp_path / "mine.yaml")
    with pytest.raises(ParamsError) as refused:
        load_params(path)
    assert str(refused.value) == f"{path}: {key} is not a known key: {says}"


@pytest.mark.parametrize(("content", "says"), NO_PARAMS.values(), ids=NO_PARAMS.keys())
def test_a_file_that_holds_no_mapping_is_refused_by_name(
    content: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=says) as refused:
        load_params(path)
    assert str(refused.value).startswith(f"{path} ")


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"mine\.yaml is missing: run this in the project"):
        load_params(tmp_path / "mine.yaml")


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=str(tmp_path)):
        load_params(tmp_path)


def test_several_faults_are_counted(committed: str, tmp_path: Path) -> None:
    edits = {"seed": -1, "predict.batch_size": 0, "data.protocol": "mine"}
    path = write_edited(committed, edits, tmp_path / "mine.yaml")
    with pytest.raises(ParamsError, match=r"seed is -1: .* \(and 2 more\)$"):
        load_params(path)


@pytest.mark.parametrize(
    ("right", "wrong"), [("seed", "sede"), (f"{HEAD}.epochs", f"{HEAD}.epocs")]
)
def test_a_misspelt_key_is_named_with_the_right_spelling(
    right: str, wrong: str, committed: str, tmp_path: Path
) -> None:
    path = write_edited(committed, {right: ABSENT, wrong: 1}, tmp_path / "mine.yaml")
    with pytest.raises(ParamsError) as refused:
        load_params(path)
    hint = f"{wrong} is not a known key: did you mean '{right.rpartition('.')[2]}'?"
    assert hint in str(refused.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 0.001), ("1E-3", 0.001), ("1.e-3", 0.001), ("2", 2.0), ("5e-324", 5e-324)],
)
def test_a_rate_is_a_number_in_every_spelling_of_yaml_1_2(
    written: str, value: float, committed: str, tmp_path: Path
) -> None:
    path = write_edited(committed, {f"{HEAD}.learning_rate": 0.125}, tmp_path / "mine.yaml")
    path.write_text(path.read_text().replace("0.125", written))
    head = load_params(path).backbones["resnet50"].head
    assert head is not None
    assert head.learning_rate == value


def test_words_that_yaml_1_1_takes_for_bools_stay_text(committed: str, tmp_path: Path) -> None:
    path = write_edited(committed, {"registry.experiment": "placeholder"}, tmp_path / "mine.yaml")
    path.write_text(path.read_text().replace("placeholder", "off"))
    assert load_params(path).registry.experiment == "off"


def test_the_head_phase_may_be_null_and_the_final_phase_may_not(
    committed: str, tmp_path: Path
) -> None:
    path = write_edited(committed, {HEAD: None}, tmp_path / "mine.yaml")
    assert load_params(path).backbones["resnet50"].head is None
    path = write_edited(committed, {"backbones.resnet50.finetune": None}, path)
    with pytest.raises(ParamsError, match=r"backbones\.resnet50\.finetune is None"):
        load_params(path)


def test_the_policies_on_the_data_are_read_as_written(committed: str, tmp_path: Path) -> None:
    edits = {
        "data.labels": "ferplus_majority",
        "data.unlabelled": "ignore",
        "data.protocol": "holdout",
        "data.drop_constant": True,
        "data.drop_train_duplicates_of": "both",
        "data.conflicts": "majority",
        "data.max_drift": 0,
    }
    path = write_edited(committed, edits, tmp_path / "mine.yaml")
    found = load_params(path).data.model_dump(exclude={"sample"})
    assert {f"data.{key}": value for key, value in found.items()} == edits


@pytest.mark.parametrize("section", ["data", "gate", "fusion"])
def test_every_section_is_frozen(section: str, params: Params) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(params, section, None)
    own = getattr(params, section)
    first = next(iter(type(own).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(own, first, None)


def test_an_unknown_backbone_is_refused_with_the_known_ones(
    committed: str, tmp_path: Path, params: Params
) -> None:
    own = params.backbones["resnet50"].model_dump()
    path = write_edited(committed, {"backbones.resnet51": own}, tmp_path / "mine.yaml")
    with pytest.raises(ParamsError) as refused:
        require_known(load_params(path).backbones)
    assert str(refused.value) == (
        f"backbones.resnet51 is not a known backbone: choose among {', '.join(CATALOG)}"
    )


def test_an_input_too_small_for_its_backbone_is_refused(committed: str, tmp_path: Path) -> None:
    key = "backbones.inception_v3.image_size"
    path = write_edited(committed, {key: 74}, tmp_path / "mine.yaml")
    with pytest.raises(ParamsError, match=rf"^{key} is 74: it must be at least 75$"):
        require_known(load_params(path).backbones)
    require_known(load_params(write_edited(committed, {key: 75}, path)).backbones)


@pytest.mark.parametrize("devices", [0, -1, "all", "2", 1.5, True, None, [1], {"gpu": 1}])
def test_devices_that_are_no_number_from_1_are_refused(
    devices: object, committed: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    assert refusal(committed, "training.devices", devices, path) == (
        f"{path}: training.devices is {devices!r}: it must be auto, or a whole number from 1 on"
    )


def test_every_setting_of_training_is_read_as_written(committed: str, tmp_path: Path) -> None:
    edits: dict[str, object] = {
        "training.devices": 2,
        "training.precision": "bf16",
        "training.threads": 2,
        "training.optimizer": "sgd",
        "training.momentum": 0.95,
        "training.weight_decay": 5e-4,
        "training.schedule": "onecycle",
        "training.warmup_epochs": 1,
        "training.clip_norm": 1.0,
        "training.ema_decay": 0.999,
        "training.dropout": 0.2,
        "training.label_smoothing": 0.1,
        "training.mixup": 0.2,
        "training.mixup_off_epochs": 5,
        "training.patience": 10,
        "training.checkpoint_every_s": 30.0,
    }
    path = write_edited(committed, edits, tmp_path / "mine.yaml")
    found = load_params(path).training.model_dump(exclude={"augment"})
    assert {f"training.{key}": value for key, value in found.items()} == edits

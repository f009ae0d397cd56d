"""A configuration survives JSON, says what is wrong with it by name, and every preset is one that can be trusted."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgma_jax import config as config_module
from sgma_jax import kinds
from sgma_jax.commands.preset import load_preset
from sgma_jax.config import (
    ConcatenationFusionConfig,
    CrossEntropyConfig,
    DataConfig,
    FocalLossConfig,
    FusionTokenConfig,
    MeanFusionConfig,
    ModelConfig,
    OptimizerConfig,
    PvtV2Config,
    RankedSelectionFusionConfig,
    SamplingConfig,
    SemanticGuidedFusionConfig,
    TrainConfig,
    differences,
    from_json,
    to_json,
)
from sgma_jax.config_check import check
from sgma_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
PRESETS = sorted(
    p
    for folder in ("", "ablations", "baselines")
    for p in (EXPERIMENTS / folder).glob("*.py")
    if p.name != "__init__.py"
)
KINDS = [k for k in vars(config_module).values() if isinstance(k, type) and dataclasses.is_dataclass(k)]
GOOD = TrainConfig(
    name="good",
    data=DataConfig(path="d", modalities=("rgb", "nir"), bands=(3, 1), classes=("a", "b"), crop=64, batch_size=4),
    steps=100,
    warmup_steps=10,
)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{f.name: values_of(hints[f.name]) for f in dataclasses.fields(hint)})  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values_of(a) for a in args])
    if origin is tuple:
        return st.lists(values_of(args[0]), max_size=3).map(tuple)
    if origin is Literal:
        return st.sampled_from(args)
    plain = {
        str: st.text(max_size=8),
        int: st.integers(),
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
        type(None): st.none(),
    }
    return plain[hint]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_json_gives_back_the_configuration_that_was_written(kind: type, data: st.DataObject) -> None:
    config = data.draw(values_of(kind))
    again = from_json(to_json(config), kind)
    assert again == config
    assert type(again) is kind
    assert differences(again, config) == []


def fields_of(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all fields in the JSON of a configuration."""
    if not isinstance(value, dict):
        return [path]
    return ([path] if path else []) + [
        p for name, v in value.items() if name != "kind" for p in fields_of(v, (*path, name))
    ]


FIELDS = [path for path in fields_of(json.loads(to_json(GOOD))) if path != ("version",)]


def edited(path: tuple[str, ...], edit: Any) -> str:
    """The JSON of GOOD after `edit(parent, name)` at a path."""
    fields = json.loads(to_json(GOOD))
    parent = fields
    for name in path[:-1]:
        parent = parent[name]
    edit(parent, path[-1])
    return json.dumps(fields)


NEEDED = {("name",), ("data",), ("steps",), ("data", "modalities"), ("data", "bands"), ("data", "classes")}
"""Fields without a default."""


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_missing_field_takes_its_default_so_that_runs_outlive_new_fields(path: tuple[str, ...]) -> None:
    text = edited(path, lambda parent, name: parent.pop(name))
    if path in NEEDED:
        with pytest.raises(InputError) as caught:
            from_json(text)
        assert str(caught.value).startswith(f"field '{'.'.join(path)}' is missing.")
        return
    *parents, name = path
    value, holder = from_json(text), GOOD
    for parent in parents:
        value, holder = getattr(value, parent), getattr(holder, parent)
    field = {f.name: f for f in dataclasses.fields(holder)}[name]
    default = field.default_factory() if field.default is dataclasses.MISSING else field.default  # type: ignore[misc]
    assert getattr(value, name) == default


@pytest.mark.parametrize("parent", sorted({p[:-1] for p in FIELDS}), ids=lambda p: ".".join(p) or "config")
def test_an_unknown_field_is_an_input_error_that_names_it(parent: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        from_json(edited((*parent, "learning_rat"), lambda fields, name: fields.update({name: 1})))
    assert str(caught.value).startswith(f"field '{'.'.join((*parent, 'learning_rat'))}' is unknown; a newer version")


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_mistyped_field_is_an_input_error_that_names_it(path: tuple[str, ...]) -> None:
    value = json.loads(to_json(GOOD))
    for name in path:
        value = value[name]
    free = {bool: (bool,), int: (int,), float: (float, int)}.get(
        type(value), (str,) if path[-1] in ("name", "path", "pretrained", "storage") else ()
    )
    # True is no number, 1.5 no integer, a word outside the choices no choice, and a list of lists no list of names.
    wrongs: list[Any] = ["no such word", True, 1.5, 7, [[]], {}, {"kind": "NoSuchConfig"}]
    for wrong in wrongs:
        if type(wrong) in free or (wrong == {} and path not in NEEDED and type(value) is dict):
            continue  # an empty dictionary is a section whose fields all take their defaults
        with pytest.raises(InputError) as caught:
            from_json(edited(path, lambda parent, name, wrong=wrong: parent.update({name: wrong})))
        assert str(caught.value).startswith(f"field '{'.'.join(path)}")


@pytest.mark.parametrize("path", ["data", "model", "model.encoder", "model.fusion", "optimizer", "sampling"])
def test_another_kind_with_the_right_fields_is_an_input_error_that_names_the_field(path: str) -> None:
    with pytest.raises(InputError) as caught:
        from_json(edited((*path.split("."), "kind"), lambda parent, name: parent.update({name: "NoSuchConfig"})))
    assert str(caught.value).startswith(f"field '{path}'")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"config"', "[1, 2]"])
def test_what_is_no_configuration_at_all_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError):
        from_json(text)


def test_differences_are_the_dotted_names_of_what_differs() -> None:
    def changed(**fields: Any) -> TrainConfig:
        return dataclasses.replace(GOOD, **fields)

    assert differences(GOOD, changed(steps=101, seed=3)) == ["steps", "seed"]
    assert differences(GOOD, changed(data=dataclasses.replace(GOOD.data, crop=32, path="e"))) == [
        "data.path",
        "data.crop",
    ]
    assert differences(GOOD, changed(sampling=None)) == ["sampling"]
    assert differences(changed(sampling=None), GOOD) == ["sampling"]
    assert differences(GOOD, changed(sampling=SamplingConfig(lag=2))) == ["sampling.lag"]
    assert differences(GOOD, changed(model=ModelConfig(fusion=MeanFusionConfig()))) == ["model.fusion"]
    assert differences(GOOD, changed(model=ModelConfig(fusion=SemanticGuidedFusionConfig(heads=4)))) == [
        "model.fusion.heads"
    ]
    assert differences(changed(sampling=None), changed(sampling=None)) == []


def replaced(config: Any, path: str, value: Any) -> Any:
    """The configuration with another value at a dotted path."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: replaced(getattr(config, name), rest, value) if rest else value})


def test_a_good_configuration_passes_the_check() -> None:
    check(GOOD)
    check(dataclasses.replace(GOOD, sampling=None))
    check(replaced(replaced(GOOD, "data.bands", (3, 4)), "model.stem", "linear"))
    for path, edge in (
        ("data.modality_dropout", 0.0),
        ("data.modality_dropout", 1.0),
        ("warmup_steps", 0),
        ("warmup_steps", 99),
        ("sampling.lag", 0),
    ):
        check(replaced(GOOD, path, edge))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.modalities", ("rgb", "rgb")),
        ("data.modalities", ()),
        ("data.bands", (3,)),
        ("data.bands", (3, 1, 1)),
        ("data.classes", ()),
        ("data.classes", ("only",)),
        *((f"data.{name}", value) for name in ("crop", "batch_size", "evaluation_batch_size") for value in (0, -1)),
        *(
            (name, value)
            for name in ("steps", "evaluate_every", "log_every", "keep_checkpoints", "fsdp", "space", "accumulate")
            for value in (0, -1)
        ),
        ("model.magnify", 0),
        ("model.head_width", 0),
        ("warmup_steps", -1),
        ("warmup_steps", 100),
        ("seed", -1),
        ("data.workers", -1),
        *(("data.modality_dropout", value) for value in (-0.1, 1.1, float("nan"))),
        *(("model.head_dropout", value) for value in (-0.1, 1.0, 1.5)),
        *(("model.encoder.drop_path_rate", value) for value in (-0.1, 1.0, 1.5)),
        *(("sampling.decay", value) for value in (-0.1, 1.0)),
        *(("sampling.floor", value) for value in (0.0, -1.0)),
        ("sampling.lag", -1),
        ("optimizer.peak_learning_rate", -1e-3),
        ("optimizer.clip_norm", 0.0),
    ],
)
def test_what_cannot_work_is_an_input_error_that_names_the_field(path: str, value: Any) -> None:
    config = replaced(GOOD, path, value)
    # "linear" takes any number of bands, so that the stem's own complaint does not hide a missing one.
    config = replaced(config, "model.stem", "linear")
    with pytest.raises(InputError) as caught:
        check(config)
    section, _, name = path.rpartition(".")
    assert section in str(caught.value)
    assert name in str(caught.value)


def test_a_stem_that_cannot_take_the_bands_names_both() -> None:
    with pytest.raises(InputError, match=r'model\.stem.*4.*stem="linear"'):
        check(replaced(GOOD, "data.bands", (3, 4)))


@pytest.mark.parametrize(
    ("fusion", "field"),
    [
        (SemanticGuidedFusionConfig(kernel_sizes=()), "model.fusion.kernel_sizes"),
        (SemanticGuidedFusionConfig(kernel_sizes=(3, 4)), "model.fusion.kernel_sizes"),
        (FusionTokenConfig(temperature=0.0), "model.fusion.temperature"),
        (ConcatenationFusionConfig(), "sampling=None"),
        (RankedSelectionFusionConfig(), "sampling=None"),
        (FusionTokenConfig(), "sampling=None"),
    ],
    ids=str,
)
def test_a_fusion_that_cannot_work_is_an_input_error_that_names_the_field(fusion: Any, field: str) -> None:
    with pytest.raises(InputError, match=field):
        check(replaced(GOOD, "model.fusion", fusion))


@pytest.mark.parametrize(
    ("loss", "field"),
    [
        (CrossEntropyConfig(class_weights=(1.0, 2.0, 3.0)), "loss.class_weights"),
        (CrossEntropyConfig(class_weights=(0.0,) * len(GOOD.data.classes)), "loss.class_weights"),
        (FocalLossConfig(class_weights=(-1.0, 2.0)), "loss.class_weights"),
        (FocalLossConfig(class_weights=(float("nan"),) * len(GOOD.data.classes)), "loss.class_weights"),
        (FocalLossConfig(focus=0.5), "loss.focus"),
    ],
    ids=str,
)
def test_a_loss_that_cannot_work_is_an_input_error_that_names_the_field(loss: Any, field: str) -> None:
    with pytest.raises(InputError, match=field):
        check(replaced(GOOD, "loss", loss))


def test_every_field_of_every_configuration_has_its_sentence() -> None:
    trees = [ast.parse(Path(module.__file__).read_text()) for module in (config_module, kinds)]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {k.__name__ for k in KINDS} == set(classes) - {"EncoderChoice", "FusionChoice", "LossChoice"}
    bad = [name for name, node in classes.items() if not ast.get_docstring(node)]
    for name, node in classes.items():
        for statement, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
            if isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation):
                text = (
                    after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                )
                # A capital, after the tag if there is one, and a full stop at the end, before the tag if it stands
                # there.
                if not re.fullmatch(r"(\[[PDC]\] )?[A-Z].*\.", str(text), re.DOTALL):
                    bad.append(f"{name}.{ast.unparse(statement.target)}")
    assert not bad


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: str(p.relative_to(EXPERIMENTS)))
def test_every_preset_loads_passes_the_check_and_survives_json(path: Path) -> None:
    config = load_preset(path)
    check(config)
    assert from_json(to_json(config)) == config
    assert config.name == (f"ablation_{path.stem}" if path.parent.name == "ablations" else path.stem)


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: str(p.relative_to(EXPERIMENTS)))
def test_every_preset_opens_with_what_it_reproduces_the_expected_score_and_the_command(path: Path) -> None:
    header = ast.get_docstring(ast.parse(path.read_text())) or ""
    # The demo and the ablations, which train on its city, promise no score of their own.
    scored = path.parent == EXPERIMENTS and path.stem != "demo"
    for word in ["Reproduces", "Command"] + ["Expected"] * scored:
        assert re.search(rf"^{word}: +\S", header, re.MULTILINE), f"{path.name}: its docstring has no line '{word}:'"
    assert f"sgma train {path.relative_to(ROOT)} " in header[header.index("Command:") :]


def test_the_defaults_are_the_papers() -> None:
    """Section IV-B of arXiv 2603.02505."""
    optimizer, sampling = OptimizerConfig(), SamplingConfig()
    assert (optimizer.peak_learning_rate, optimizer.weight_decay, optimizer.epsilon, optimizer.decay_power) == (
        6e-5,
        1e-2,
        1e-8,
        0.9,
    )
    assert (optimizer.fused_loss_weight, sampling.loss_weight) == (2.0, 1.0)
    assert PvtV2Config().variant == "b2"

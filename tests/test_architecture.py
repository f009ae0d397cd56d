"""The house rules of docs/architecture.md, held by reading the sources: who may import whom, sizes, names,
docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON_FOLDERS = ("sgma_jax", "data_prep", "experiments", "tests")

# The floors of the house, lowest first. A module imports only from lower floors or from its own package;
# `sgma_jax.models` stands for all modules below it.
FLOORS = (
    ("sgma_jax.errors",),
    ("sgma_jax.decoding", "sgma_jax.files", "sgma_jax.flags"),
    ("sgma_jax.kinds", "sgma_jax.distributed", "sgma_jax.structs"),
    ("sgma_jax.config", "sgma_jax.modalities", "sgma_jax.availability", "sgma_jax.sharding", "sgma_jax.data.schema"),
    ("sgma_jax.config_check", "sgma_jax.data.grid", "sgma_jax.data.values"),
    ("sgma_jax.data.rasters",),
    ("sgma_jax.data.raster_checks",),
    (
        "sgma_jax.models",
        "sgma_jax.data.corruptions",
        "sgma_jax.data.source",
        "sgma_jax.data.supervision",
        "sgma_jax.data.transforms",
    ),
    ("sgma_jax.data.pipeline",),
    ("sgma_jax.runs",),
    ("sgma_jax.show",),
    ("sgma_jax.evaluation", "sgma_jax.interop"),
    ("sgma_jax.training", "sgma_jax.prediction", "sgma_jax.report"),
    ("sgma_jax.commands",),
    ("sgma_jax.cli",),
)
WITHOUT_JAX = (
    "sgma_jax.errors",
    "sgma_jax.decoding",
    "sgma_jax.files",
    "sgma_jax.flags",
    "sgma_jax.kinds",
    "sgma_jax.config",
    "sgma_jax.config_check",
    "sgma_jax.structs",
    "sgma_jax.data",
    "sgma_jax.runs.metrics_log",
    "sgma_jax.runs.provenance",
    "sgma_jax.runs.record_confusions",
    "sgma_jax.runs.results",
    "sgma_jax.runs.schema_file",
    "sgma_jax.show",
    "sgma_jax.report.page",
    "sgma_jax.training.sampling",
    "sgma_jax.prediction.options",
)
NOT_IN_MODELS = ("sgma_jax.data", "optax", "experiments", "data_prep")
IN_DATA_PREP = (
    "sgma_jax.data.schema",
    "sgma_jax.data.grid",
    "sgma_jax.data.values",
    "sgma_jax.data.rasters",
    "sgma_jax.data.raster_checks",
    "sgma_jax.errors",
    "sgma_jax.files",
    "sgma_jax.flags",
    "sgma_jax.config",
    "sgma_jax.show.tables",
)
TORCH_ALLOWED = ("sgma_jax/interop", "tests/parity", "experiments/torch_baseline")
LINES = 350
FUNCTION_LINES = 80


@dataclass(frozen=True)
class Import:
    """One imported name and where it stands."""

    module: str
    path: Path
    line: int
    inside_function: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _path(module: str) -> Path:
    folder = ROOT.joinpath(*module.split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def _run_python(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@cache
def _files(*folders: str) -> tuple[Path, ...]:
    return tuple(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def _imports(path: Path) -> tuple[Import, ...]:
    return tuple(_walk(_tree(path), path, inside_function=False))


def _walk(node: ast.AST, path: Path, inside_function: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, path, child.lineno, inside_function)
        elif isinstance(child, ast.ImportFrom):
            package = _module(path).split(".")[: -child.level or None] if child.level else []
            source = ".".join([*package, *([child.module] if child.module else [])])
            for alias in child.names:
                # `from sgma_jax import config` names a module, `from sgma_jax.config import check` something in one.
                inner = ROOT / Path(*source.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield Import(f"{source}.{alias.name}" if is_module else source, path, child.lineno, inside_function)
        yield from _walk(child, path, inside_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def _floor(module: str) -> tuple[int, str] | None:
    """Number of the floor and the name there under which it stands."""
    return next(
        ((number, name) for number, names in enumerate(FLOORS) for name in names if _is_in(module, (name,))), None
    )


def test_every_module_has_its_floor() -> None:
    packages = ("sgma_jax", "sgma_jax.data")
    homeless = [_module(p) for p in _files("sgma_jax") if _module(p) not in packages and _floor(_module(p)) is None]
    assert not homeless, f"not in the table of {Path(__file__).name} and of docs/architecture.md: {homeless}"


def test_imports_point_downwards() -> None:
    wrong = []
    for path in _files("sgma_jax"):
        own = _floor(_module(path))
        for found in _imports(path):
            other = _floor(found.module)
            if own and other and own[1] != other[1] and other[0] >= own[0]:
                wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_input_sampling_and_display_never_name_jax() -> None:
    files = [p for p in _files("sgma_jax") if _is_in(_module(p), WITHOUT_JAX)]
    wrong = [
        str(i) for p in files for i in _imports(p) if _is_in(i.module, ("jax", "jaxlib", "flax", "optax", "orbax"))
    ]
    assert not wrong, "\n".join(wrong)


def test_input_sampling_and_display_never_load_jax() -> None:
    # Grain itself loads jax.tree_util where jax is installed, so what imports Grain is tested below.
    modules = [_module(p) for p in _files("sgma_jax") if _is_in(_module(p), WITHOUT_JAX)]
    modules = [m for m in modules if not any(_is_in(i.module, ("grain",)) for i in _imports(_path(m)))]
    assert {"sgma_jax.data.schema", "sgma_jax.data.source", "sgma_jax.training.sampling"} <= set(modules)
    _run_python(
        f"import sys, importlib\nfor m in {modules}: importlib.import_module(m); assert 'jax' not in sys.modules, m"
    )


def test_importing_the_pipeline_touches_no_accelerator() -> None:
    _run_python(
        "import sgma_jax.data.pipeline; from jax._src import xla_bridge; assert not "
        "xla_bridge.backends_are_initialized()"
    )


def test_models_know_neither_data_nor_optimiser() -> None:
    wrong = [str(i) for p in _files("sgma_jax/models") for i in _imports(p) if _is_in(i.module, NOT_IN_MODELS)]
    assert not wrong, "\n".join(wrong)


def test_the_library_imports_neither_experiments_nor_converters() -> None:
    wrong = [
        str(i)
        for p in _files("sgma_jax")
        for i in _imports(p)
        if _is_in(i.module, ("experiments", "data_prep", "tests"))
    ]
    assert not wrong, "\n".join(wrong)


def test_converters_know_of_the_library_only_what_needs_no_jax() -> None:
    imports = [i for p in _files("data_prep") for i in _imports(p)]
    wrong = [str(i) for i in imports if _is_in(i.module, ("sgma_jax",)) and not _is_in(i.module, IN_DATA_PREP)]
    wrong += [str(i) for i in imports if _is_in(i.module, ("jax", "flax", "optax", "experiments"))]
    assert not wrong, "\n".join(wrong)


def test_presets_know_of_the_library_only_its_config() -> None:
    files = sorted((ROOT / "experiments").glob("*.py"))
    wrong = [
        str(i)
        for p in files
        for i in _imports(p)
        if _is_in(i.module, ("sgma_jax",)) and not _is_in(i.module, ("sgma_jax.config",))
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_only_where_it_is_compared_or_converted() -> None:
    wrong = []
    for path in _files(*PYTHON_FOLDERS):
        where = path.relative_to(ROOT).as_posix()
        for found in _imports(path):
            if _is_in(found.module, ("torch", "torchvision", "timm")):
                allowed = where.startswith(TORCH_ALLOWED) and (
                    found.inside_function or not where.startswith("sgma_jax")
                )
                wrong += [] if allowed else [str(found)]
    assert not wrong, "\n".join(wrong)


def test_tensorflow_nowhere() -> None:
    wrong = [
        str(i)
        for p in _files(*PYTHON_FOLDERS)
        for i in _imports(p)
        if _is_in(i.module, ("tensorflow", "tf_keras", "keras"))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_too_long_or_named_after_nothing() -> None:
    for path in _files(*PYTHON_FOLDERS):
        length = len(path.read_text(encoding="utf-8").splitlines())
        assert length <= LINES, f"{path.relative_to(ROOT)} has {length} lines; split it by subject ({LINES} at most)"
        assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc"), (
            f"{path.relative_to(ROOT)}: name it after what it holds"
        )


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in _files("sgma_jax", "data_prep", "experiments")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    ]
    assert not long


def test_no_function_takes_more_than_six_parameters() -> None:
    many = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in _files("sgma_jax", "data_prep", "experiments")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef)
        and len([a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg != "self"]) > 6
    ]
    assert not many


def test_a_docstring_stands_alone_and_begins_with_a_verb_or_the_thing_returned() -> None:
    odd = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
        for path in _files("sgma_jax", "data_prep")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
        and (ast.get_docstring(node) or "").split(" ")[0] in ("What", "It", "As", "Of", "Whether")
    ]
    assert not odd


def test_no_two_classes_of_the_library_have_one_name() -> None:
    """But for what encoders have alike: a table of variants, and blocks."""
    homes: dict[str, list[str]] = {}
    for path in _files("sgma_jax"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef) and "encoders" not in path.parts:
                homes.setdefault(node.name, []).append(_module(path))
    assert not {name: modules for name, modules in homes.items() if len(modules) > 1}


def test_everything_public_in_the_library_says_what_it_is() -> None:
    silent = []
    for path in _files("sgma_jax"):
        tree = _tree(path)
        where = path.relative_to(ROOT)
        silent += [] if ast.get_docstring(tree) else [f"{where}: the module"]
        for node in tree.body:
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                silent.append(f"{where}:{node.lineno} {node.name}")
    assert not silent, "no docstring:\n" + "\n".join(silent)


# Put together from pieces, so that this file does not find itself.
PRIVATE = {
    "a machine's path": r"(?<![\w.$}])/(?:" + "|".join(["work", "root", "home", "Users", "opt"]) + r")/\w",
    "an index's address": "|".join(
        [r"py" + r"pi\.org", r"pythonhosted" + r"\.org", r"--(?:extra-)?index" + "-url", r"--find" + "-links"]
    ),
}


@pytest.mark.parametrize("what", PRIVATE)
def test_no_file_names_a_machine_or_an_index(what: str) -> None:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout, so there is no list of the project's files")
    found = []
    for name in listing.stdout.splitlines():
        path = ROOT / name
        if not path.is_file():
            continue  # deleted but not yet committed
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if re.search(PRIVATE[what], line)]
    assert not found, f"{what}:\n" + "\n".join(found)

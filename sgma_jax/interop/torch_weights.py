"""Our variables as a PyTorch state dict and back, by the tables of torch_names: every array on both sides is
accounted for, or none is taken.

A state dict here is a dict of numpy arrays under PyTorch's names and in its layouts, so nothing but reading a pickle
needs PyTorch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sgma_jax.config import EncoderConfig, ModelConfig
from sgma_jax.errors import InputError
from sgma_jax.interop.torch_names import Entry, encoder_layout, encoder_table, entries, table_around_encoder
from sgma_jax.models.parts import build_encoder
from sgma_jax.models.torch_table import Kind

LISTED = 12
"""Names of one kind of miss that an error lists; more are counted."""
CLASSIFIER = re.compile(r"(head|fc|classifier)\.(\d+\.)?(weight|bias)")
"""Heads of the networks that were pretrained: known, and left out."""


BLOCKS = re.compile(r"(.*stage\d+)_blocks(/.*)")
"""Ours keeps the equal blocks of a stage as one array along a leading axis; PyTorch, and so the tables, have block
after block."""


class ImportedEncoder(NamedTuple):
    """An encoder's arrays, out of a file of PyTorch weights."""

    arrays: dict[str, np.ndarray]
    """Float32, by path: "params/stage0_patch/proj/kernel", "batch_stats/norm1/mean"."""
    layout: str
    """Whose names the file has."""
    left_out: list[str]
    """Names of the file that an encoder has no use for: the classifier's, and counts of batches."""


@functools.cache
def encoder_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and running statistic of an encoder, by path."""
    encoder: Any = build_encoder(config, jnp.dtype("float32"))
    image, mask = jnp.zeros((1, 32, 32, 3)), jnp.ones((1, 32, 32), bool)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), image, mask, False))
    return {path: leaf.shape for path, leaf in flatten_dict(dict(shapes), sep="/").items()}


def import_encoder(state_dict: Mapping[str, np.ndarray], config: EncoderConfig) -> ImportedEncoder:
    """An encoder's arrays out of a state dict in any known layout, which its names tell.

    Raises InputError that names all misses together: what is missing, what nobody knows, and what has the wrong shape.
    """
    name, table, stacked = config.name, encoder_table(config), encoder_shapes(config)
    shapes = block_by_block(stacked, lambda shape, _: shape[1:])

    def expected(layout: str, prefix: str) -> list[Entry]:
        return [e._replace(name=prefix + e.name) for e in entries(shapes, table, layout)]

    layouts = {(layout, prefix): expected(layout, prefix) for layout in table.layouts for prefix in table.prefixes}
    found = {key: sum(e.name in state_dict for e in wanted) for key, wanted in layouts.items()}
    layout, prefix = best = max(found, key=lambda key: found[key])
    if not found[best]:
        raise InputError(
            f"none of its names is one of {name}'s in the layouts {', '.join(table.layouts)}; it begins with "
            f"{', '.join(list(state_dict)[:3]) or 'nothing'}. Give weights of {name}, or the --encoder that the file "
            f"is of."
        )
    wanted = layouts[best]
    counts = {
        e.name.removesuffix("running_mean") + "num_batches_tracked" for e in wanted if e.name.endswith("running_mean")
    }
    left_out = [k for k in state_dict if k in counts or CLASSIFIER.fullmatch(k.removeprefix(prefix))]
    try:
        arrays = _gather({k: v for k, v in state_dict.items() if k not in left_out}, wanted, shapes)
    except InputError as error:
        raise InputError(
            f"it is no {name} in the layout of {layout}: {error}. Give weights of {name}, or the --encoder that it is "
            f"of."
        ) from error
    return ImportedEncoder(_stacked(arrays, stacked), layout, left_out)


def state_dict_of(
    variables: Mapping[str, Any], config: ModelConfig, layout: str | None = None
) -> dict[str, np.ndarray]:
    """The whole model's variables, {"params": ..., "batch_stats": ...}, as a state dict of float32 arrays.

    `layout` is the encoder's: "authors", "timm" or "transformers" for PVT-v2, "torchvision", "timm" or
    "transformers" for ResNet; None takes the first. The encoder's names follow "encoder."; the others are those of
    experiments/torch_baseline. Raises InputError for a layout that the encoder does not have.
    """
    whole = {path: np.asarray(leaf, np.float32) for path, leaf in flatten_dict(dict(variables), sep="/").items()}
    flat = block_by_block(whole, lambda array, block: array[block])
    parts: dict[str, dict[int, np.ndarray]] = {}
    for entry in _model_entries(flat, config, encoder_layout(config.encoder, layout)):
        parts.setdefault(entry.name, {})[entry.part] = _to_torch(flat[entry.path], entry.kind)
    return {name: np.ascontiguousarray(np.concatenate([p[i] for i in sorted(p)])) for name, p in parts.items()}


def variables_of(
    state_dict: Mapping[str, np.ndarray], config: ModelConfig, shapes: Mapping[str, Any]
) -> dict[str, Any]:
    """The inverse of `state_dict_of`: variables as numpy arrays, from a state dict in any layout of the encoder's.

    `shapes` is the tree of the variables, of arrays or of jax.ShapeDtypeStruct. Raises InputError that names all
    misses together.
    """
    stacked = {path: tuple(leaf.shape) for path, leaf in flatten_dict(dict(shapes), sep="/").items()}
    flat = block_by_block(stacked, lambda shape, _: shape[1:])
    wanted = max(
        (_model_entries(flat, config, layout) for layout in encoder_table(config.encoder).layouts),
        key=lambda es: sum(e.name in state_dict for e in es),
    )
    counts = [k for k in state_dict if k.endswith(".num_batches_tracked")]
    arrays = _gather({k: v for k, v in state_dict.items() if k not in counts}, wanted, flat)
    return unflatten_dict(_stacked(arrays, stacked), sep="/")


def block_by_block(flat: Mapping[str, Any], one: Callable[[Any, int], Any]) -> dict[str, Any]:
    """Arrays or shapes by path, with `one(value, block)` for each block of what is stacked."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        if match := BLOCKS.fullmatch(path):
            depth = (value if isinstance(value, tuple) else value.shape)[0]
            found.update({f"{match[1]}_block{block}{match[2]}": one(value, block) for block in range(depth)})
        else:
            found[path] = value
    return found


def _stacked(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The inverse: arrays of these shapes, by the paths of `shapes`."""
    found = {}
    for path, shape in shapes.items():
        match = BLOCKS.fullmatch(path)
        found[path] = (
            np.stack([arrays[f"{match[1]}_block{b}{match[2]}"] for b in range(shape[0])]) if match else arrays[path]
        )
    return found


def _model_entries(paths: Mapping[str, Any], config: ModelConfig, layout: str) -> list[Entry]:
    """Return the entries of the whole model: the encoder's in its layout, and those of what is around it."""
    split = [(path, *path.split("/", 2)) for path in paths]
    inside = {f"{collection}/{rest}": path for path, collection, root, rest in split if root == "encoder"}
    table, around = encoder_table(config.encoder), table_around_encoder(config)
    encoder = [e._replace(path=inside[e.path], name="encoder." + e.name) for e in entries(inside, table, layout)]
    others = [path for path, _, root, *_ in split if root != "encoder"]
    return encoder + entries(others, around, around.layouts[0])


def _gather(
    state_dict: Mapping[str, np.ndarray], wanted: list[Entry], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Our arrays by path; InputError without a full stop where any side has something that the other has not."""
    missing = dict.fromkeys(e.name for e in wanted if e.name not in state_dict)
    known = {e.name for e in wanted}
    unexpected = [k for k in state_dict if k not in known]
    wrong: dict[str, None] = {}
    arrays = {}
    for entry in wanted:
        if entry.name in missing:
            continue
        array = state_dict[entry.name]
        rows, *rest = _torch_shape(shapes[entry.path], entry.kind)
        if array.shape != (rows * entry.parts, *rest):
            wrong[f"{entry.name} {array.shape} for {(rows * entry.parts, *rest)}"] = None
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            wrong[f"{entry.name} of {array.dtype}"] = None
        elif not np.isfinite(array.astype(np.float32)).all():
            wrong[f"{entry.name} not finite"] = None
        else:
            arrays[entry.path] = _from_torch(
                array[entry.part * rows : (entry.part + 1) * rows].astype(np.float32), entry.kind
            )
    misses = {"missing": missing, "unexpected": unexpected, "unusable": wrong}
    if any(misses.values()):
        raise InputError(
            "; ".join(f"{len(names)} {what} ({_listed(list(names))})" for what, names in misses.items() if names)
        )
    return arrays


def _listed(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _to_torch(array: np.ndarray, kind: Kind | None) -> np.ndarray:
    """Our array as PyTorch has it."""
    match kind:
        case "conv":
            return array.transpose(3, 2, 0, 1)
        case "linear" | "in_proj":
            return array.T
        case "point":
            return array.T[:, :, None, None]
        case _:
            return array


def _from_torch(array: np.ndarray, kind: Kind | None) -> np.ndarray:
    """The inverse of `_to_torch`."""
    match kind:
        case "conv":
            return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
        case "linear" | "in_proj":
            return np.ascontiguousarray(array.T)
        case "point":
            return np.ascontiguousarray(array[:, :, 0, 0].T)
        case _:
            return array


def _torch_shape(shape: tuple[int, ...], kind: Kind | None) -> tuple[int, ...]:
    return _to_torch(np.broadcast_to(np.float32(0), shape), kind).shape

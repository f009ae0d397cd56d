"""Our parameters under the names and in the layouts of the PyTorch model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np


def state_dict_of(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch model's state dict, as numpy arrays, of {"params": ..., "batch_stats": ...}."""
    flat = {"/".join(k): np.asarray(v, np.float32) for tree in variables.values() for k, v in _flatten(tree)}
    out: dict[str, np.ndarray] = {}
    for name in sorted(flat):
        if re.search(r"/(key|value)/", name):
            continue
        out.update(_convert(name, flat))
    return {k: np.ascontiguousarray(v) for k, v in out.items()}


def _flatten(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        return [(path, tree)]
    return [leaf for key, value in tree.items() for leaf in _flatten(value, (*path, key))]


def _convert(name: str, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    x = flat[name]
    leaf = name.rsplit("/", 1)[1]
    last = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}.get(leaf, leaf)
    if m := re.fullmatch(r"fusion_(\d)/projector_(.+)/(\w+)/kernel", name):
        return {f"fusion.{m[1]}.projectors.{m[2]}.{m[3]}.weight": x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T[:, :, None, None]}
    if m := re.fullmatch(r"fusion_(\d)/semantic_filter/kernel", name):
        return {f"fusion.{m[1]}.semantic_filter.weight": x.T[:, :, None, None]}
    if m := re.fullmatch(r"fusion_(\d)/(spatial|robustness)/(query|out)/kernel", name):
        if m[3] == "out":
            return {f"fusion.{m[1]}.{m[2]}.out_proj.weight": x.T}
        parts = [flat[name.replace("query", part)].T for part in ("query", "key", "value")]
        return {f"fusion.{m[1]}.{m[2]}.in_proj_weight": np.concatenate(parts)}
    if m := re.fullmatch(r"head/linear_(\d)(/kernel|_bias)", name):
        return {f"head.linear.{m[1]}.{'weight' if m[2] == '/kernel' else 'bias'}": x.T}
    if m := re.fullmatch(r"head/(fuse|classifier|norm)/(\w+)", name):
        return {f"head.{m[1]}.{last}": x.T[:, :, None, None] if leaf == "kernel" else x}
    if m := re.fullmatch(r"stem_(.+)/kernel", name):
        return {f"stem.{m[1]}.weight": x.T[:, :, None, None]}
    m = re.fullmatch(r"encoder/stage(\d)_(?:(patch|norm)|block(\d+))/(.*)", name)
    if m is None:
        raise ValueError(f"{name}: no such parameter in the PyTorch model.")
    stage, rest = int(m[1]) + 1, m[4]
    value = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
    if m[2] == "patch":
        return {f"encoder.patch_embed{stage}.{rest.split('/')[0]}.{last}": value}
    if m[2] == "norm":
        return {f"encoder.norm{stage}.{last}": value}
    block = f"encoder.block{stage}.{m[3]}"
    if rest.startswith("attention/query"):
        names = [name.replace("query", part) for part in ("key", "value")]
        return {f"{block}.attn.q.{last}": value, f"{block}.attn.kv.{last}": np.concatenate([flat[n].T for n in names])}
    inner = rest.rsplit("/", 1)[0] if rest != "mlp/dwconv_bias" else "mlp/dwconv_bias"
    theirs = {"norm1": "norm1", "norm2": "norm2", "attention/reduce": "attn.sr", "attention/reduce_norm": "attn.norm",
              "attention/out": "attn.proj", "mlp/expand": "mlp.fc1", "mlp/contract": "mlp.fc2",
              "mlp/dwconv": "mlp.dwconv.dwconv", "mlp/dwconv_bias": "mlp.dwconv.dwconv"}  # fmt: skip
    return {f"{block}.{theirs[inner]}.{'bias' if inner.endswith('_bias') else last}": value}

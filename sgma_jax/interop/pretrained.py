"""An encoder's first weights: imported once from a PyTorch file into a file of ours, and put into a fresh state of
training.

Our file is safetensors: arrays by our own path ("params/stage0_patch/proj/kernel"), channels last, and metadata that
say which encoder it is and what it came from.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sgma_jax.config import EncoderConfig, ModelConfig, TrainConfig
from sgma_jax.errors import InputError
from sgma_jax.files import write_atomically
from sgma_jax.interop.torch_weights import ImportedEncoder, encoder_shapes, import_encoder
from sgma_jax.interop.weight_files import read_safetensors, read_state_dict, write_safetensors
from sgma_jax.kinds import ENCODERS
from sgma_jax.models.parts import build_encoder
from sgma_jax.runs.names import PRETRAINED_FILE
from sgma_jax.structs import TrainState

FORMAT, VERSION = "sgma_jax encoder", "1"


class Pretrained(NamedTuple):
    """An imported encoder, and where it came from."""

    arrays: dict[str, np.ndarray]
    """Float32, by path in the encoder."""
    provenance: dict[str, str]
    """encoder, layout, source (the PyTorch file's name), source_sha256; file and sha256 of our own."""


def where_to_get(config: EncoderConfig) -> tuple[str, str] | None:
    """Return where an encoder's original weights are published, and the file's name there; None for nowhere."""
    return build_encoder(config, jnp.dtype("float32")).published


def import_weights(source: Path, encoder: str, out: Path) -> ImportedEncoder:
    """Convert a PyTorch file of an encoder's weights into ours, and return what was converted.

    Raises InputError for a file that does not account for the whole encoder, naming all misses; `out` is then as it
    was.
    """
    if encoder not in ENCODERS:
        raise InputError(f"there is no encoder {encoder!r}; there is {', '.join(ENCODERS)}.")
    if out.resolve() == source.resolve():
        raise InputError(f"{out}: the weights would overwrite the file that they come from; give another --out.")
    state_dict, beside = read_state_dict(source)
    try:
        imported = import_encoder(state_dict, ENCODERS[encoder])
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    provenance = {
        "encoder": encoder,
        "layout": imported.layout,
        "source": source.name,
        "source_sha256": _sha256(source),
    }
    write_safetensors(out, imported.arrays, {"format": FORMAT, "version": VERSION, **provenance})
    return imported._replace(left_out=imported.left_out + beside)


def read_pretrained(config: ModelConfig) -> Pretrained:
    """The weights that `config.pretrained` names, checked against the encoder.

    Raises InputError for a missing file, saying where its weights are published and how to import them, and for one
    that is damaged or of another encoder.
    """
    path, encoder = Path(config.pretrained), config.encoder.name
    if not path.is_file():
        published = where_to_get(config.encoder)
        way_out = "Begin from random weights with --model.pretrained ''."
        if published:
            place, name = published
            command = f"sgma weights import {name} --encoder {encoder} --out {path}"
            way_out = (
                f"Get {name} from {place} and run `{command}`; or begin from random weights with --model.pretrained ''."
            )
        raise InputError(f"{path} (model.pretrained) is not there: it holds the first weights of {encoder}. {way_out}")
    arrays, metadata = read_safetensors(path)
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
        raise InputError(
            f"{path} (model.pretrained) is not of `sgma weights import`; import it: sgma weights import {path} "
            f"--encoder {encoder} --out OUT"
        )
    if metadata["encoder"] != encoder:
        raise InputError(
            f"{path} (model.pretrained) holds {metadata['encoder']}, and the model's encoder is {encoder}; name a file "
            f"of {encoder}."
        )
    if {k: a.shape for k, a in arrays.items()} != encoder_shapes(config.encoder):
        raise InputError(f"{path} (model.pretrained) does not hold the whole of {encoder}; import it again.")
    provenance = {k: metadata[k] for k in ("encoder", "layout", "source", "source_sha256")}
    return Pretrained(arrays, {"file": str(path), "sha256": _sha256(path), **provenance})


def start_from(state: TrainState, pretrained: Pretrained, config: TrainConfig) -> TrainState:
    """A fresh state with the encoder's weights in place, on the devices where the random ones were.

    [C] Linear stems begin as what pretrained filters expect: the identity for a sensor of three bands, and for any
    other the mean of its bands in each of the three channels (which for one band is stem="replicate").
    """
    flat = {
        f"{collection}/encoder/{path}": a
        for key, a in pretrained.arrays.items()
        for collection, path in [key.split("/", 1)]
    }
    if config.model.stem == "linear":
        for modality, bands in zip(config.data.modalities, config.data.bands, strict=True):
            flat[f"params/stem_{modality}/kernel"] = (
                np.eye(3, dtype=np.float32) if bands == 3 else np.full((bands, 3), 1 / bands, np.float32)
            )

    def placed(collection: str, tree: Any) -> Any:
        leaves = flatten_dict(dict(tree), sep="/")
        return unflatten_dict({k: _placed(flat.get(f"{collection}/{k}"), leaf) for k, leaf in leaves.items()}, sep="/")

    return state._replace(params=placed("params", state.params), batch_stats=placed("batch_stats", state.batch_stats))


def write_provenance(folder: Path, pretrained: Pretrained) -> None:
    """Leave in a run's folder what its encoder began with."""
    write_atomically(folder / PRETRAINED_FILE, (json.dumps(pretrained.provenance, indent=2) + "\n").encode())


def _placed(array: np.ndarray | None, leaf: jax.Array) -> jax.Array:
    return (
        leaf if array is None else jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

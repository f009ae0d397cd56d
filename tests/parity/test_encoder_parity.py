"""Every variant of both encoders against transformers' models with random weights: block by block, whole, and in
training.

float32, evaluated op by op: compiling the big variants whole would take minutes each. The tolerances are constants
of the whole file.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from sgma_jax.availability import coarsen
from sgma_jax.config import ModelConfig
from sgma_jax.interop.torch_weights import import_encoder, state_dict_of
from sgma_jax.kinds import ENCODERS
from sgma_jax.models.encoders import pvt_v2, resnet
from sgma_jax.models.parts import build_encoder

torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs it: make test-parity")
transformers = pytest.importorskip("transformers", reason="the comparison with PyTorch needs it: make test-parity")

pytestmark = pytest.mark.parity

BLOCK, WHOLE = {"rtol": 1e-5, "atol": 1e-5}, {"rtol": 1e-4, "atol": 1e-4}
ODD = (65, 97)  # no multiple of 32, nor of 2
FLOAT = jnp.dtype("float32")
PVT = [name for name in ENCODERS if name.startswith("pvt")]
RESNET = [name for name in ENCODERS if name.startswith("resnet")]


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).normal(size=(batch, *ODD, 3)).astype(np.float32)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


@functools.lru_cache(maxsize=1)  # the biggest holds 82 million numbers on each side
def theirs(name: str):
    """transformers' model with every number random, biases and running statistics too."""
    config = ENCODERS[name]
    if name in PVT:
        variant = pvt_v2.VARIANTS[config.variant]
        model = transformers.PvtV2Model(transformers.PvtV2Config(
            hidden_sizes=list(variant.channels), depths=list(variant.depths), mlp_ratios=list(variant.mlp_ratios),
            num_attention_heads=list(pvt_v2.HEADS), sr_ratios=list(pvt_v2.REDUCTIONS)))  # fmt: skip
        for layer in model.encoder.layers:
            # transformers has its layer_norm_eps, 1e-6, in all norms. The authors, whose weights these are, pass 1e-6
            # to the norms of blocks and stages alone: those of patches and of reduced keys keep PyTorch's 1e-5, as ours
            # do.
            inner = [
                layer.patch_embedding.layer_norm,
                *(b.attention.layer_norm for b in layer.blocks if b.attention.spatial_reduction_ratio > 1),
            ]
            assert all(norm.eps == 1e-6 for norm in inner)
            for norm in inner:
                norm.eps = 1e-5
    else:
        variant = resnet.VARIANTS[config.variant]
        model = transformers.ResNetModel(transformers.ResNetConfig(
            depths=list(variant.depths), layer_type="bottleneck" if variant.bottleneck else "basic",
            hidden_sizes=[w * (resnet.EXPANSION if variant.bottleneck else 1) for w in resnet.WIDTHS]))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.ndim == 1 and key.endswith("weight"):
                # Residual branches of half the width keep the numbers of 50 blocks in a row near 1, where the
                # tolerances mean something.
                value.normal_(0.5, 0.1, generator=generator)
            elif value.ndim == 1:
                value.normal_(0.0, 0.1, generator=generator)
    return model


def ours(name: str, model):
    """Our variables, through the same conversion that users get."""
    state_dict = {k: v.detach().numpy().copy() for k, v in model.state_dict().items()}
    imported = import_encoder(state_dict, ENCODERS[name])
    assert imported.layout == "transformers"
    return unflatten_dict(imported.arrays, sep="/")


def encode(name: str, variables, x, available=None, train: bool = False):
    available = np.ones(x.shape[:3], bool) if available is None else available
    with jax.disable_jit():  # or the loops over blocks would be compiled
        return build_encoder(ENCODERS[name], FLOAT).apply(
            jax.tree.map(jnp.asarray, variables),
            jnp.asarray(x),
            jnp.asarray(available),
            train,
            mutable=["batch_stats"] if train else False,
        )


@pytest.mark.parametrize("name", PVT)
def test_every_patch_embedding_and_block_of_pvt_v2_is_theirs(name: str) -> None:
    model, variant, seen = theirs(name).eval(), pvt_v2.VARIANTS[ENCODERS[name].variant], []
    params = ours(name, model)["params"]
    hooks = []
    for s, layer in enumerate(model.encoder.layers):
        hooks.append(
            layer.patch_embedding.register_forward_hook(lambda m, i, o, s=s: seen.append((f"stage{s}_patch", i, o)))
        )
        for b, block in enumerate(layer.blocks):
            hooks.append(
                block.register_forward_hook(lambda m, i, o, s=s, b=b: seen.append((f"stage{s}_block{b}", i, o)))
            )
    with torch.no_grad():
        model(nchw(images(1)))
    for hook in hooks:
        hook.remove()
    assert len(seen) == sum(variant.depths) + 4
    for path, given, out in seen:
        s = int(path[5])
        if path.endswith("patch"):
            module = pvt_v2.PatchEmbed(variant.channels[s], 7 if s == 0 else 3, pvt_v2.STRIDES[s], FLOAT)
            mine = module.apply({"params": jax.tree.map(jnp.asarray, params[path])}, jnp.asarray(nhwc(given[0])))
            assert mine.shape[1:3] == tuple(out[1:])
        else:
            module = pvt_v2.Block(pvt_v2.HEADS[s], pvt_v2.REDUCTIONS[s], variant.mlp_ratios[s], FLOAT)
            number = int(path.removeprefix(f"stage{s}_block"))
            own = jax.tree.map(lambda x, n=number: jnp.asarray(x[n]), params[f"stage{s}_blocks"])
            x = jnp.asarray(given[0].numpy().reshape(1, given[1], given[2], -1))
            mine, _ = module.apply({"params": own}, x, None)
        np.testing.assert_allclose(mine.reshape(out[0].shape), out[0].numpy(), **BLOCK, err_msg=path)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", RESNET)
def test_every_block_of_resnet_is_theirs_in_evaluation_and_in_training(name: str, train: bool) -> None:
    """In training its running statistics too."""
    model, variant, seen = theirs(name).train(train), resnet.VARIANTS[ENCODERS[name].variant], []
    variables, before = ours(name, model), {k: v.clone() for k, v in model.state_dict().items()}
    hooks = [
        block.register_forward_hook(lambda m, i, o, s=s, b=b: seen.append((s, b, i[0], o)))
        for s, stage in enumerate(model.encoder.stages)
        for b, block in enumerate(stage.layers)
    ]
    with torch.no_grad():
        model(nchw(images(3 if train else 1)))
    for hook in hooks:
        hook.remove()
    after = ours(name, model)["batch_stats"]
    model.load_state_dict(before)
    assert len(seen) == sum(variant.depths)
    for s, b, given, out in seen:
        path, stride = f"stage{s}_block{b}", 2 if s and b == 0 else 1
        x = jnp.asarray(nhwc(given))
        mask = jnp.ones((x.shape[0], 1, *x.shape[1:3]), bool)
        block = resnet.Block(resnet.WIDTHS[s], variant.bottleneck, stride, FLOAT)
        held = {collection: jax.tree.map(jnp.asarray, tree[path]) for collection, tree in variables.items()}
        mine, updates = block.apply(held, x, mask[:, 0], coarsen(mask, stride)[:, 0], train, mutable=["batch_stats"])
        np.testing.assert_allclose(mine, nhwc(out), **BLOCK, err_msg=path)
        expected = flatten_dict(after[path])
        for key, value in flatten_dict(updates["batch_stats"]).items():
            np.testing.assert_allclose(value, expected[key], **BLOCK, err_msg="/".join((path, *key)))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", PVT + RESNET)
def test_the_four_maps_of_every_encoder_are_theirs_at_odd_sizes(name: str, batch: int) -> None:
    model = theirs(name).eval()
    x = images(batch)
    with torch.no_grad():
        expected = model(nchw(x), output_hidden_states=True).hidden_states[-4:]
    got = encode(name, ours(name, model), x)
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, nhwc(other), **WHOLE)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_resnet_in_training_gives_their_maps_and_their_running_statistics(name: str) -> None:
    """The bigger ones block by block, above: 50 normalisations in a row, the last over 36 positions, amplify
    float32's rounding so far that PyTorch's own maps of ResNet-50 and 101 lie 2e-4 and 1e-3 from what it gives in
    float64."""
    model, variables = theirs(name), ours(name, theirs(name))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = images(3)
    with torch.no_grad():
        expected = model.train()(nchw(x), output_hidden_states=True).hidden_states[-4:]
    got, updates = encode(name, variables, x, train=True)
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, nhwc(other), **WHOLE)
    after = flatten_dict(ours(name, model)["batch_stats"])
    for path, mine in flatten_dict(updates["batch_stats"]).items():
        np.testing.assert_allclose(mine, after[path], **WHOLE, err_msg="/".join(path))
    model.load_state_dict(before)


def test_an_absent_image_leaves_the_statistics_of_a_batch_without_it() -> None:
    """PyTorch has no mask, so it is given the batch without the image that is absent from ours."""
    model, variables = theirs("resnet18"), ours("resnet18", theirs("resnet18"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, there = images(3), np.array([True, False, True])
    with torch.no_grad():
        expected = model.train()(nchw(x[there]), output_hidden_states=True).hidden_states[-4:]
    got, updates = encode("resnet18", variables, x, np.broadcast_to(there[:, None, None], x.shape[:3]), train=True)
    for mine, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(mine)[there], nhwc(other), **WHOLE)
    after = flatten_dict(ours("resnet18", model)["batch_stats"])
    for path, mine in flatten_dict(updates["batch_stats"]).items():
        np.testing.assert_allclose(mine, after[path], **WHOLE, err_msg="/".join(path))
    model.load_state_dict(before)


def test_gradients_through_resnet_are_theirs() -> None:
    """Of the mean squares of the four maps, in the images, which all else lies behind; in units of the largest."""
    model = theirs("resnet18").eval()
    variables, x = ours("resnet18", model), images(1)
    given = nchw(x).requires_grad_()
    maps = model(given, output_hidden_states=True).hidden_states[-4:]
    sum((m.square().mean() for m in maps), torch.zeros(())).backward()
    mine = jax.grad(lambda x: sum(jnp.square(m).mean() for m in encode("resnet18", variables, x)))(x)
    scale = float(given.grad.abs().max())
    np.testing.assert_allclose(mine / scale, nhwc(given.grad) / scale, **WHOLE)


@pytest.mark.parametrize("name", ["pvt_v2_b0", "resnet50"])
def test_what_we_export_their_model_loads_to_the_bit(name: str) -> None:
    model = theirs(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    variables = {collection: {"encoder": tree} for collection, tree in ours(name, model).items()}
    exported = state_dict_of(variables, ModelConfig(encoder=ENCODERS[name]), "transformers")
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    model.load_state_dict({k.removeprefix("encoder."): torch.from_numpy(v) for k, v in exported.items()}, strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) or key.endswith("num_batches_tracked"), key

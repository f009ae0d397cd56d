"""Our network and training step against the PyTorch reference of experiments/torch_baseline, from the same weights
and batches."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sgma_jax.config import (
    DataConfig,
    MeanFusionConfig,
    ModelConfig,
    OptimizerConfig,
    PvtV2Config,
    SamplingConfig,
    TrainConfig,
)
from sgma_jax.config import SemanticGuidedFusionConfig as SgfConfig
from sgma_jax.interop import torch_weights
from sgma_jax.models.fusions.fused import Drawn
from sgma_jax.models.fusions.semantic_guided import SemanticGuidedFusion
from sgma_jax.models.head import AllMlpHead
from sgma_jax.models.network import make_model
from sgma_jax.sharding import make_mesh, put_batch
from sgma_jax.structs import Batch
from sgma_jax.training.step import make_train_step, state_initializer

torch = pytest.importorskip("torch", reason="PyTorch is not installed; make test-parity installs it")

from experiments.torch_baseline import fusion as torch_fusion  # noqa: E402
from experiments.torch_baseline import head as torch_head  # noqa: E402
from experiments.torch_baseline import optimization as torch_optimization  # noqa: E402
from experiments.torch_baseline.cheap_fusion import CheapSemanticGuidedFusion  # noqa: E402
from experiments.torch_baseline.sgma import Sgma as TorchSgma  # noqa: E402

pytestmark = pytest.mark.parity

MODALITIES = ("rgb", "dsm", "nir")
STEPS = 10
FORMS = (torch_fusion.SemanticGuidedFusion, CheapSemanticGuidedFusion)


def close(got, want, tolerance: float, name: str = "") -> None:
    """Equal to a tolerance that is relative to the largest value, and absolute where that is below 1."""
    got, want = (x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in (got, want))
    np.testing.assert_allclose(
        got, want, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(want).max(initial=0.0))), err_msg=name
    )


def channels_first(x) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, -3)


def tensor(x) -> torch.Tensor:
    return torch.from_numpy(np.array(x))


def state_dict_of(variables) -> dict[str, np.ndarray]:
    """Under PyTorch's names; a gradient is renamed and transposed like its parameter."""
    return torch_weights.state_dict_of(variables, ModelConfig())


def load(module: torch.nn.Module, prefix: str, variables) -> torch.nn.Module:
    """The module with those of the variables that lie under the prefix; every parameter must be given."""
    arrays = {k.removeprefix(prefix): tensor(v) for k, v in state_dict_of(variables).items() if k.startswith(prefix)}
    module.load_state_dict(arrays, strict=True)
    return module


def patchy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Availability with holes at every scale, a sample without one sensor, and a corner that no sensor sees."""
    coarse = rng.random((*shape[:2], -(-shape[2] // 8), -(-shape[3] // 8))) < 0.6
    available = np.repeat(np.repeat(coarse, 8, 2), 8, 3)[:, :, : shape[2], : shape[3]]
    available[0, 1] = False
    available[:, :, : shape[2] // 2, : shape[3] // 2] = False
    available[1, 2] = True
    return available


# --- one scale of the fusion
# ---------------------------------------------------------------------------------------------


@functools.cache
def fusion_at(channels: int, side: int, classes: int, norm: str):
    """Our fusion's results and gradients at one scale, with what went into them; compiled once for both forms of the
    reference."""
    rng = np.random.default_rng(channels)
    model = SemanticGuidedFusion(SgfConfig(prototype_norm=norm), MODALITIES, classes, jnp.dtype("float32"))
    features = rng.normal(size=(2, 3, side, side + 1, channels)).astype(np.float32)
    available = patchy(rng, features.shape[:4])
    drawn = np.array([1, 2], np.int32)  # the first sample's is the sensor that it has not
    drawn_available = available[np.arange(2), drawn]
    weights = rng.normal(size=features[:, 0].shape).astype(np.float32)
    params = model.init(jax.random.key(0), jnp.asarray(features), jnp.asarray(available))["params"]

    @jax.jit
    def run(params, features):
        def scalar(params, features):
            alone = Drawn(jnp.asarray(drawn), jnp.asarray(drawn_available))
            out = model.apply({"params": params}, features, jnp.asarray(available), None, alone)
            return (out.features * weights).sum() + (out.second.features * weights).sum() + (
                out.robustness**2
            ).sum(), out

        return jax.grad(scalar, (0, 1), has_aux=True)(params, features)

    return params, features, available, drawn, drawn_available, weights, run(params, features)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("channels", "side", "classes", "norm"),
    [(32, 16, 5, "softmax"), (64, 8, 5, "softmax"), (160, 4, 20, "softmax"), (256, 3, 5, "none")],
)
def test_fusion_robustness_and_gradients_of_every_scale_are_pytorchs(
    form, channels: int, side: int, classes: int, norm: str
) -> None:
    params, features, available, drawn, drawn_available, weights, (gradients, want) = fusion_at(
        channels, side, classes, norm
    )
    module = load(
        form(SgfConfig(prototype_norm=norm), channels, MODALITIES, classes),
        "fusion.0.",
        {"params": {"fusion_0": params}},
    )
    x = tensor(channels_first(features)).requires_grad_()
    got = module(x, tensor(available), MODALITIES, tensor(drawn).long(), tensor(drawn_available))
    close(got.features, channels_first(want.features), 1e-5, "features")
    close(got.drawn_features, channels_first(want.second.features), 1e-5, "drawn features")
    close(got.robustness, want.robustness, 1e-5, "robustness")
    w = tensor(channels_first(weights))
    ((got.features * w).sum() + (got.drawn_features * w).sum() + (got.robustness**2).sum()).backward()
    close(x.grad, channels_first(gradients[1]), 1e-4, "gradient of the features")
    wanted = state_dict_of({"params": {"fusion_0": gradients[0]}})
    for name, parameter in module.named_parameters():
        close(parameter.grad, wanted[f"fusion.0.{name}"], 1e-4, name)


# --- head
# ------------------------------------------------------------------------------------------------------------------


def test_head_and_its_running_statistics_are_pytorchs() -> None:
    rng = np.random.default_rng(0)
    channels, sizes = (32, 64, 160, 256), ((9, 11), (5, 6), (3, 3), (2, 2))
    maps = [rng.normal(size=(3, *size, c)).astype(np.float32) for size, c in zip(sizes, channels, strict=True)]
    mask = rng.random((3, 9, 11)) < 0.7
    model = AllMlpHead(4, 24, 0.0, jnp.dtype("float32"))
    ours = ([jnp.asarray(m) for m in maps], jnp.asarray(mask))
    variables = model.init(jax.random.key(0), *ours, False)
    stats = {
        "norm": {"mean": rng.normal(size=24).astype(np.float32), "var": rng.uniform(0.5, 2, 24).astype(np.float32)}
    }
    variables = {"params": variables["params"], "batch_stats": jax.tree.map(jnp.asarray, stats)}
    module = load(torch_head.AllMlpHead(channels, 4, 24, 0.0), "head.", {k: {"head": v} for k, v in variables.items()})
    inputs = [tensor(channels_first(m)) for m in maps]
    close(
        module.eval()(inputs, tensor(mask)),
        channels_first(model.apply(variables, *ours, False)),
        1e-5,
        "evaluation",
    )
    want, updates = model.apply(variables, *ours, True, mutable=["batch_stats"])
    close(module.train()(inputs, tensor(mask)), channels_first(want), 1e-5, "training")
    close(module.norm.running_mean, updates["batch_stats"]["norm"]["mean"], 1e-5, "running mean")
    close(module.norm.running_var, updates["batch_stats"]["norm"]["var"], 1e-5, "running variance")


def test_masked_statistics_are_pytorchs_own_where_nothing_is_masked() -> None:
    """The reference's BatchNorm is hand-written for the mask, so it is itself held against PyTorch's."""
    rng = np.random.default_rng(1)
    x, ours, theirs = (
        tensor(rng.normal(size=(3, 6, 5, 4)).astype(np.float32)),
        torch_head.MaskedBatchNorm2d(6),
        torch.nn.BatchNorm2d(6),
    )
    close(ours(x, torch.ones(3, 5, 4, dtype=torch.bool)), theirs(x), 1e-6)
    close(ours.running_mean, theirs.running_mean, 1e-6)
    close(ours.running_var, theirs.running_var, 1e-6)


# --- the whole network and ten steps
# -------------------------------------------------------------------------------------


CONFIGS = {
    "sgf and mas": TrainConfig(
        name="sgf",
        data=DataConfig(modalities=MODALITIES, bands=(3, 1, 1), classes=("a", "b", "c"), crop=64, batch_size=2),
        model=ModelConfig(encoder=PvtV2Config(variant="b0", drop_path_rate=0.0), head_width=32, head_dropout=0.0),
        sampling=SamplingConfig(),
        optimizer=OptimizerConfig(clip_norm=1.0),
        steps=STEPS,
        warmup_steps=2,
    ),
    "mean fusion": TrainConfig(
        name="mean",
        data=DataConfig(modalities=MODALITIES, bands=(3, 1, 4), classes=("a", "b", "c"), crop=64, batch_size=2),
        model=ModelConfig(
            encoder=PvtV2Config(variant="b0", drop_path_rate=0.0),
            fusion=MeanFusionConfig(),
            stem="linear",
            head_width=32,
            head_dropout=0.0,
        ),
        sampling=None,
        optimizer=OptimizerConfig(clip_norm=1e9, peak_learning_rate=1e-3),
        steps=STEPS,
    ),
}


def batch_of(config: TrainConfig, seed: int, height: int = 64, width: int = 64) -> Batch:
    """Per-pixel availability, modality dropout, draws of sensors that dropout took, labels that are partly ignored,
    NaN where absent."""
    rng = np.random.default_rng(seed)
    available = patchy(rng, (2, 3, height, width))
    images = {}
    for i, (m, bands) in enumerate(zip(config.data.modalities, config.data.bands, strict=True)):
        image = rng.normal(size=(2, height, width, bands)).astype(np.float32)
        images[m] = np.where(available[:, i, ..., None], image, np.float32(np.nan))
    kept = np.array([[True, True, seed % 2 == 0], [True, False, True]])
    labels = rng.integers(0, 3, size=(2, height, width)).astype(np.int32)
    labels[rng.random(labels.shape) < 0.2] = 255
    return Batch(images, available, kept, labels, np.arange(2, dtype=np.int32), np.array([seed % 3, 1], np.int32))


@functools.cache
def trained(name: str):
    """Our ten steps, by the very step of `sgma train`: first variables, losses, what Adam held after step one, last
    state."""
    config, mesh = CONFIGS[name], make_mesh(1)
    initialise, shapes = state_initializer(config, mesh)
    state, step = initialise(), make_train_step(config, mesh, shapes)
    first = jax.tree.map(np.asarray, {"params": state.params, "batch_stats": state.batch_stats})
    losses, first_moment = [], None
    for i in range(STEPS):
        state, report = step(state, put_batch(batch_of(config, i), mesh))
        losses.append({k: float(v) for k, v in report.losses.items()})
        if i == 0:
            first_moment = jax.tree.map(np.asarray, optax.tree.get(state.opt_state, "mu"))
    return (
        first,
        losses,
        first_moment,
        jax.tree.map(np.asarray, {"params": state.params, "batch_stats": state.batch_stats}),
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_ten_optimiser_steps_are_pytorchs(name: str) -> None:
    config = CONFIGS[name]
    first, losses, first_moment, last = trained(name)
    model = load(TorchSgma(config), "", first).train()
    adamw = torch_optimization.make_optimizer(config.optimizer, model)
    rate = torch_optimization.learning_rate(config.optimizer, config.steps, config.warmup_steps)
    for i, want in enumerate(losses):
        batch = torch_optimization.put_batch(batch_of(config, i), torch.device("cpu"))
        got, _ = torch_optimization.train_step(config, model, list(model.parameters()), adamw, batch, rate(i))
        assert got.keys() == want.keys()
        for what in want:
            # Adam's first updates are the gradient's signs, rounding or not, and the norm of the gradient feels that
            # sooner than a loss does.
            tolerance = 1e-3 if what == "gradient_norm" and i > 0 else 1e-4
            assert float(got[what]) == pytest.approx(want[what], rel=tolerance), f"{what} of step {i}"
        if i == 0:  # Adam's first moment is then a tenth of the clipped gradient
            moments = state_dict_of({"params": first_moment})
            largest = max(float(np.abs(m).max()) for m in moments.values())
            for parameter_name, parameter in model.named_parameters():
                moment = adamw.state[parameter]["exp_avg"].numpy()
                np.testing.assert_allclose(
                    moment, moments[parameter_name], rtol=1e-3, atol=1e-5 * largest, err_msg=parameter_name
                )
    for statistic in ("running_mean", "running_var"):
        close(
            model.get_buffer(f"head.norm.{statistic}"), state_dict_of(last)[f"head.norm.{statistic}"], 2e-4, statistic
        )


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("form", FORMS)
def test_prediction_of_any_subset_is_pytorchs(name: str, form) -> None:
    """After training, at a size that is no multiple of 32: logits of both branches, robustness maps, and where there
    is an answer."""
    config, variables = CONFIGS[name], trained(name)[3]
    module = load(TorchSgma(config, form), "", variables).eval()
    batch = batch_of(config, 0, 72, 56)
    torch_batch = torch_optimization.put_batch(batch, torch.device("cpu"))
    with torch.no_grad():
        whole = module(torch_batch.images, torch_batch.available, kept=torch_batch.kept, drawn=torch_batch.drawn)
        part = module(torch_batch.images, torch_batch.available, present=("rgb", "nir"))
    for got, want in zip((whole, part), predictions(name), strict=True):
        close(got.logits, channels_first(want.logits), 1e-4, "logits")
        for i, (robustness, sees) in enumerate(zip(got.robustness, got.sees, strict=True)):
            close(robustness, want.robustness[i], 1e-5, f"robustness at scale {i}")
            np.testing.assert_array_equal(sees, want.sees[i])
        np.testing.assert_array_equal(got.answered, want.answered)
    close(whole.drawn_logits, channels_first(predictions(name)[0].second.logits), 1e-4, "logits of the drawn branch")


@functools.cache
def predictions(name: str):
    """Ours for the same batch: all sensors with both branches, and two sensors alone."""
    config, variables = CONFIGS[name], trained(name)[3]
    model, batch = make_model(config), batch_of(config, 0, 72, 56)

    @jax.jit
    def predict(variables, batch):
        whole = model.apply(variables, batch.images, batch.available, kept=batch.kept, drawn=batch.drawn)
        return whole, model.apply(variables, batch.images, batch.available, subset=jnp.array([0, 2]))

    return predict(variables, batch)

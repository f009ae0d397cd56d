"""Our schedule, clipping and AdamW against those of experiments/torch_baseline."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from sgma_jax.config import OptimizerConfig
from sgma_jax.training.optimization import learning_rate, optimizer

torch = pytest.importorskip("torch", reason="PyTorch is not installed; make test-parity installs it")

from experiments.torch_baseline import optimization as torch_optimization  # noqa: E402

pytestmark = pytest.mark.parity


def tensor(x) -> torch.Tensor:
    return torch.from_numpy(np.array(x))


@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (7, 0)])
def test_the_schedule_is_the_same(steps: int, warmup: int) -> None:
    config = OptimizerConfig()
    ours, theirs = learning_rate(config, steps, warmup), torch_optimization.learning_rate(config, steps, warmup)
    np.testing.assert_allclose(
        [theirs(i) for i in range(steps + 1)], [float(ours(i)) for i in range(steps + 1)], rtol=1e-5, atol=1e-12
    )


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e3])
def test_clipping_and_adamw_are_the_same_for_gradients_of_any_size(scale: float) -> None:
    """Tiny gradients show where Adam's epsilon stands; large ones that clipping divides by the norm alone."""
    rng, config = np.random.default_rng(0), OptimizerConfig(peak_learning_rate=1e-2)
    params = {
        "a": {"kernel": rng.normal(size=(5, 4)).astype(np.float32), "bias": rng.normal(size=4).astype(np.float32)}
    }
    tx = optimizer(config, 100, 0)
    state, ours = tx.init(params), params
    module = torch.nn.Linear(4, 5)
    module.load_state_dict(
        {
            "weight": tensor(params["a"]["kernel"]),
            "bias": torch.cat([tensor(params["a"]["bias"]), torch.zeros(1)]),
        }
    )
    adamw = torch_optimization.make_optimizer(config, module)
    rate = torch_optimization.learning_rate(config, 100, 0)
    for i in range(3):
        gradients = jax.tree.map(lambda p: (scale * rng.normal(size=p.shape)).astype(np.float32), params)
        updates, state = tx.update(gradients, state, ours)
        ours = optax.apply_updates(ours, updates)
        module.weight.grad = tensor(gradients["a"]["kernel"])
        module.bias.grad = torch.cat([tensor(gradients["a"]["bias"]), torch.zeros(1)])
        norm = torch_optimization.clip_by_global_norm(list(module.parameters()), config.clip_norm)
        assert float(norm) == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-6)
        for group in adamw.param_groups:
            group["lr"] = rate(i)
        adamw.step()
    # Three updates of about the learning rate; optax takes 1 - 0.999^t in float32, which is good to 3e-5 of an update.
    np.testing.assert_allclose(
        module.weight.detach(), ours["a"]["kernel"], rtol=1e-6, atol=1e-4 * config.peak_learning_rate
    )
    np.testing.assert_allclose(
        module.bias.detach()[:4], ours["a"]["bias"], rtol=1e-6, atol=1e-4 * config.peak_learning_rate
    )

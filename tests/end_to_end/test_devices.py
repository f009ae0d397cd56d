"""The same program on one device and on eight, however they share samples, parameters and image rows, and what it
sends between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("topologies.py")
ROOT = Path(__file__).resolve().parents[2]
STATISTICS = 16  # numbers: channels of the head's normalisation, the only one in this network


def on_eight_devices(*arguments: str, timeout: int) -> Any:
    """What a program prints as JSON, in a process of its own with eight simulated devices."""
    # At the lowest optimisation level, as all tests: compiling is nearly all of the time.
    options = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": options, "PYTHONPATH": os.pathsep.join([str(ROOT), str(PROGRAM.parent)])}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def train_on(*topologies: str, steps: int, flags: str = "plain", timeout: int) -> dict[str, Any]:
    """What topologies.py says about the topologies."""
    return on_eight_devices(str(PROGRAM), str(steps), flags, *topologies, timeout=timeout)


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """Three steps on one device, and on eight of which four share parameters."""
    return train_on("1x1x1", "2x4x1", steps=3, timeout=900)


@pytest.fixture(scope="module")
def trained_in_strips() -> dict[str, Any]:
    """Three steps on eight devices of which four share image rows, and two parameters."""
    return train_on("1x2x4", steps=3, timeout=900)


def assert_trained_alike(got: dict[str, Any], want: dict[str, Any], relative: float) -> None:
    """Every loss of every step; the gradient's norm, a sum of many squares, and the robustness less tightly."""
    for mine, theirs in zip(got["reports"], want["reports"], strict=True):
        assert mine["applied"]
        assert theirs["applied"]
        for name in ("loss", "loss_fused", "loss_mas"):
            assert mine[name] == pytest.approx(theirs[name], rel=relative), name
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=2e-5)
        np.testing.assert_allclose(mine["robustness"], theirs["robustness"], rtol=2e-5)


@pytest.mark.slow
def test_eight_devices_train_as_one_does(trained: dict[str, Any]) -> None:
    losses = [report["loss"] for report in trained["1x1x1"]["reports"]]
    assert len(set(losses)) == len(losses), "nothing moves, so nothing is compared"
    assert_trained_alike(trained["2x4x1"], trained["1x1x1"], 1e-6)


@pytest.mark.slow
def test_a_step_that_is_not_finite_changes_nothing(trained: dict[str, Any]) -> None:
    for run in trained.values():
        assert run["not_applied"] == {"applied": False, "informative": False, "same": True}


@pytest.mark.slow
def test_one_device_sends_nothing(trained: dict[str, Any]) -> None:
    assert trained["1x1x1"]["collectives"] == []


@pytest.mark.slow
def test_devices_send_parameters_and_gradients_once_and_besides_them_only_statistics(trained: dict[str, Any]) -> None:
    """Every collective of the compiled step, whatever put it there, is one of these; an activation among them fails."""
    run = trained["2x4x1"]
    arrays = Counter(
        (c["kind"], tuple(shape)) for c in run["collectives"] for shape in c["shapes"] for _ in range(c["times"])
    )
    expected = Counter()
    for parameter in run["parameters"]:
        shape, shard = tuple(parameter["shape"]), tuple(parameter["shard"])
        expected["all-reduce", shard] += 1
        if shape != shard:
            expected["all-gather", shape] += 1
            expected["reduce-scatter", shard] += 1
    assert sum(expected[kind, shape] for kind, shape in expected if kind == "all-gather") >= 20, (
        "too few sharded parameters to say anything"
    )
    assert not expected - arrays
    samples, scales, modalities = 8, 4, 2
    report = {(samples, scales, modalities), (samples,)}
    for (kind, shape), times in (arrays - expected).items():
        statistic = kind == "all-reduce" and np.prod(shape) <= STATISTICS
        assert statistic or (kind == "all-gather" and shape in report), f"{times} x {kind} of {shape}"


@pytest.mark.long  # seven programs to compile
def test_every_topology_trains_ten_steps_as_one_device_does() -> None:
    trained_longer = train_on("1x1x1", "1x8x1", "8x1x1", "4x2x1", "2x4x1", "2x1x4", "1x2x4", steps=10, timeout=3600)
    for topology, run in trained_longer.items():
        assert_trained_alike(run, trained_longer["1x1x1"], 1e-6 if topology.endswith("x1") else 1e-5)
        assert run["not_applied"] == {"applied": False, "informative": False, "same": True}


@pytest.mark.slow
def test_devices_that_share_image_rows_train_as_one_does(
    trained: dict[str, Any], trained_in_strips: dict[str, Any]
) -> None:
    assert_trained_alike(trained_in_strips["1x2x4"], trained["1x1x1"], 1e-5)


@pytest.mark.slow
def test_a_halo_is_exchanged_once_each_way_and_convolution(trained_in_strips: dict[str, Any]) -> None:
    sent = [c for c in trained_in_strips["1x2x4"]["collectives"] if c["kind"] == "collective-permute"]
    forward = sum(c["times"] for c in sent if "transpose" not in c["path"])
    # Strided patches look only upwards; the others both ways: eight blocks, the finest fusion, and the resizes of three
    # scales and the logits.
    patches, blocks, fusion, resizes = 4, 8, 1, 4
    assert forward == patches + 2 * (blocks + fusion + resizes)
    backward = sum(c["times"] for c in sent if "transpose" in c["path"])
    assert backward == forward - 1, "each exchange goes back for the gradient, but for that of the images"


@pytest.mark.long
def test_accumulation_rematerialisation_bfloat16_and_sharing_go_together() -> None:
    # Micro-batches hold the same samples whatever the topology, so these too train alike.
    both = train_on("1x1x1", "2x2x2", steps=3, flags="accumulate+remat", timeout=1200)
    assert_trained_alike(both["2x2x2"], both["1x1x1"], 1e-5)
    rough = train_on("2x2x2", steps=3, flags="accumulate+remat+bfloat16", timeout=1200)["2x2x2"]
    for mine, theirs in zip(rough["reports"], both["1x1x1"]["reports"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=3e-2)


EVALUATION = """
import json, jax, numpy as np
from topologies import CONFIG, batch_of, first_state
from sgma_jax.evaluation.evaluator import Evaluator
from sgma_jax.models.network import make_model
from sgma_jax.sharding import make_mesh
from sgma_jax.training.step import state_initializer
result = []
for data, fsdp, space in ((1, 1, 1), (1, 2, 4)):
    mesh = make_mesh(fsdp, space, jax.devices()[: data * fsdp * space])
    shapes = state_initializer(CONFIG, mesh)[1]  # with parameters sharded over fsdp, as training has them
    state = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), first_state(), shapes)
    evaluator = Evaluator(make_model(CONFIG), CONFIG.data.classes, mesh)
    tallies = evaluator.tally({"params": state.params, "batch_stats": state.batch_stats}, [batch_of(0), batch_of(1)])
    result.append({"+".join(s): [t.confusion.tolist(), t.labelled, t.confidences.sum(0).tolist()] for s, t in tallies.items()})
print(json.dumps(result))
"""


@pytest.mark.slow
def test_devices_that_share_parameters_and_image_rows_count_as_one_does() -> None:
    one, eight = on_eight_devices("-c", EVALUATION, timeout=600)
    for subset, (matrix, pixels, right) in one.items():
        assert eight[subset][1] == pixels
        assert sum(eight[subset][2]) == sum(right)
        # Random weights leave ties that the last digit decides: a few pixels of tens of thousands.
        assert np.abs(np.subtract(eight[subset][0], matrix)).sum() <= 1e-3 * pixels
        assert np.sum(eight[subset][0]) == np.sum(matrix)


MEMORY = """
import json, jax
from topologies import batch_of, configuration
from sgma_jax.sharding import make_mesh
from sgma_jax.training.step import make_train_step, state_initializer
mesh, result = make_mesh(1, 2, jax.devices()[:2]), {}
def side(n):  # images that outweigh the parameters
    return 256 if n in (32, 128) else n
batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0], *map(side, x.shape[1:])), x.dtype), batch_of(0))
for flags in ("plain", "remat"):
    config = configuration(flags)
    shapes = state_initializer(config, mesh)[1]
    result[flags] = make_train_step(config, mesh, shapes).lower(shapes, batch).compile().memory_analysis().temp_size_in_bytes
print(json.dumps(result))
"""


@pytest.mark.long
def test_rematerialisation_saves_memory() -> None:
    """On devices that share rows: a CPU device that has whole samples computes most again in any case
    (layers.in_chunks)."""
    temporary = on_eight_devices("-c", MEMORY, timeout=1200)
    assert temporary["remat"] < 0.5 * temporary["plain"]

"""Prediction from every subset of the sensors, ours and PyTorch's in turn: images per second and peak memory.

Command: python -m experiments.benchmarks.inference [--against torch] [--json] [--size 128] [--batch 8] [--dtype
            float32]
All variants are measured with all sensors; every other subset with ours and PyTorch's fastest.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from experiments.benchmarks.side_by_side import (
    OURS,
    Options,
    check_torch,
    compete,
    print_result,
    share_weights,
    torch_builders,
)
from experiments.benchmarks.workload import config_of
from sgma_jax.errors import one_line_errors
from sgma_jax.flags import parse_process


@one_line_errors
def main() -> None:
    """Measure and print."""
    # Every contender's process imports this file, and PyTorch's should hold no JAX.
    from experiments.benchmarks import ours
    from sgma_jax.modalities import subsets

    options = parse_process(Options, "experiments.benchmarks.inference")
    if options.against == "torch":
        check_torch()
    *parts, everything = ["+".join(s) for s in subsets(config_of(options).data.modalities)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        builders = {OURS: (ours.inference, options, folder)}
        if options.against == "torch":
            from experiments.torch_baseline.contenders import INFERENCE_VARIANTS, inference

            builders |= torch_builders(options, folder, INFERENCE_VARIANTS, inference)
        share_weights(options, folder)
        print_result(compete(options, builders, everything, parts), options.json)


if __name__ == "__main__":
    main()

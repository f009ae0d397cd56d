"""One optimiser step, ours and PyTorch's in turn: images per second, peak memory, and what compiling ours takes from
cold.

Command: python -m experiments.benchmarks.train_step [--against torch] [--json] [--size 128] [--batch 8] [--dtype
            float32]
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
from sgma_jax.errors import one_line_errors
from sgma_jax.flags import parse_process


@one_line_errors
def main() -> None:
    """Measure and print."""
    # Every contender's process imports this file, and PyTorch's should hold no JAX.
    from experiments.benchmarks import ours

    options = parse_process(Options, "experiments.benchmarks.train_step")
    if options.against == "torch":
        check_torch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        builders = {OURS: (ours.training, options, folder)}
        if options.against == "torch":
            from experiments.torch_baseline.contenders import TRAINING_VARIANTS, training

            builders |= torch_builders(options, folder, TRAINING_VARIANTS, training)
        share_weights(options, folder)
        print_result(compete(options, builders, "step"), options.json)


if __name__ == "__main__":
    main()

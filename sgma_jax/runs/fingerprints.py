"""A number per array, by which a damaged checkpoint is known: the same however the array is sharded."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from sgma_jax.distributed import gather

ODD = np.uint32(
    2654435761
)  # [C] 2^32 / golden ratio, which spreads neighbouring places (Knuth, The Art of Computer Programming 6.4)
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def fingerprints(tree: Any) -> list[int]:
    """One number below 2^32 per array, in the tree's order; called by all processes, as each looks at what its
    devices hold.

    A single flipped bit always changes it, other damage all but surely. It waits for the arrays to be computed.
    """
    sums = np.array([_sum_of_mine(leaf) for leaf in jax.tree.leaves(tree)], np.uint32)
    return [int(n) for n in gather(sums).sum(0, dtype=np.uint32)]


def _sum_of_mine(array: jax.Array) -> int:
    """Sum of the words, each times an odd number that depends on its place, modulo 2^32; odd, so that no bit is lost.

    Of the copies of a part only the first counts, wherever it lives.
    """
    total = 0
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            words = np.atleast_1d(jax.device_get(shard.data))
            places = np.ones(words.shape, np.uint32)
            stride = 1
            for axis, (part, size) in reversed(
                list(enumerate(zip(shard.index or (slice(None),), array.shape or (1,), strict=True)))
            ):
                along = np.arange(*part.indices(size), dtype=np.uint32) * np.uint32(2 * stride % 2**32)
                places += along.reshape(-1, *[1] * (words.ndim - 1 - axis))
                stride *= size
            total += int((words.view(UNSIGNED[words.dtype.itemsize]) * (places * ODD)).sum(dtype=np.uint32))
    return total % 2**32

"""Modality-Aware Sampling: the host's table of robustness, from which each sample's trained-alone modality is drawn.

Section III of arXiv 2603.02505. Plain numpy: the table lives in the input loop, is fed by what earlier training
steps returned, and is saved with the checkpoint. Tags: [P] the paper, [C] our choice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sgma_jax.config import SamplingConfig
from sgma_jax.errors import InputError

SCALES = 4
PENDING = ("robustness", "informative", "ids")


class SamplingTable:
    """A table of how robust each modality has been of late, per scale; the less robust, the more often it is drawn.

    Contract of the lag: the draw for step t knows the results of the steps before `t - lag`. What `push` was given
    and the table has not yet used is part of its state, so a resumed run draws what an uninterrupted one would have
    drawn.
    """

    def __init__(
        self,
        config: SamplingConfig,
        modalities: int,
        *,
        seed: int = 0,
        records: int = 0,
        scales: int = SCALES,
        fetch: Callable[[Any], Any] = np.asarray,
    ) -> None:
        """Begin with equal robustness of all `modalities` at `scales` scales.

        `records` is how many records have rows of their own, with the granularity "sample". `fetch` brings an array of
        the device to the host. Raises InputError where records are needed and none are counted.
        """
        if config.granularity == "sample" and not records:
            raise InputError('granularity "sample" keeps a row for each record; say how many records there are.')
        self.config, self._fetch = config, fetch
        self.modalities = modalities
        self.seed = seed
        # [C] Uniform at the start. Rows hold robustness; probabilities are derived on reading.
        self._rows = np.full((scales, modalities), 1.0 / modalities)
        self._sample_rows = np.zeros((records if config.granularity == "sample" else 0, scales, modalities))
        self._seen = np.zeros(len(self._sample_rows), bool)
        self._pending: deque[tuple[Any, Any, Any]] = deque()

    def push(self, robustness: Any, informative: Any, ids: Any) -> None:
        """Hand in a step's result, as arrays that may still be being computed; it is read `lag` steps later.

        Arguments as for `update`. Only results older than the lag are waited for, so the device always has a step to
        work on.
        """
        self._pending.append((robustness, informative, ids))
        while len(self._pending) > self.config.lag:
            self.update(*(self._fetch(a) for a in self._pending.popleft()))

    def update(
        self,
        robustness: Float[np.ndarray, "batch scale modality"],
        informative: Bool[np.ndarray, "batch scale modality"],
        ids: Int[np.ndarray, " batch"],
    ) -> None:
        """Move the table's averages towards a batch's robustness, where it says something.

        `robustness` is each sample's mean over positions, scaled so that equal shares are 1 / modalities however
        many sensors a position has; `informative` marks the entries that at least one position with two or more
        sensors stands behind.
        """
        keep = self.config.decay
        robustness = np.where(informative, robustness, 0.0).astype(np.float64)
        count = informative.sum(0)
        mean = robustness.sum(0) / np.maximum(count, 1)
        self._rows = np.where(count > 0, keep * self._rows + (1 - keep) * mean, self._rows)
        if self.config.granularity == "sample":
            for row, useful, i in zip(robustness, informative, ids, strict=True):
                if i < 0:  # padding, or a record that could not be read
                    continue
                old = self._sample_rows[i] if self._seen[i] else self._rows
                self._sample_rows[i] = np.where(useful, keep * old + (1 - keep) * row, old)
                self._seen[i] |= useful.any()

    def probabilities(self, ids: Int[np.ndarray, " batch"] | None = None) -> Float[np.ndarray, "*batch modality"]:
        """Sampling probabilities: inverted robustness, normalised per scale, mean over scales [P]; of the global
        row, or per record."""
        rows = self._rows
        if ids is not None:
            rows = np.broadcast_to(rows, (len(ids), *rows.shape))
            if self.config.granularity == "sample":  # unseen records fall back to the global row
                rows = np.where(self._seen[ids][:, None, None], self._sample_rows[ids], rows)
        inverted = 1.0 / np.maximum(rows, self.config.floor)
        return (inverted / inverted.sum(-1, keepdims=True)).mean(-2)

    def draw(
        self, present: Bool[np.ndarray, "batch modality"], ids: Int[np.ndarray, " batch"], step: int
    ) -> Int[np.ndarray, " batch"]:
        """One modality per sample, out of those that it has; 0 for a sample that has none.

        The random number of a sample is a function of (seed, step, record id) alone, so every host draws the same
        for the same sample, and so does a resumed run.
        """
        weights = np.where(present, self.probabilities(ids), 0.0)
        ends = np.cumsum(weights, axis=1)
        # A counter-based generator: the key says which step, the counter which record.
        raw = [np.random.Philox(key=[self.seed, step], counter=[int(i) % 2**63, 0, 0, 0]).random_raw() for i in ids]
        uniform = (np.array(raw, np.uint64) >> np.uint64(11)) * 2.0**-53
        drawn = (ends <= (uniform * ends[:, -1])[:, None]).sum(1)
        # Rounding may only ever move a draw past the last modality that is there; bring it back.
        last = present.shape[1] - 1 - present[:, ::-1].argmax(1)
        return np.where(present.any(1), np.minimum(drawn, last), 0).astype(np.int32)

    def state(self) -> dict[str, Any]:
        """All that the table will do depends on this and the configuration: arrays and dicts only."""
        pending = {
            str(i): dict(zip(PENDING, map(self._fetch, entry), strict=True)) for i, entry in enumerate(self._pending)
        }
        rows = {"rows": self._rows, "sample_rows": self._sample_rows, "seen": self._seen}
        return {k: v for k, v in rows.items() if v.size} | ({"pending": pending} if pending else {})

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned; a state of another shape raises InputError."""
        if np.shape(state["rows"]) != self._rows.shape or np.shape(state.get("seen", ())) != self._seen.shape:
            raise InputError(
                "the checkpoint's sampling table is of another data set or granularity; resume with its own data and "
                "preset."
            )
        self._rows = np.array(state["rows"], np.float64)
        if self._seen.size:
            self._sample_rows, self._seen = np.array(state["sample_rows"], np.float64), np.array(state["seen"], bool)
        pending = state.get("pending", {})
        entries = [pending[str(i)] for i in range(len(pending))]
        self._pending = deque(
            (np.array(e["robustness"]), np.array(e["informative"]), np.array(e["ids"])) for e in entries
        )

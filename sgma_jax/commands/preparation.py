"""Settings that a command makes before it loads JAX."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from absl import logging as absl_logging


def prepare_jax() -> None:
    """Keep compiled programs between runs, in the user's cache folder unless JAX is told otherwise; say nothing
    twice."""
    # What goes wrong in Orbax's background threads is raised in the foreground too; their own log of it is noise.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sgma_jax"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))

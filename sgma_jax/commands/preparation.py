"""Settings that a command makes before it loads JAX."""

from __future__ import annotations

import logging
import os

from absl import logging as absl_logging


def prepare_jax() -> None:
    """Keep compiled programs between runs, in the user's cache folder unless JAX is told otherwise; say nothing
    twice."""
    # What goes wrong in Orbax's background threads is raised in the foreground too; their own log of it is noise.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    home = os.path.expanduser("~")  # "~" itself where a container's user has no home
    if cache := os.environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home != "~" else ""):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{cache}/sgma_jax")

"""Settings that every test shares. The environment is set before anything imports jax."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

import tests.type_checks  # noqa: F401 (before the hook that names it)

ROOT = Path(__file__).resolve().parents[1]

# Compiling is most of the time of a test run: programs are kept between runs, and subprocesses inherit the folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Optimising is more than half of the compilation, and the tests' programs run for milliseconds. One device: what runs
# in a process of its own is to be the same, to the last bit, as what runs in this one.
flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1"
if metadata.version("jaxlib").startswith("0.10."):  # later releases know no other emitters; these compile in a third
    flags += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", flags)

# Every call of these modules' functions is checked against the shapes and types in its signature, dimensions of one name
# against each other.
install_import_hook(
    [
        "sgma_jax.availability",
        "sgma_jax.modalities",
        "sgma_jax.models",
        "sgma_jax.training.losses",
        "sgma_jax.training.sampling",
        "sgma_jax.training.step",
        "sgma_jax.evaluation",
        "sgma_jax.prediction",
    ],
    "tests.type_checks.checked",
)

# Few examples, because each shape compiles anew; the same ones in every run, so that CI never fails by chance.
settings.register_profile(
    "default", max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


LONGEST = ("training/test_every_kind.py", "models/test_sgma.py", "golden/test_golden.py", "end_to_end/test_resume.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take a minute or two first: of two workers, one would end alone with the last of them."""
    items.sort(key=lambda item: not str(item.path).endswith(LONGEST))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real scenes, as SGMA_REAL_DATA names it."""
    folder = os.environ.get("SGMA_REAL_DATA", "")
    if not folder:
        pytest.skip(
            "SGMA_REAL_DATA is not set: it names the folder with the real scenes (zion30m, ign_grauduroi, stormlake30m)"
        )
    if not Path(folder).is_dir():
        pytest.fail(f"SGMA_REAL_DATA names {folder}, which is no folder; correct or unset it")
    return Path(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs, to have a disk that can be filled")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def sgma(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """sgma("train", PRESET, ...) -> exit status, standard output, standard error; in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from sgma_jax.cli import main

        monkeypatch.setattr(sys, "argv", ["sgma", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return run

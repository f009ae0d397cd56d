"""The page on extending quotes the code as it is, and its converter runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from sgma_jax.data.source import open_source
from tests.test_architecture import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"([^\n]*)\n\n```python\n(.*?)```", PAGE, re.DOTALL)


def test_what_is_quoted_stands_in_the_file_that_is_named() -> None:
    quoted = [(lead, code) for lead, code in BLOCKS if lead.startswith("In `")]
    assert len(quoted) >= 6
    for lead, code in quoted:
        (name,) = re.findall(r"`(sgma_jax/[\w/]+\.py)`", lead)
        text = (ROOT / name).read_text()
        assert code in text, name
        assert "the whole file" not in lead or code == text, name


def test_the_converter_of_the_page_writes_a_set(tmp_path: Path) -> None:
    (code,) = (code for lead, code in BLOCKS if "my_converter.py" in lead)
    (tmp_path / "my_converter.py").write_text(code)
    command = [sys.executable, tmp_path / "my_converter.py", tmp_path / "out"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=None, timeout=120)
    source = open_source(tmp_path / "out", "train")
    example = source[3]
    assert (len(source), example.id) == (8, "train/003")
    assert not example.available[1, :, :8].any()
    assert set(np.unique(example.label)) <= {0, 1, 255}

"""What the pages say of the code is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sgma_jax
from tests.test_architecture import FLOORS, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_floors_of_the_page_are_those_that_are_held() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", ARCHITECTURE, re.MULTILINE)
    told = {int(number): {f"sgma_jax.{name}" for name in re.findall(r"`([\w.]+)`", names)} for number, names in rows}
    assert told == {number: set(names) for number, names in enumerate(FLOORS, 1)}


def test_the_drawn_house_has_every_module_of_the_library_and_no_other() -> None:
    house = ARCHITECTURE.split("```")[1].split("data_prep/", 1)[0]
    told = set(re.findall(r"[\w/]+\.py", house))
    there = {p.name for p in (ROOT / "sgma_jax").rglob("*.py") if p.name not in ("__init__.py", "__main__.py")}
    assert {name.rsplit("/", 1)[-1] for name in told} == there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    code = re.findall(r"`((?:sgma_jax|data_prep|experiments|tests|docs)/[\w/.-]+\.\w+)`", text)
    links = re.findall(r"\]\((?!http|#)([^)#]+)", text)
    modules = re.findall(r"(?<![\w/.])(?:experiments|data_prep|sgma_jax)(?:\.(?!md\b|py\b)[a-z_]+)+\b", text)
    missing = [name for name in code if not (ROOT / name).exists()]
    missing += [name for name in links if not (page.parent / name).exists()]
    for name in modules:  # a public name, a module, or something in one
        if name.removeprefix("sgma_jax.") in sgma_jax.__all__:
            continue
        place = ROOT.joinpath(*name.split("."))
        if not (place.is_dir() or place.with_suffix(".py").exists() or place.parent.with_suffix(".py").exists()):
            missing.append(name)
    assert not missing

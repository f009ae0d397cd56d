"""Which trainings there are, who does which, and under what budget."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.compare.budget import Budget, fix_budget, read_budget, seconds_per_step, with_steps
from experiments.compare.members import PRESET_FILE, Member, cause, members, run_member, share
from experiments.compare.methods import GROUPS, METHODS, REFERENCE
from experiments.demo import config as demo
from experiments.grau_du_roi import config as grau_du_roi
from experiments.zion import config as zion
from sgma_jax.config import TrainConfig, differences, from_json, to_json
from sgma_jax.config_check import check
from sgma_jax.errors import InputError


def everything(out: Path) -> list[Member]:
    return members({name: METHODS[name](demo) for name in GROUPS["methods"]}, 3, out)


@pytest.mark.parametrize("count", [1, 2, 5, 18, 30])
def test_shards_share_out_every_training_exactly_once(tmp_path: Path, count: int) -> None:
    whole = everything(tmp_path)
    parts = [share(whole, f"{i}/{count}") for i in range(1, count + 1)]
    assert sorted(m.folder for part in parts for m in part) == sorted(m.folder for m in whole)
    assert len({m.folder for m in whole}) == len(whole) == 18


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none_is_named(tmp_path: Path, shard: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        share(everything(tmp_path), shard)


def test_a_folder_of_another_experiment_is_left_alone(tmp_path: Path) -> None:
    member = everything(tmp_path)[0]
    member.folder.mkdir(parents=True)
    other = dataclasses.replace(member.config, data=dataclasses.replace(member.config.data, path="elsewhere", crop=48))
    (member.folder / PRESET_FILE).write_text(to_json(other))
    wrong = run_member(member, "test", [])
    assert wrong is not None
    assert "data.crop" in wrong
    assert "data.path" not in wrong
    assert [p.name for p in member.folder.iterdir()] == [PRESET_FILE]


def test_the_reason_of_a_failure_is_the_commands_own_line_or_the_first_exception() -> None:
    trace = (
        "Traceback (most recent call last):\n  File\nValueError: shapes differ\n\nTraceback\nRuntimeError: Event "
        "loop is closed\n"
    )
    assert cause(f"step 1\n{trace}") == "ValueError: shapes differ"
    assert cause(f"{trace}error: the disk is full\n") == "the disk is full"
    assert cause("Killed\n\n") == "Killed"
    assert cause("") == "it said nothing"


@pytest.mark.parametrize("base", [demo, zion, grau_du_roi], ids=lambda c: c.name)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_fits_every_data_set_and_changes_only_what_makes_it_that_method(
    name: str, base: TrainConfig
) -> None:
    config = METHODS[name](base)
    check(config)
    assert from_json(to_json(config)) == config
    changed = differences(base, config)
    assert all(field.startswith(("model.fusion", "sampling", "data.modality_dropout")) for field in changed), changed
    assert bool(changed) == (name != REFERENCE)


def test_every_group_begins_with_the_reference_and_names_methods_that_differ() -> None:
    for names in GROUPS.values():
        assert names[0] == REFERENCE
        assert len({to_json(METHODS[name](demo)) for name in names}) == len(names)
    assert {name for names in GROUPS.values() for name in names} == set(METHODS)


def test_another_length_keeps_the_shares_of_warm_up_and_validation() -> None:
    config = with_steps(demo, 600)
    assert (config.steps, config.warmup_steps, config.evaluate_every) == (600, 40, 300)
    check(with_steps(demo, 1))
    assert (
        dataclasses.replace(
            config, steps=demo.steps, warmup_steps=demo.warmup_steps, evaluate_every=demo.evaluate_every
        )
        == demo
    )


def test_the_first_budget_written_down_holds_for_everyone(tmp_path: Path) -> None:
    assert read_budget(tmp_path) is None
    first, second = Budget(100, 1.0, 0.6, "one"), Budget(120, 1.0, 0.5, "other")
    assert fix_budget(tmp_path, first) == first
    assert fix_budget(tmp_path, second) == first == read_budget(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["budget.json"]
    (tmp_path / "budget.json").write_text("{")
    with pytest.raises(InputError, match=r"budget\.json.*--out"):
        read_budget(tmp_path)


def test_the_speed_is_the_median_without_the_interval_that_holds_the_compilation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 5 * i, "kind": "train", "images_per_second": v} for i, v in enumerate((0.1, 8.0, 16.0, 4.0), 1)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 20, "kind": "evaluation"}]))
    assert seconds_per_step(path, 8) == 1.0
    path.write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(InputError, match="too few"):
        seconds_per_step(path, 8)

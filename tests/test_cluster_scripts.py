"""The scripts and the manifest of experiments/cluster are valid, and what they call exists."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from sgma_jax.commands.train import TrainArguments

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "experiments" / "cluster"
FLAGS = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(TrainArguments)} | {"--data.path"}


def check_command(command: str) -> None:
    """`sgma train PRESET ...` with flags that there are."""
    _, _, arguments = command.partition("sgma train ")
    assert arguments
    flags = set(re.findall(r"(?<=\s)--[a-z.-]+", arguments))
    assert flags <= FLAGS, flags - FLAGS
    assert {"--data.path", "--workdir"} <= flags
    assert "--distributed" in flags or {"--coordinator", "--process", "--processes"} <= flags


@pytest.mark.parametrize("script", sorted(p.name for p in CLUSTER.iterdir() if p.suffix in (".sh", ".sbatch")))
def test_a_script_is_valid_and_calls_what_there_is(script: str) -> None:
    text = (CLUSTER / script).read_text()
    subprocess.run(["bash", "-n", str(CLUSTER / script)], check=True)
    check_command(next(line for line in text.splitlines() if "bin/sgma train" in line))
    for preset in re.findall(r"experiments/\w+\.py", text):
        assert (ROOT / preset).is_file()
    # Without what it needs it says so, and does nothing.
    done = subprocess.run(
        ["bash", str(CLUSTER / script)], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=False
    )
    assert done.returncode != 0
    assert "folder of the converted set" in done.stderr or "name of the slice" in done.stderr


def test_slurm_asks_for_as_many_tasks_as_gpus_and_for_the_signal() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", (CLUSTER / "slurm.sbatch").read_text(), re.M))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"].startswith("TERM@")
    assert {"requeue", "nodes", "time"} <= set(asked)


def test_the_jobset_is_complete_and_its_processes_find_each_other() -> None:
    (manifest,) = yaml.safe_load_all((CLUSTER / "jobset.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    (command,) = container["args"]
    check_command(command)
    name = manifest["metadata"]["name"]
    (port,) = (p["containerPort"] for p in container["ports"])
    # JobSet's names: JOBSET-JOB-REPLICA-INDEX.JOBSET
    assert f"--coordinator {name}-{replicated['name']}-0-0.{name}:{port}" in command
    assert f"--processes {job['completions']} --process $(JOB_COMPLETION_INDEX)" in command
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert (ROOT / command.split("sgma train ")[1].split()[0]).is_file()

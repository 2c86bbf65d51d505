"""scripts/ without a cluster; tests/pipeline/proof/test_nodes.py runs them on one."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny_lm.runner.messages import LOST_PEER, RESUME

ROOT = Path(__file__).parents[1]
STUBS = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
if [ "$1 $2" = "cache dir" ]; then echo cache; fi
if [ "$1" = clone ]; then mkdir -p "$4"; fi
if [ "$1" = repro ]; then exit "$CODE"; fi
if [ "$1 $2" = "show hostnames" ]; then echo a; echo b; fi
if [ "$1" = ahostsv4 ]; then echo "10.0.0.$2 STREAM $2"; fi
"""
Script = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """script(name, *arguments, **environment): its exit code, what it prints, and the commands that it runs."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    for name in ("git", "dvc", "scontrol", "sleep", "ray", "getent", "srun"):
        (tmp_path / name).write_text(STUBS)
        (tmp_path / name).chmod(0o755)

    def run(name: str, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        environment |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "LOG": str(tmp_path / "log")}
        command = ["bash", ROOT / "scripts" / name, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        log = tmp_path / "log"
        return done.returncode, done.stderr, log.read_text().splitlines() if log.exists() else []

    return run


def test_a_task_of_a_sweep_runs_its_settings(script: Script) -> None:
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    code, _, commands = script("sweep.sbatch", "a=1", "b=2 c=3", **task)
    assert code == 0
    assert "dvc exp run --name sweep-7-1 --set-param=b=2 --set-param=c=3" in commands


def test_a_task_without_settings_does_not_run_the_baseline(script: Script) -> None:
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    code, said, commands = script("sweep.sbatch", "a=1", "b=2", **task)
    assert (code, commands) == (1, [])
    assert said == "sweep: no setting for task 2: 2 settings need --array=0-1\n"


@pytest.mark.parametrize(
    ("said", "restarts", "requeued"),
    [
        (f"train: stopped by SIGTERM on a; {RESUME}", None, True),
        (f"train: stopped by SIGTERM on a; {RESUME}", 0, True),
        (f"train: {LOST_PEER}", 2, True),
        (f"train: {LOST_PEER}", 3, False),
        ("ERROR: failed to reproduce 'train': failed to run: sh src/stage.sh train, exited with -9", 0, True),
        ("train: the loss of step 3 is not finite", 0, False),
        ("ERROR: failed to reproduce 'train': failed to run: sh src/stage.sh train, exited with 1", 0, False),
    ],
)
def test_a_job_that_can_resume_requeues_itself_at_most_three_times(
    script: Script, tmp_path: Path, said: str, restarts: int | None, requeued: bool
) -> None:
    (tmp_path / "tiny-lm-7.log").write_text(f"train: step 1\n{said}\nERROR: failed to reproduce 'train'\n")
    environment = {} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)}
    code, _, commands = script("train.sbatch", CODE="1", SLURM_JOB_ID="7", **environment)
    assert code == 1
    assert commands == ["dvc repro", *(["scontrol requeue 7", "sleep 60"] if requeued else [])]


def test_what_a_job_wrote_before_it_was_requeued_does_not_requeue_it_again(script: Script, tmp_path: Path) -> None:
    lines = [f"train: {LOST_PEER}", *("train: step 1",) * 5, "train: the loss of step 3 is not finite"]
    (tmp_path / "tiny-lm-7.log").write_text("\n".join(lines))
    assert script("train.sbatch", CODE="1", SLURM_JOB_ID="7")[2] == ["dvc repro"]


def test_a_job_that_has_succeeded_ends(script: Script, tmp_path: Path) -> None:
    (tmp_path / "tiny-lm-7.log").write_text(f"train: {LOST_PEER}")
    assert script("train.sbatch", CODE="0", SLURM_JOB_ID="7") == (0, "", ["dvc repro"])


def test_slurm_requeues_training_that_loses_a_node_but_not_a_corpus() -> None:
    lines = {name: (ROOT / f"scripts/{name}.sbatch").read_text().splitlines() for name in ("train", "sweep", "data")}
    assert [name for name in lines if "#SBATCH --requeue" in lines[name]] == ["train", "sweep"]
    assert [name for name in lines if "#SBATCH --no-kill" in lines[name]] == ["data"]


def test_the_corpus_is_made_on_all_nodes_of_the_job(script: Script) -> None:
    job = {"SLURM_JOB_NODELIST": "[a-b]", "SLURM_NNODES": "2", "SLURM_CPUS_ON_NODE": "8"}
    code, _, commands = script("data.sbatch", **job)
    assert code == 0
    assert commands[0] == "ray get-auth-token --generate"
    assert commands[-1] == (
        "srun --no-kill --kill-on-bad-exit=0 ray symmetric-run --address 10.0.0.a:6379 --min-nodes 2 --num-cpus 8 "
        "-- dvc repro shards"
    )

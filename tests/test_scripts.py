"""scripts/ without a cluster; tests/pipeline/proof/test_nodes.py runs them on one."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUBS = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
if [ "$1 $2" = "cache dir" ]; then echo cache; fi
if [ "$1" = clone ]; then mkdir -p "$4"; fi
"""


@pytest.fixture
def sweep(tmp_path):
    """sweep(task, *settings) is what the script prints, and the commands that it runs."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    for name in ("git", "dvc"):
        (tmp_path / name).write_text(STUBS)
        (tmp_path / name).chmod(0o755)

    def run(task, *settings):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LOG": str(tmp_path / "log"),
                       "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}  # fmt: skip
        command = ["bash", ROOT / "scripts/sweep.sbatch", *settings]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        log = tmp_path / "log"
        return done.returncode, done.stderr, log.read_text().splitlines() if log.exists() else []

    return run


def test_a_task_of_a_sweep_runs_its_settings(sweep):
    code, _, commands = sweep(1, "a=1", "b=2 c=3")
    assert code == 0
    assert "dvc exp run --name sweep-7-1 --set-param=b=2 --set-param=c=3" in commands


def test_a_task_without_settings_does_not_run_the_baseline(sweep):
    code, said, commands = sweep(2, "a=1", "b=2")
    assert (code, commands) == (1, [])
    assert said == "sweep: no setting for task 2: 2 settings need --array=0-1\n"

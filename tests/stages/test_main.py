"""`sh src/stage.sh NAME` starts a stage with a suitable Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_lm.runner.overrides import SETTINGS

SRC = Path(__file__).parents[2] / "src"

STAGE = """
import runpy, sys, time
import tiny_lm.runner.run
tiny_lm.runner.run.run_stage = lambda *_: None
sys.argv = ["stages", "corpus"]
runpy.run_module("tiny_lm.stages", run_name="__main__")
"""
BAR = """
from tqdm import tqdm
for _ in tqdm(range(40), unit=" documents"):
    time.sleep(0.02)
"""
VARIABLES = """
import os
print(*sorted({"DVCLIVE_RESUME", "LOCAL_RANK", "PL_TRAINER_MAX_STEPS"} & set(os.environ)))
"""


def run(code, **environment):
    kept = {name: value for name, value in os.environ.items() if not SETTINGS.fullmatch(name)}
    return subprocess.run(
        [sys.executable, "-c", STAGE + code], env=kept | environment, capture_output=True, text=True, check=True
    )


def test_a_progress_bar_in_a_file_is_an_occasional_line():
    assert 1 <= run(BAR).stderr.count("documents/s") <= 3  # begin, end, and one every half minute


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A project whose `python` on PATH lacks our packages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "src").symlink_to(SRC)
    program(tmp_path / "bin/python", f'exec {sys.executable} -I -S "$@"')
    return tmp_path


def start(path):
    return subprocess.run(
        ["/bin/sh", "src/stage.sh", "train"], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )


def test_without_a_suitable_python_one_line_shows_the_remedy(workspace):
    program(workspace / "bin/python3", "exit 1")  # too old
    done = start("bin")
    assert (done.returncode, done.stderr.count("\n")) == (127, 1)
    assert done.stderr.startswith("train: no Python 3.11 or later with the packages of this project: run `make setup`")
    assert "`tiny-lm restore train`" in done.stderr


@pytest.mark.parametrize("root", [None, "main"])
def test_the_environment_of_the_project_runs_the_stage_if_python_cannot(workspace, monkeypatch, root):
    if root:
        monkeypatch.setenv("DVC_ROOT", root)  # as in a temporary experiment, which has no environment
    program(workspace / (root or ".") / ".venv/bin/python", 'test "$1" = -c || echo "$PYTHONPATH" "$@"')
    done = start("bin")
    assert (done.stdout, done.stderr) == ("src -m tiny_lm.stages train\n", "")


def test_code_that_cannot_be_imported_is_reported_with_the_command_to_restore(workspace):
    (workspace / "src").unlink()
    package = workspace / "src/tiny_lm"
    shutil.copytree(SRC / "tiny_lm", package)
    shutil.copy(SRC / "stage.sh", workspace / "src")
    (package / "io/params.py").write_text("def typo(:\n")
    command = [sys.executable, "-m", "tiny_lm.stages", "train"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": "src"}, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("train: invalid syntax (params.py, line 1); then run `tiny-lm restore train`")


def test_settings_in_the_environment_are_ignored_and_named():
    done = run(VARIABLES, PL_TRAINER_MAX_STEPS="3", DVCLIVE_RESUME="1", LOCAL_RANK="1")
    assert done.stdout == "\n"
    assert done.stderr == "corpus: ignoring DVCLIVE_RESUME, PL_TRAINER_MAX_STEPS: params.yaml decides\n"

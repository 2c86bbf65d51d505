"""How `sh src/stage.sh NAME` starts a stage, and what happens in an environment that cannot run it."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_lm.runner import environment
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


def test_a_bar_in_a_file_is_a_line_now_and_then():
    assert 1 <= run(BAR).stderr.count("documents/s") <= 3  # begin, end, and one every half minute


@pytest.mark.parametrize("file", ["stages/__main__.py", "runner/environment.py"])
def test_the_first_lines_parse_in_an_old_python_and_need_no_package(file):
    tree = ast.parse((SRC / "tiny_lm" / file).read_text(encoding="utf-8"), feature_version=(3, 7))
    first = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name if isinstance(node, ast.Import) else node.module for node in first for alias in node.names}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "tiny_lm"}
    assert [name for name in names if name.startswith("tiny_lm")] in ([], ["tiny_lm.runner"])


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
    program(tmp_path / "bin/python", f'test "$1" = -c && exit 0\nexec {sys.executable} -I -S -c "$BARE" "$@"')
    bare = "import runpy, sys; sys.path[:0] = ['src']; sys.argv[1:] = sys.argv[3:]; "
    monkeypatch.setenv("BARE", bare + "runpy.run_module('tiny_lm.stages', run_name='__main__')")
    return tmp_path


def start(path):
    return subprocess.run(
        ["sh", "src/stage.sh", "train"], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )


def test_a_python_without_our_packages_is_one_line_that_names_the_remedy(workspace):
    done = start("bin:/usr/bin:/bin")
    assert done.returncode == 1
    assert done.stderr.startswith("train: ")
    assert "does not have the package ruamel: activate the environment (`source .venv/bin/activate`)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("root", [".", "main"])
def test_the_outputs_are_restored_by_the_environments_python(workspace, monkeypatch, root):
    monkeypatch.setenv("DVC_ROOT", root)
    program(workspace / root / ".venv/bin/python", 'echo restored; echo "$@" > restored')
    assert start("bin:/usr/bin:/bin").stderr.endswith(". The previous outputs are restored\n")
    assert Path("restored").read_text().split()[-2:] == ["restore", "train"]


def test_if_python_is_missing_or_python_2_another_one_reports_it(workspace):
    (workspace / "bin/python").rename(workspace / "bin/python3")
    program(workspace / "bin/python", "exit 1")  # Python 2
    for name in ("dirname", "sh"):
        (workspace / "bin" / name).symlink_to(f"/bin/{name}")
    assert "does not have the package ruamel" in start("bin").stderr
    (workspace / "bin/python3").unlink()
    done = start("bin")
    assert (done.returncode, done.stderr.count("\n")) == (127, 1)
    assert done.stderr.startswith("train: there is no Python 3; run `make setup`")


def test_an_old_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version", "3.9.2 (default)")
    assert "is Python 3.9.2, too old: activate the environment" in environment.too_old()


def test_code_that_cannot_be_imported_is_named_and_so_is_the_way_to_restore(workspace):
    (workspace / "src").unlink()
    package = workspace / "src/tiny_lm"
    shutil.copytree(SRC / "tiny_lm", package)
    shutil.copy(SRC / "stage.sh", workspace / "src")
    (package / "io/params.py").write_text("def typo(:\n")
    command = [sys.executable, "-m", "tiny_lm.stages", "train"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": "src"}, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("train: SyntaxError: invalid syntax (params.py, line 1); then run `tiny-lm restore train`")


def test_settings_in_the_environment_are_ignored_and_named():
    done = run(VARIABLES, PL_TRAINER_MAX_STEPS="3", DVCLIVE_RESUME="1", LOCAL_RANK="1")
    assert done.stdout == "\n"
    assert done.stderr == "corpus: ignoring DVCLIVE_RESUME, PL_TRAINER_MAX_STEPS: params.yaml decides\n"

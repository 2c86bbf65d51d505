"""Outputs are restored from DVC's cache or the last commit, and each failure is reported with its cause."""

import errno
import hashlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tiny_lm.runner import restore
from tiny_lm.runner.restore import output_paths, restore_stages

PLAN = {"metrics": [{"one.json": {"cache": False}}, {"two.json": {"cache": False}}]}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in a folder of a larger Git repository, with two metrics in the last commit and none in DVC's cache."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    folder = tmp_path / "repository/projects/lm"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    outs = []
    for path in output_paths(PLAN):
        Path(path).write_text(path)
        outs.append({"path": path, "md5": hashlib.md5(path.encode()).hexdigest()})
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"work": {"outs": outs}}}))
    for command in ("init -q ../..", "add -A", "commit -qm x"):
        git(*command.split())
    monkeypatch.setattr(restore, "dvc", lambda *_: "cache\n")
    for path in output_paths(PLAN):
        Path(path).unlink()
    return folder


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments], check=True)


def put_into_cache(path):
    digest = hashlib.md5(path.encode()).hexdigest()
    file = Path("cache/files/md5", digest[:2], digest[2:])
    file.parent.mkdir(parents=True)
    file.write_text(path)


def test_metrics_come_from_the_last_commit_in_a_folder_of_a_repository(project):
    assert restore_stages({"work": PLAN}) == (["one.json", "two.json"], [])
    assert Path("two.json").read_text() == "two.json"


def test_what_a_killed_run_had_begun_to_write_is_removed(project):
    Path("one.json.tmp").write_text("half")
    Path("two.json.tmp").mkdir()
    Path("three.json.tmp").write_text("of somebody else")
    restore_stages({"work": PLAN})
    assert [path.name for path in Path().glob("*.tmp")] == ["three.json.tmp"]


def test_metrics_of_another_run_are_not_taken_from_the_commit(project):
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(lock.replace(hashlib.md5(b"one.json").hexdigest(), "f" * 32))
    restored, (failure,) = restore_stages({"work": PLAN})
    assert restored == ["two.json"]  # which is the same in both runs
    assert failure.startswith("one.json: neither in DVC's cache nor in the last commit; `dvc exp apply`")


def test_a_repository_of_another_user_is_reported_as_the_cause(project, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    put_into_cache("one.json")
    restored, (failure,) = restore_stages({"work": PLAN})
    assert restored == ["one.json"]
    assert failure.startswith("two.json: not in DVC's cache, and `git show HEAD:./dvc.lock` failed: fatal: detected")
    assert "safe.directory" in failure


def test_an_io_error_is_reported_and_does_not_stop_other_outputs(project, monkeypatch):
    put_into_cache("one.json")
    put_into_cache("two.json")
    original = restore.file_md5

    def fail(file):
        if file.read_text() == "one.json":
            raise OSError(errno.EIO, "Input/output error", str(file))
        return original(file)

    monkeypatch.setattr(restore, "file_md5", fail)
    restored, (failure,) = restore_stages({"work": PLAN})
    assert restored == ["two.json"]
    assert failure.startswith("one.json: [Errno 5] Input/output error: 'cache/files/md5/")


def test_a_damaged_object_is_deleted_even_if_the_terminal_is_closed(project, monkeypatch):
    put_into_cache("one.json")
    (damaged,) = Path("cache").rglob("*/md5/*/*")
    damaged.write_text("damaged")

    master, slave = pty.openpty()
    os.close(master)
    with os.fdopen(slave, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        assert restore_stages({"work": PLAN}) == (["one.json", "two.json"], [])  # from the commit
    assert not damaged.exists()


def test_a_stage_of_the_second_pipeline_is_restored_from_its_own_lock_file(project):
    """Paths in tasks/dvc.lock are relative to the root, like those in dvc.lock."""
    Path("tasks").mkdir()
    Path("dvc.lock").rename("tasks/dvc.lock")
    git("add", "tasks")
    git("commit", "-qm", "y")
    assert restore_stages({"work": PLAN}) == (["one.json", "two.json"], [])
    lock = Path("tasks/dvc.lock").read_text()
    Path("tasks/dvc.lock").write_text(lock.replace("one.json", "three.json"))
    restored, (failure,) = restore_stages({"work": PLAN})
    assert restored == ["two.json"]
    assert failure == "tasks/dvc.lock: three.json is no output of work in tasks/dvc.yaml"


def test_a_stage_that_has_never_succeeded_gets_the_metrics_of_the_commit(project):
    Path("dvc.lock").unlink()
    git("rm", "-q", "--cached", "two.json")
    git("commit", "-qm", "y")
    assert restore_stages({"work": PLAN}) == (["one.json"], [])
    assert Path("one.json").read_text() == "one.json"
    assert not Path("two.json").exists()

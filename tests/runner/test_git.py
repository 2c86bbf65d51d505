"""Git's failures are reported in its own words, and the limits of experiments are found."""

import subprocess
from pathlib import Path

import pytest

from tiny_lm.runner.git import git, is_shallow, limits_of_experiments, require_full_history


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    run("git", "init", "-q", "project")
    monkeypatch.chdir("project")
    commit("one")
    commit("two")
    return tmp_path / "project"


def run(*command):
    subprocess.run(command, check=True)


def commit(name):
    run("git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", name)


def test_a_repository_of_another_user_is_reported(repository, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(ValueError, match=r"failed: fatal: detected dubious ownership .* safe.directory"):
        git("ls-tree", "HEAD")


def test_a_missing_repository_or_git_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ValueError, match="not a git repository"):
        git("ls-tree", "HEAD", folder=tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="git is not installed"):
        git("ls-tree", "HEAD", folder=tmp_path)


def test_a_temporary_experiment_of_a_shallow_clone_is_refused(repository, tmp_path, monkeypatch):
    run("git", "clone", "-q", "--depth", "1", f"file://{repository}", str(tmp_path / "shallow"))
    require_full_history(Path("."))
    require_full_history(repository)
    shallow = tmp_path / "shallow"
    (shallow / ".dvc/tmp/exps/x").mkdir(parents=True)
    monkeypatch.chdir(shallow)
    require_full_history(shallow)  # a plain `dvc repro` or `dvc exp run` loses nothing
    monkeypatch.chdir(".dvc/tmp/exps/x")
    with pytest.raises(ValueError, match="a shallow clone, .* run `git fetch --unshallow`"):
        require_full_history(shallow)
    run("git", "-C", str(shallow), "fetch", "-q", "--unshallow")
    require_full_history(shallow)


def test_limits_of_experiments_are_known_before_one_runs(repository, tmp_path, monkeypatch):
    assert limits_of_experiments() == []
    run("git", "config", "user.name", "José")
    (limit,) = limits_of_experiments()
    assert limit.startswith(".git/config contains 'name = José', which is not ASCII")
    run("git", "config", "--unset", "user.name")
    Path(".dvc").mkdir()
    Path(".dvc/config.local").write_text("[cache]\n    dir = /tmp/é\n")
    (limit,) = limits_of_experiments()
    assert limit.startswith(".dvc/config.local contains 'dir = /tmp/é'")

    run("git", "clone", "-q", "--depth", "1", f"file://{repository}", str(tmp_path / "día"))
    monkeypatch.chdir(tmp_path / "día")
    assert is_shallow(Path("."))
    shallow, cache = limits_of_experiments()
    assert "`git fetch --unshallow`" in shallow
    assert "día/.dvc/cache is not ASCII: rename the folder, or run `dvc cache dir --local FOLDER`" in cache
    Path(".dvc").mkdir()
    Path(".dvc/config.local").write_text("[cache]\n    dir = /tmp/cache\n")
    assert len(limits_of_experiments()) == 1


def test_branches_and_filters_that_dvc_cannot_handle_and_failures_of_git(repository, monkeypatch):
    run("git", "config", "branch.naïve.remote", "origin")
    run("git", "config", "remote.origin.promisor", "true")
    partial, branch = limits_of_experiments()
    assert partial == "this is a partial clone: clone again without --filter"
    assert branch.startswith(".git/config contains '[branch \"naïve\"]', which is not ASCII")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    (limit,) = limits_of_experiments()
    assert "detected dubious ownership" in limit


def test_variables_of_a_git_hook_are_ignored(repository, tmp_path, monkeypatch):
    Path("folder").mkdir()
    monkeypatch.chdir("folder")
    monkeypatch.setenv("GIT_DIR", ".git")  # relative to where the hook runs
    assert git("rev-parse", "--show-toplevel").strip() == str(repository)

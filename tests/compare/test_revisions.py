"""Reading revisions, and errors. tests/tools/test_compare.py reads real commits and experiments."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.cli import main as dvc

from tiny_lm.compare.revisions import MissingFile, Revision


def git(*arguments):
    subprocess.run(["git", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def monorepo(tmp_path_factory):
    """A Git repository with a project in projects/lm that has an output in DVC's cache."""
    root = tmp_path_factory.mktemp("monorepo")
    (root / "projects/lm").mkdir(parents=True)
    with contextlib.chdir(root / "projects/lm"):
        git("init", "-q", str(root))
        git("config", "user.email", "a@b.c")
        git("config", "user.name", "a")
        assert dvc(["init", "-q", "--subdir"]) == 0
        assert dvc(["stage", "add", "-q", "-n", "make", "-o", "made.txt", "echo hello > made.txt"]) == 0
        assert dvc(["repro", "-q"]) == 0
        git("add", ".")
        git("commit", "-qm", "made")
    return root


@pytest.fixture
def project(monorepo, tmp_path, monkeypatch):
    """The current folder, in a copy that the test may change."""
    shutil.copytree(monorepo, tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy/projects/lm")
    return Path.cwd()


@pytest.mark.parametrize("name", ["workspace", "HEAD"])
def test_a_project_can_be_a_subfolder_of_a_git_repository(project, name):
    Path("made.txt").unlink()
    revision = Revision(name)
    assert list(revision.stages()) == ["make"]
    assert revision.read("made.txt", "") == "hello\n"  # from the cache
    with pytest.raises(MissingFile, match=rf"^{name}: other.txt is missing; run something$"):
        revision.read("other.txt", "is missing; run something")


def test_an_output_that_is_not_in_the_cache_is_missing(project):
    for file in Path(".dvc/cache").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(MissingFile, match=r"^HEAD: made.txt is not in the cache$"):
        Revision("HEAD").read("made.txt", "is not in the cache")


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "dvc.lock"), "HEAD: dvc.lock: .*Permission denied: 'dvc.lock'"),
        (chained(Exception("no folder"), ConnectionRefusedError(111, "refused")), "HEAD: dvc.lock: .*refused"),
        (RuntimeError("Unable to locate\ncredentials"), "HEAD: dvc.lock: Unable to locate credentials"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "HEAD: dvc.lock: 'utf-8' codec can't"),
    ],
)
def test_other_errors_keep_their_message(project, monkeypatch, error, message):
    revision = Revision("HEAD")

    def fail(path):
        raise error

    monkeypatch.setattr(revision, "_files", type("Files", (), {"read_bytes": staticmethod(fail)}))
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        revision.stages()
    assert not isinstance(raised.value, MissingFile)
    assert "\n" not in str(raised.value)


def test_without_git_only_the_workspace_can_be_read(project):
    (project.parents[1] / ".git").rename(project.parents[1] / "no-git")
    assert list(Revision("workspace").stages()) == ["make"]
    with pytest.raises(ValueError, match="not a git repository"):
        Revision("HEAD")


def test_a_damaged_lock_file_is_not_reported_as_missing(project):
    Path("dvc.lock").write_text("stages: [")
    with pytest.raises(ValueError, match=r"^workspace: dvc.lock is damaged; `git checkout dvc.lock` restores it$"):
        Revision("workspace").stages()

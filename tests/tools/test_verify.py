"""What `tiny-lm verify` says of a rebuild that differs; tests/pipeline has a real rebuild."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tiny_lm.tools import verify

FILES = ("data/words.txt", "models/checkpoint/model.safetensors", "models/checkpoint/config.json",
         "results/train/hardware/metrics.json")  # fmt: skip


def write(folder, words="one\ntwo\n", weight=1.0, seconds=1):
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / FILES[0]).write_text(words)
    save_file({"a": np.zeros(3, np.float32), "b": np.full(3, weight, np.float32)}, folder / FILES[1])
    (folder / FILES[2]).write_text(json.dumps({"model": {"d_model": weight}, "step": 1}))
    (folder / FILES[3]).write_text(json.dumps({"seconds": seconds}))
    outs = []
    for path in ("data/words.txt", "models/checkpoint", FILES[3]):
        files = [folder / path] if (folder / path).is_file() else sorted((folder / path).iterdir())
        outs.append({"path": path, "md5": hashlib.md5(b"".join(file.read_bytes() for file in files)).hexdigest()})
    stages = {"stages": {"all": {"deps": [{"path": "data/raw"}], "outs": outs}}}
    (folder / "dvc.lock").write_text(json.dumps(stages))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["dvc", "init", "-q"], check=True)
    (tmp_path / ".gitignore").write_text("data\nmodels\nresults\n.work\n")
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/text.txt").write_text("mine")
    write(tmp_path)
    monkeypatch.setattr(verify, "build", write)
    return monkeypatch


def test_the_same_bytes_are_identical_and_nothing_is_left_behind(workspace, capsys):
    verify.main([])
    assert capsys.readouterr().out.split() == [
        "identical", "data/words.txt", "identical", "models/checkpoint", "identical", FILES[3],
    ]  # fmt: skip
    assert not Path(".work/verify").exists()


def test_the_rebuild_sees_data_that_no_stage_makes_and_edits_that_are_not_committed(workspace):
    Path("edited.py").write_text("new")

    def build(folder):
        assert (folder / "data/raw/text.txt").read_text() == "mine"
        assert (folder / "edited.py").read_text() == "new"
        assert not (folder / "models").exists()
        assert (folder / ".dvc/config.local").read_text().count(".dvc/cache") == 0  # relative to .dvc
        write(folder)

    workspace.setattr(verify, "build", build)
    verify.main([])


def test_time_and_machine_may_differ(workspace, capsys):
    workspace.setattr(verify, "build", lambda folder: write(folder, seconds=2))
    verify.main([])
    assert f"may differ  {FILES[3]} (records time and machine)" in capsys.readouterr().out


def test_what_differs_is_said_file_by_file_and_the_rebuild_stays(workspace, capsys):
    workspace.setattr(verify, "build", lambda folder: write(folder, words="one\ntoo, more\n", weight=1.5))
    with pytest.raises(ValueError, match="2 of 3 artifacts differ; the rebuild is in .work/verify"):
        verify.main([])
    output = capsys.readouterr().out
    assert "data/words.txt: 8 vs. 14 bytes; the first difference is at byte 5, in line 2" in output
    assert "model.safetensors: 1 of 2 tensors differ, by up to 0.5 (b)" in output
    assert "config.json: model.d_model: 1.0 → 1.5" in output
    assert Path(".work/verify/models/checkpoint").exists()


def test_scripts_get_json(workspace, capsys):
    workspace.setattr(verify, "build", lambda folder: write(folder, words="x"))
    with pytest.raises(ValueError, match="1 of 3"):
        verify.main(["--json"])
    result = json.loads(capsys.readouterr().out)
    assert {path: found["state"] for path, found in result.items()} == {
        "data/words.txt": "differs", "models/checkpoint": "identical", FILES[3]: "identical",
    }  # fmt: skip


def test_an_artifact_that_is_not_here_says_how_to_get_it(workspace, capsys):
    workspace.setattr(verify, "build", lambda folder: write(folder, weight=2))
    shutil.rmtree("models")
    with pytest.raises(ValueError, match="1 of 3"):
        verify.main([])
    assert (
        "models/checkpoint is missing in the workspace, so there is nothing to compare; `dvc checkout`"
        in capsys.readouterr().out
    )


def test_nothing_recorded_and_a_build_that_fails_are_one_line(workspace):
    def fails(folder):
        verify.git("no-such-command", folder=folder)

    workspace.setattr(verify, "build", fails)
    with pytest.raises(ValueError, match=r"`git no-such-command` failed in .work/verify: git: 'no-such-com"):
        verify.main([])
    Path("dvc.lock").unlink()
    with pytest.raises(ValueError, match="dvc.lock is missing, so there is nothing to compare with; run `dvc repro`"):
        verify.main([])


@pytest.mark.parametrize("kind", ["file", "folder", "absolute", "symlink"])
def test_data_outside_of_the_project_is_found_and_nothing_is_written_there(kind, tmp_path, workspace):
    project, texts = tmp_path / "a/b/project", tmp_path / "texts"
    project.mkdir(parents=True)
    texts.mkdir()
    (texts / "book.txt").write_text("a book")
    workspace.chdir(project)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["dvc", "init", "-q"], check=True)
    (project / ".gitignore").write_text("data\nmodels\nresults\n.work\n")
    write(project)
    path = {"file": "../../../texts/book.txt", "folder": "../../../texts", "absolute": str(texts / "book.txt"),
            "symlink": "data/link/book.txt"}[kind]  # fmt: skip
    (project / "data/link").symlink_to(texts)
    lock = Path("dvc.lock")
    lock.write_text(lock.read_text().replace("data/raw", path))
    before = sorted(tmp_path.rglob("*"))

    def build(tree):
        assert tree.resolve().is_relative_to(project / ".work/verify")
        book = tree / path / "book.txt" if kind == "folder" else tree / path
        assert book.read_text() == "a book"
        write(tree)

    workspace.setattr(verify, "build", build)
    verify.main([])
    assert not Path(".work/verify").exists()
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".work"] == before

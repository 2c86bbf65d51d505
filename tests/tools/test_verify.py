"""`tiny-lm verify` with made-up rebuilds; tests/pipeline has a real one."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from tiny_lm.runner.git import dvc
from tiny_lm.tools import verify

FILES = ("data/words.txt", "models/checkpoint/model.safetensors", "models/checkpoint/config.json",
         "results/train/hardware/metrics.json")  # fmt: skip


def write(folder, words="one\ntwo\n", weight=1.0, seconds=1, data="data/raw"):
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
    stages = {"stages": {"all": {"deps": [{"path": data}], "outs": outs}}}
    (folder / "dvc.lock").write_text(json.dumps(stages))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    Path(".dvc").mkdir()
    Path(".dvc/config").touch()  # as `dvc init` leaves it
    (tmp_path / ".gitignore").write_text("data\nmodels\nresults\n.work\n")
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/text.txt").write_text("mine")
    write(tmp_path)
    monkeypatch.setattr(verify, "build", write)
    monkeypatch.setattr(verify, "dvc", lambda *arguments, folder: None)  # a process, which only sets the cache's path
    return monkeypatch


def test_equal_bytes_are_identical_and_the_rebuild_is_deleted(workspace, capsys):
    verify.main([])
    assert capsys.readouterr().out.split() == [
        "identical", "data/words.txt", "identical", "models/checkpoint", "identical", FILES[3],
    ]  # fmt: skip
    assert not Path(".work/verify").exists()


def test_the_rebuild_has_raw_data_and_uncommitted_changes(workspace):
    Path("edited.py").write_text("new")
    workspace.setattr(verify, "dvc", dvc)

    def build(folder):
        assert (folder / "data/raw/text.txt").read_text() == "mine"
        assert (folder / "edited.py").read_text() == "new"
        assert not (folder / "models").exists()
        assert (folder / ".dvc/config.local").read_text().count(".dvc/cache") == 0  # relative to .dvc
        write(folder)

    workspace.setattr(verify, "build", build)
    verify.main([])


@pytest.mark.parametrize(
    "data",
    ["../texts", "../../up/texts/book.txt", "ABSOLUTE", f"{'../' * 20}ABSOLUTE", "data/link/book.txt", "../lm/mine"],
)
def test_the_rebuild_finds_data_outside_of_the_folder_and_does_not_write_there(tmp_path, monkeypatch, data):
    here = tmp_path / "up/lm"
    for folder in ("texts", "lm/mine", "lm/data", "lm/.work"):
        (tmp_path / "up" / folder).mkdir(parents=True)
    for folder in ("up/texts", "up/lm/mine"):
        (tmp_path / folder / "book.txt").write_text("mine")
    (here / "data/link").symlink_to(tmp_path / "up/texts")
    monkeypatch.chdir(here)
    monkeypatch.setattr(verify, "dvc", lambda *arguments, folder: None)
    subprocess.run(["git", "init", "-q"], check=True)
    Path(".gitignore").write_text("/data\n/models\n/results\n/.work\n")
    data = data.replace("ABSOLUTE", str(tmp_path / "up/texts")).replace("//", "/")
    write(here, data=data)

    def files():
        return {path for path in tmp_path.rglob("*") if not path.is_relative_to(here / ".work/verify")}

    before = files()

    def build(tree):
        path = tree / Path(data)  # as a stage opens it
        file = path if path.name == "book.txt" else path / "book.txt"
        assert file.read_text() == "mine"
        write(tree, data=data)

    monkeypatch.setattr(verify, "build", build)
    verify.main([])
    assert files() == before
    assert not Path(".work/verify").exists()


def test_a_scratch_folder_that_is_a_link_is_refused(workspace, tmp_path):
    (tmp_path / ".work").mkdir()
    (tmp_path / "other").mkdir()
    Path(".work/verify").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match=r"^.work/verify is a link, and verify deletes its content"):
        verify.main([])


def test_time_and_machine_may_differ(workspace, capsys):
    workspace.setattr(verify, "build", lambda folder: write(folder, seconds=2))
    verify.main([])
    assert f"may differ  {FILES[3]} (records time and machine)" in capsys.readouterr().out


def test_differences_are_shown_per_file_and_the_rebuild_is_kept(workspace, capsys):
    workspace.setattr(verify, "build", lambda folder: write(folder, words="one\ntoo, more\n", weight=1.5))
    with pytest.raises(ValueError, match="2 of 3 artifacts differ; the rebuild is in .work/verify"):
        verify.main([])
    output = capsys.readouterr().out
    assert "data/words.txt: 8 vs. 14 bytes; the first difference is at byte 5, in line 2" in output
    assert "model.safetensors: 1 of 2 tensors differ, by up to 0.5 (b)" in output
    assert "config.json: model.d_model: 1.0 → 1.5" in output
    assert Path(".work/verify/models/checkpoint").exists()


def test_tensors_of_16_bits_are_compared(workspace, capsys):
    def rounded(folder, weight=1.0):
        write(folder, weight=weight)
        values = {"a": torch.zeros(3), "b": torch.full((3,), weight)}
        save_tensors({name: tensor.bfloat16() for name, tensor in values.items()}, folder / FILES[1])

    rounded(Path())
    workspace.setattr(verify, "build", lambda folder: rounded(folder, weight=1.5))
    with pytest.raises(ValueError, match="1 of 3 artifacts differ"):
        verify.main([])
    assert "model.safetensors: 1 of 2 tensors differ, by up to 0.5 (b)" in capsys.readouterr().out


def test_json_output(workspace, capsys):
    workspace.setattr(verify, "build", lambda folder: write(folder, words="x"))
    with pytest.raises(ValueError, match="1 of 3"):
        verify.main(["--json"])
    result = json.loads(capsys.readouterr().out)
    assert {path: found["state"] for path, found in result.items()} == {
        "data/words.txt": "differs", "models/checkpoint": "identical", FILES[3]: "identical",
    }  # fmt: skip


def test_a_missing_artifact_is_reported_with_the_remedy(workspace, capsys):
    workspace.setattr(verify, "build", lambda folder: write(folder, weight=2))
    shutil.rmtree("models")
    with pytest.raises(ValueError, match="1 of 3"):
        verify.main([])
    assert (
        "models/checkpoint is missing in the workspace, so there is nothing to compare; `dvc checkout`"
        in capsys.readouterr().out
    )


def test_a_failed_build_and_a_missing_dvc_lock_are_one_line(workspace):
    def fails(folder):
        verify.git("no-such-command", folder=folder)

    workspace.setattr(verify, "build", fails)
    with pytest.raises(ValueError, match=r"`git no-such-command` failed in .work/verify: git: 'no-such-com"):
        verify.main([])
    Path("dvc.lock").unlink()
    with pytest.raises(ValueError, match="dvc.lock is missing, so there is nothing to compare with; run `dvc repro`"):
        verify.main([])

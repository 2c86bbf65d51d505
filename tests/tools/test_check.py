"""`tiny-lm check`: which outputs it reads and reports. Damage is in tests/trust/test_damage.py."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
import yaml

from tiny_lm.runner.dvc_lock import list_folder, list_md5, recorded_outputs
from tiny_lm.runner.inputs import check_paths
from tiny_lm.tools.check import main


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """A folder and a file as outputs, and data that no stage writes."""
    monkeypatch.chdir(tmp_path)
    for path in ("data/raw/text.txt", "models/checkpoint/deep/weights", "results/scores.json"):
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text(path)
    folder = list_md5(list_folder(Path("models/checkpoint")))
    file = hashlib.md5(b"results/scores.json").hexdigest()
    outs = [{"path": "models/checkpoint", "md5": folder}, {"path": "results/scores.json", "md5": file}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"make": {"outs": outs}}}))
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": {"outs": [out["path"] for out in outs]}}}))
    return tmp_path


PATHS = ["models/checkpoint", "models/checkpoint/", "./models/checkpoint", "models/../models/checkpoint",
             "models/checkpoint/deep/weights", "models/checkpoint/deep", "{here}/models/checkpoint"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_an_output_is_checked_however_its_path_is_typed(path, workspace, capsys):
    path = path.format(here=workspace)
    main([path])
    assert capsys.readouterr().out == "1 output matches dvc.lock: models/checkpoint\n"
    Path("models/checkpoint/deep/weights").write_text("damaged")
    with pytest.raises(
        ValueError, match=r"^models/checkpoint: not what dvc.lock records; `tiny-lm restore [a-z]+` restores it"
    ):
        main([path])


def test_an_output_that_is_a_link_into_the_cache_is_found_by_its_own_path(capsys):
    os.rename("results/scores.json", "cached")
    Path("results/scores.json").symlink_to("../cached")
    main(["./results/scores.json", "results/scores.json", "models/checkpoint"])
    assert capsys.readouterr().out == "2 outputs match dvc.lock: models/checkpoint, results/scores.json\n"


@pytest.mark.parametrize("path", ["nope", "models", "data/raw", "models/checkpoint2", "..", ""])
def test_a_path_outside_of_all_outputs_is_refused_with_a_list_of_outputs(path, capsys):
    with pytest.raises(ValueError, match=r"not an output in dvc.lock; the outputs are models/checkpoint, results/sco"):
        main(["models/checkpoint", path])
    assert capsys.readouterr().out == ""
    Path("dvc.lock").unlink()
    with pytest.raises(ValueError, match=r"not an output in dvc.lock; there are none yet; run `dvc repro`"):
        main([path])


def check(*paths):
    check_paths([Path(path) for path in paths], recorded_outputs(Path("dvc.lock")))


def test_paths_that_dvc_lock_does_not_record_are_skipped():
    check("data/raw", "data/shards", "results/scores.json")
    Path("results/scores.json").write_text("damaged")
    check("data/raw")  # only the given outputs are checked
    check()
    with pytest.raises(ValueError, match=r"^results/scores.json: not what dvc.lock records"):
        check("data/raw", "results/scores.json")


def test_a_file_system_error_is_reported_as_such(monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match="Input/output error: 'models/checkpoint'"):
        check("models/checkpoint")

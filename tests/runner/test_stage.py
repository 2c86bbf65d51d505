import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tiny_lm.io.params import parse_yaml, read_yaml
from tiny_lm.runner import stage as stage_module
from tiny_lm.runner.stage import Stage


def work():
    return Stage("work", read_yaml(Path("dvc.yaml"))["stages"]["work"])


def test_a_stage_gets_its_sections_and_no_others(workspace):
    assert set(work().values) == {"alpha"}
    with pytest.raises(AssertionError, match="which dvc.yaml does not list"):
        work().section("beta", object)


def test_zero_workers_means_all_cores(workspace):
    assert work().runtime.workers == 3
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("workers: 3", "workers: 0"))
    assert work().runtime.workers == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("address", ["auto", "head:6379", None])
def test_the_executor_is_ray_at_the_address(workspace, monkeypatch, address):
    calls = []
    tasks = SimpleNamespace(close=lambda: calls.append("close"))
    monkeypatch.setattr(stage_module, "RayTasks", lambda address: calls.append(address) or tasks)
    text = Path("params.yaml").read_text()
    setting = json.dumps(address)  # JSON is YAML
    Path("params.yaml").write_text(text.replace("runtime: {", f"runtime: {{executor: ray, address: {setting}, "))
    with work().executor() as executor:
        assert executor is tasks
    assert calls == [address, "close"]


def test_a_file_that_an_editor_is_writing_does_not_stop_a_run(workspace, capfd):
    stage, text = work(), Path("params.yaml").read_text()
    stage.warn_of_changes()
    Path("params.yaml").write_text("alpha: [")  # an editor is not done
    stage.warn_of_changes()
    Path("params.yaml").unlink()
    stage.warn_of_changes()
    assert capfd.readouterr().err == ""
    Path("params.yaml").write_text(text.replace("x: 1", "x: 2"))
    stage.warn_of_changes()
    assert capfd.readouterr().err.startswith("work: changed during the run: alpha.x; undo that")


def test_params_are_read_once_so_the_stage_gets_what_is_recorded(workspace, monkeypatch):
    """params.yaml is read once at the start: an edit right then would be in one of two readings."""
    plan = read_yaml(Path("dvc.yaml"))["stages"]["work"]
    texts = iter([Path("params.yaml").read_text(), Path("params.yaml").read_text().replace("x: 1", "x: 2")])
    monkeypatch.setattr(stage_module, "read_yaml", lambda path: parse_yaml(next(texts), path))
    stage = Stage("work", plan)
    assert stage.values["alpha"]["x"] == 1
    assert stage.changes() == ["alpha.x"]


def test_data_under_src_is_data(workspace):
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("path: data", "path: src/tiny_lm/model"))
    stage = work()
    assert stage.code == [Path("src/tiny_lm/io/params.py")]
    assert stage.data == [Path("src/tiny_lm/model")]
    assert stage.changes() == []


def test_the_work_folder_belongs_to_params_code_and_data(workspace):
    def name():
        return work().work_folder().name

    first = name()
    assert name() == first
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("y: 2", "y: 9"))
    assert name() == first  # not a section of this stage
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("x: 1", "x: 1.0"))
    assert name() == first  # a whole number, as for DVC
    os.utime("data/a.txt", (1, 1))
    assert name() == first  # a checkout changes times, not content
    Path("data/a.txt").write_text("b")
    assert name() != first
    second = name()
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("x: 1.0", "x: 9"))
    assert name() not in (first, second)

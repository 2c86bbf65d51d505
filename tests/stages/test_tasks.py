"""The tasks stage, without the harness: what it asks for and what it writes."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from tiny_lm.runner.stage import Stage
from tiny_lm.stages import tasks
from tiny_lm.tasks.harness import Score

SCORES = [Score("blimp", "acc", 0.5, 0.25, 67), Score("one", "acc_norm", 1.0, None, 1)]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`run(KEY=VALUE, …)`: (what the harness is asked for, what the stage says)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".work").mkdir()
    threads = torch.get_num_threads()

    def run(**params):
        Path("params.yaml").write_text(yaml.safe_dump({"tasks": params, "runtime": {"progress": False}}))
        asked = []
        monkeypatch.setattr(tasks, "run_tasks", lambda *args, **kw: (asked.extend([*args, kw]), (SCORES, {"a": 1}))[1])
        tasks.main(Stage("tasks", {"params": ["tasks"], "deps": []}))
        return asked, capsys.readouterr().err

    yield run
    torch.set_num_threads(threads)


def test_metrics_have_the_score_its_error_and_the_number_of_questions(run):
    _, said = run()
    metrics = json.loads(Path("results/tasks/metrics.json").read_text())
    assert metrics == {"blimp": {"acc": 0.5, "stderr": 0.25, "n": 67}, "one": {"acc_norm": 1.0, "n": 1}}
    assert json.loads(Path(".work/tasks.json").read_text()) == {"a": 1}
    assert said.splitlines()[:2] == [
        "tasks: blimp: acc 0.5000 ± 0.2500, 67 questions",
        "tasks: one: acc_norm 1.0000, 1 question",
    ]


def test_the_device_is_that_of_the_params(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert run(accelerator="auto")[0][3] == run(accelerator="cuda")[0][3] == "cuda"
    assert run(accelerator="cpu")[0][3] == "cpu"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert run(accelerator="auto")[0][3] == "cpu"
    with pytest.raises(ValueError, match=r"^tasks.accelerator = 'cuda': must be auto or cpu: there is no CUDA device"):
        run(accelerator="cuda")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_that_of_the_params(run, threads):
    run(threads=threads)
    assert torch.get_num_threads() == threads


def test_the_harness_gets_the_params_and_whether_to_draw_bars(run):
    asked, _ = run(names=["blimp"], limit=3, batch_size=5)
    assert (asked[2].names, asked[2].limit, asked[2].batch_size, asked[4]) == (("blimp",), 3, 5, {"progress": False})

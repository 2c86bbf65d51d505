"""The second pipeline, tasks/dvc.yaml, with a stand-in for the harness; tests/tasks/test_harness.py has the harness."""

import json

from pipeline.test_experiments import readable_table, rows

METRICS = "results/tasks/metrics.json"
HARNESS = {
    "__init__.py": """
def simple_evaluate(tasks, limit, **_):
    score = {"acc,none": 0.25, "acc_stderr,none": 0.0625, "sample_len": limit or 48}
    return {"results": {task.task_name: score for task in tasks}}
""",
    "tasks.py": """
from types import SimpleNamespace

class TaskManager:
    all_tasks = ["one", "two", "unreachable"]

    def __init__(self, include_path):
        self.included = include_path

    def load(self, names):
        if names == ["unreachable"]:
            raise ConnectionError("Couldn't reach 'owner/data' on the Hub")
        return {"tasks": {name: SimpleNamespace(task_name=name) for name in names}, "groups": {}}
""",
}


def with_harness(repository, files=HARNESS):
    (repository.path / "src/lm_eval").mkdir()  # before all that is installed
    for name, text in files.items():
        (repository.path / "src/lm_eval" / name).write_text(text)
    repository.preset("tasks.names=[one]")
    repository.git("add", "-A")
    repository.git("commit", "-qm", "a harness")
    return repository


def said_by_the_stage(output):
    return [line for line in output.splitlines() if line.startswith("tasks: ")]


def test_the_tasks_run_on_the_exported_model_and_only_if_asked_for(repository):
    repository = with_harness(repository)
    assert repository.ran(repository.dvc("repro")) == []
    assert "failed" not in repository.dvc("metrics", "show")

    output = repository.dvc("repro", "tasks/dvc.yaml")
    assert output.count("Running stage") == output.count("Running stage 'tasks/dvc.yaml:tasks'") == 1
    assert "tasks: one: acc 0.2500 ± 0.0625, 48 questions" in said_by_the_stage(output)
    assert json.loads((repository.path / METRICS).read_text()) == {"one": {"acc": 0.25, "stderr": 0.0625, "n": 48}}
    assert repository.json("dvc", "metrics", "show", "--json", METRICS)[""]["data"][METRICS]["data"]["one"]["n"] == 48
    assert "Running" not in repository.dvc("repro", "tasks/dvc.yaml")
    repository.git("add", "-A")
    repository.git("commit", "-qm", "tasks")

    # As an experiment, which rebuilds the model first if it must.
    few = ("-S", "tasks.names=[one,two]", "-S", "tasks.limit=3")
    output = repository.dvc("exp", "run", "--name", "few", *few, "tasks/dvc.yaml")
    assert output.count("Running stage") == 1
    output = repository.dvc("exp", "run", "--name", "half", "-S", "export.dtype=float16", "tasks/dvc.yaml")
    assert repository.ran(output) == ["export", "tasks/dvc.yaml:tasks"]
    table = rows(repository)
    assert [table[name]["one.n"] for name in ("main", "few", "half")] == ["48", "3", "3"]
    assert [table[name]["two.acc"] for name in ("main", "few")] == ["", "0.25"]
    shown = readable_table(repository)
    assert "two.acc" in shown
    assert ".stderr" not in shown
    assert "…" not in shown


def test_a_task_whose_data_is_out_of_reach_keeps_the_previous_metrics(repository):
    repository = with_harness(repository)
    repository.dvc("repro", "tasks/dvc.yaml")  # not committed
    before = repository.hashes()
    repository.preset("tasks.names=[one,unreachable]")
    (line,) = said_by_the_stage(repository.fails("dvc", "repro", "tasks/dvc.yaml"))
    assert line == (
        "tasks: tasks.names: unreachable: its data could not be loaded: ConnectionError: "
        "Couldn't reach 'owner/data' on the Hub. The previous outputs are restored"
    )
    assert repository.hashes() == before

    repository.preset("tasks.names=[ones]")
    (line,) = said_by_the_stage(repository.fails("dvc", "repro", "tasks/dvc.yaml"))
    assert "no such task, group or tag in lm-evaluation-harness; similar: one." in line
    repository.edit("params.yaml", "  limit: null", "  limit: 0")
    assert "tasks.limit = 0: must be" in repository.fails("dvc", "repro", "tasks/dvc.yaml")
    assert repository.hashes() == before

    (repository.path / METRICS).unlink()
    assert METRICS in repository.tiny_lm("restore", "tasks")
    assert repository.hashes() == before
    count = int(repository.tiny_lm("check").split()[0])
    (repository.path / METRICS).write_text("{}")
    wrong = repository.fails(*repository.TINY_LM, "check")
    assert f"{METRICS}: not what dvc.lock records; `tiny-lm restore tasks`" in wrong
    (repository.path / "tasks/dvc.lock").unlink()
    assert int(repository.tiny_lm("check").split()[0]) == count - 1


def test_without_the_harness_one_line_says_how_to_install_it_and_nothing_is_lost(repository):
    missing = "raise ModuleNotFoundError('No module named lm_eval', name='lm_eval')"
    repository = with_harness(repository, {"__init__.py": missing})
    (line,) = said_by_the_stage(repository.fails("dvc", "repro", "tasks/dvc.yaml"))
    assert "run `pip install -c constraints.txt -e '.[tasks]'`" in line
    assert (repository.path / METRICS).read_text() == "{}\n"  # which Git has
    assert not repository.git("status", "--short")

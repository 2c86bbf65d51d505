"""The table of stale stages in docs/architecture.md, cell by cell, compared with `dvc status`."""

import contextlib
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from tiny_lm.io.params import read_yaml

ROOT = Path(__file__).parents[2]
PLAN = {
    name: plan for path in ("dvc.yaml", "tasks/dvc.yaml") for name, plan in read_yaml(ROOT / path)["stages"].items()
}
PARAMS = read_yaml(ROOT / "params.yaml")


def table():
    """{row: the stages with a ●}, as the page has it."""
    lines = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| what you edit |"))
    names = [cell.strip() for cell in lines[start].split("|")[2:-1]]
    assert names == list(PLAN)
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        row, *cells = [cell.strip() for cell in line.split("|")[1:-1]]
        rows[row] = {name for name, cell in zip(names, cells, strict=True) if cell}
    raise AssertionError("the table has no end")


def param(key):
    """An edit that gives a key of params.yaml another value."""

    def edit(repository):
        yaml, file = YAML(), repository.path / "params.yaml"
        params = yaml.load(file)
        section, name = key.split(".")
        value = params[section][name]
        params[section][name] = "other" if isinstance(value, str) else [] if value is None else [value, value]
        yaml.dump(params, file)

    return edit


def append(file, text="\n# a comment\n"):
    """An edit that appends to a file, or creates it."""

    def edit(repository):
        path = repository.path / file
        path.write_text((path.read_text() if path.exists() else "") + text)

    return edit


def keys(section):
    return {f"{section}.{name}": param(f"{section}.{name}") for name in PARAMS[section]}


EDITS = {
    "`dataset.*`, or the files at `dataset.path`": keys("dataset") | {"a file": append("data/raw/mine.txt")},
    "`tokenizer.*`": keys("tokenizer"),
    "`shards.*`": keys("shards"),
    "`model.*`, `train.*`": keys("model") | keys("train"),
    "`evaluate.*`": keys("evaluate"),
    "`export.*`, code of the exporter": keys("export") | {"code": append("src/tiny_lm/export/huggingface.py")},
    "`tasks.*`, code of the tasks": keys("tasks") | {"code": append("src/tiny_lm/tasks/harness.py")},
    "`runtime.*`, tests, docs, presets": keys("runtime")
    | {name: append(name) for name in ("tests/test_cli.py", "README.md", "configs/model/gpt2-2l.yaml", "Makefile")},
}
CODE = {
    "stories/generator.py": "corpus", "bpe.py": "tokenizer", "encoding/writer.py": "shards",
    "training/schedule.py": "train", "evaluation/losses.py": "evaluate", "generation/sampling.py": "evaluate",
    "export/card.py": "export", "tasks/params.py": "tasks", "tools/compare.py": None,
    "compare/statistics.py": None, "cli.py": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_nobody_in_particular(environment, monkeypatch):
    for name, value in environment.items():
        if name.startswith(("DVC", "GIT")):
            monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def recorded(built, tmp_path_factory):
    """With the tasks recorded as up to date, without running them."""
    repository = built.copy("repository", tmp_path_factory.mktemp("reach"))
    repository.dvc("commit", "--force", "tasks/dvc.yaml")
    return repository


@pytest.fixture
def repository(recorded):
    """The same for all tests, each of which begins with nothing stale and undoes its edits."""
    recorded.git("checkout", "-q", ".")
    recorded.git("clean", "-qfd", "data/raw")
    return recorded


def reached(repository):
    """Stages whose own params or deps have changed, and all that is made of what they make. What `dvc status` calls is
    called here: a process for each edit would take ten times as long.
    """
    with contextlib.chdir(repository.path), Repo() as repo:
        stages = {name.removeprefix("tasks/dvc.yaml:") for name in repo.status()}
    for name, plan in PLAN.items():  # in the order of the pipeline
        makers = {
            maker
            for maker, other in PLAN.items()
            for out in other.get("outs", []) + [next(iter(metric)) for metric in other.get("metrics", [])]
            if out in plan["deps"]
        }
        if makers & stages:
            stages.add(name)
    return stages


def test_the_table_and_the_edits_have_the_same_rows():
    assert list(table()) == list(EDITS)


@pytest.mark.parametrize("row", EDITS)
def test_an_edit_reaches_the_stages_that_the_table_marks(row, repository):
    """The first and the last edit of the row alone, then all of them, which leaves what comes before alone as well."""
    edits = list(EDITS[row].values())
    for some in (edits[:1], edits[-1:], edits) if len(edits) > 1 else (edits,):
        for edit in some:
            edit(repository)
        assert reached(repository) == table()[row]
        repository.git("checkout", "-q", ".")
        repository.git("clean", "-qfd", "data/raw")
    assert reached(repository) == set()


def test_the_heads_of_keys_and_values_reach_what_comes_after_the_shards(repository):
    param("model.n_kv_heads")(repository)
    assert reached(repository) == {"train", "evaluate", "export", "tasks"}


def test_code_reaches_the_stages_that_execute_it_and_a_tool_reaches_none(repository):
    order = list(PLAN)
    for file, first in CODE.items():
        append(f"src/tiny_lm/{file}")(repository)
        deps = {f"src/tiny_lm/{file}", f"src/tiny_lm/{Path(file).parent}"}  # a file, or the folder it is in
        users = {name for name, plan in PLAN.items() if deps & set(plan["deps"])}
        assert (min(users, key=order.index) if users else None) == first
        assert reached(repository) == {name for name in order if first and order.index(name) >= order.index(first)}
        repository.git("checkout", "-q", ".")

"""A stage is stale if and only if its code, data or params have changed."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from pipeline.closure import SRC, code_deps, imported, module_files

from tiny_lm.io.params import read_yaml

ROOT = Path(__file__).parents[2]
PIPELINES = [read_yaml(ROOT / path)["stages"] for path in ("dvc.yaml", "tasks/dvc.yaml")]
STAGES = {name: plan for pipeline in PIPELINES for name, plan in pipeline.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_a_stage_lists_is_the_code_that_it_can_execute(stage):
    assert [dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")] == code_deps(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_the_params_that_a_stage_lists_are_those_that_it_reads(stage):
    tree = ast.parse((ROOT / f"src/tiny_lm/stages/{stage}.py").read_text())
    read = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "section"
    }
    assert read == set(STAGES[stage]["params"])


def test_every_stage_is_a_file_and_runs_this_trees_code():
    assert {p.stem for p in (ROOT / "src/tiny_lm/stages").glob("*.py")} - {"__init__", "__main__"} == set(STAGES)
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"sh src/stage.sh {name}"
    assert all(plan["wdir"] == ".." for plan in PIPELINES[1].values())  # so all run at the root
    assert len(STAGES) == sum(map(len, PIPELINES))  # and a name is enough to find one


def test_git_converts_no_line_ends():
    """Whatever core.autocrlf is: DVC hashes bytes."""
    files = ["dvc.lock", "params.yaml", "src/tiny_lm/cli.py", "results/evaluate/metrics.json", "data/raw/a.txt"]
    done = subprocess.run(["git", "check-attr", "text", *files], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{file}: text: unset" for file in files]


LAYERS = {
    "executor": 0, "io": 0, "stories": 0, "terminal": 0,
    "device": 1, "documents": 1, "exam": 1, "model": 1, "shards": 1, "tokenizer": 1,
    "bpe": 2, "corpus": 2, "encoding": 2, "generation": 2, "runner": 2, "size": 2,
    "compare": 3, "evaluation": 3, "export": 3, "tasks": 3, "training": 3,
    "load": 4, "presets": 4, "publish": 4, "report": 4, "step_speed": 4, "tracking": 4,
    "stages": 5, "tools": 5,
    "cli": 6,
}  # fmt: skip


def test_a_module_imports_lower_layers_only():
    for path in sorted((ROOT / "src/tiny_lm").rglob("*.py")):
        module = path.relative_to(ROOT / "src/tiny_lm").parts[0].removesuffix(".py")
        for name in imported(path):
            if not name.startswith("tiny_lm."):
                continue
            other = name.split(".")[1]
            same_package = other == module and module not in ("stages", "tools")
            lower = LAYERS[other] < LAYERS[module]
            assert same_package or lower, f"{path.relative_to(ROOT)} imports {name}"


def test_the_architecture_page_lists_every_module_in_its_layer():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*) \|$", page, re.M)
    listed = {name: int(layer) for layer, row in rows for name in re.findall(r"(?:^|· )`(\w+)(?:/|\.py)`", row)}
    assert listed == LAYERS


def test_there_are_no_circular_imports():
    done = set()

    def follow(path, above):
        assert path not in above, (
            f"circular import: {' imports '.join(str(file.relative_to(SRC)) for file in (*above, path))}"
        )
        for name in imported(path) if path not in done else ():
            for file in module_files(name):
                if file != path:  # which is imported with the names in it
                    follow(file, (*above, path))
        done.add(path)

    for path in sorted((SRC / "tiny_lm").rglob("*.py")):
        follow(path, ())


HOMES = {
    "ray": ["runner/executors.py"],
    "fsspec": ["corpus/remote.py"],
    "datasets": ["corpus/sources/huggingface.py"],
    "rustbpe": ["bpe.py"],
    "tiktoken": ["tokenizer/encode.py"],
    "transformers": ["export/write.py"],
    "huggingface_hub": ["publish/hub.py"],
    "gguf": ["publish/gguf.py"],
    "lm_eval": ["tasks/harness.py"],
    "trackio": ["training/loggers.py"],
    "dvclive": ["training/loggers.py"],
    "scipy": ["compare/statistics.py"],
    "dvc": ["compare/revisions.py"],
    "vl_convert": ["report/charts.py"],
}


@pytest.mark.parametrize("library", HOMES)
def test_a_third_party_library_is_imported_in_one_file(library):
    users = [
        str(path.relative_to(ROOT / "src/tiny_lm"))
        for path in sorted((ROOT / "src/tiny_lm").rglob("*.py"))
        if any(name.split(".")[0] == library for name in imported(path))
    ]
    assert users == HOMES[library]

"""A stage imports the libraries that it uses, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_lm.io.params import read_yaml

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    "datasets", "dvc", "dvclive", "gguf", "huggingface_hub", "lm_eval", "numpy", "pandas", "pyarrow",
    "pytorch_lightning", "rustbpe", "safetensors", "scipy", "tensorboard", "tiktoken", "tokenizers", "torch",
    "torch._dynamo", "torchmetrics", "trackio", "transformers", "wandb",
}  # fmt: skip
# Lightning and DVCLive import these if they are installed.
BY_LIGHTNING = {"huggingface_hub", "pandas", "pyarrow", "scipy", "tokenizers", "torchmetrics", "transformers"}
TRAINING = {"dvc", "dvclive", "numpy", "pytorch_lightning", "safetensors", "torch", "torch._dynamo"}
USED = {
    "corpus": {"numpy", "pyarrow"},
    "tokenizer": {"numpy", "pyarrow", "rustbpe", "tiktoken"},
    "shards": {"numpy", "pyarrow", "tiktoken"},
    "train": {"numpy", "torch"},  # and TRAINING, if the params are valid
    "evaluate": {"numpy", "pyarrow", "safetensors", "tiktoken", "torch"},
    "export": {"numpy", "pyarrow", "safetensors", "tiktoken", "torch"},
    "tasks": {"numpy", "torch"},  # and the harness with all that it needs, if the params are valid
}
BEGINNING = """
import contextlib, runpy
from types import SimpleNamespace
from tiny_lm.runner import run

def begin(name, load):
    with contextlib.suppress(SystemExit):
        load(name)(SimpleNamespace(name=name, section=lambda *_: sys.exit()))

run.run_stage = begin
runpy.run_module("tiny_lm.stages", run_name="__main__")
"""


def loaded(code, *arguments):
    """The modules that a fresh Python has loaded in the end."""
    code += "\nfor name in list(sys.modules):\n    print('loaded', name)"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}", *arguments], env=environment | {"PYTHONPATH": str(ROOT / "src")},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith("loaded ")}


def test_importing_the_package_imports_nothing_else():
    before = loaded("")
    assert loaded("import tiny_lm") - before == {"tiny_lm"}


@pytest.mark.parametrize("stage", USED)
def test_a_stage_loads_the_libraries_that_it_uses(stage):
    """As `python -m tiny_lm.stages` starts it, up to the first thing that it asks for, its params."""
    assert loaded(BEGINNING, stage) & LIBRARIES == USED[stage]


def test_training_loads_the_libraries_that_it_uses():
    assert (loaded("import tiny_lm.training.fit") & LIBRARIES) - BY_LIGHTNING == TRAINING


def test_measuring_a_training_step_loads_torch_but_not_lightning():
    """Its memory is reported without Lightning's, and its start is a part of what `tiny-lm plan` takes."""
    tiny = "train.batch_size=1 model.context_length=8 model.d_model=8 model.n_heads=2 model.n_kv_heads=1"
    measure = ["find-batch-size", "--measure=1", "--seconds=0.01", "train.accelerator=cpu", *tiny.split()]
    libraries = loaded("from tiny_lm.cli import main; main()", *measure)
    assert "torch" in libraries
    assert libraries.isdisjoint({"pytorch_lightning", "torchmetrics", "transformers", "scipy"})


def test_every_stage_is_listed():
    assert [*read_yaml(ROOT / "dvc.yaml")["stages"], *read_yaml(ROOT / "tasks/dvc.yaml")["stages"]] == list(USED)


def test_the_runner_imports_no_library_except_yaml():
    own = {name.split(".")[0] for name in loaded("import tiny_lm.runner.run") - loaded("")} - set(
        sys.stdlib_module_names
    )
    own.discard("__mp_main__")  # another name of the program, which multiprocessing adds
    assert own <= {"tiny_lm", "ruamel", "_ruamel_yaml"}

"""A stage or tool that starts loads what it uses, and no library beside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_lm.config import read_yaml

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    "datasets", "dvc", "dvclive", "gguf", "huggingface_hub", "numpy", "pandas", "pyarrow", "pytorch_lightning",
    "rustbpe", "safetensors", "scipy", "tensorboard", "tiktoken", "tokenizers", "torch", "torch._dynamo",
    "torchmetrics", "trackio", "transformers", "wandb",
}  # fmt: skip
TRAINING = {"dvc", "dvclive", "numpy", "pytorch_lightning", "safetensors", "torch", "torch._dynamo"}
USED = {
    "corpus": {"numpy", "pyarrow"},
    "tokenizer": {"numpy", "pyarrow", "rustbpe", "tiktoken"},
    "shards": {"numpy", "pyarrow", "tiktoken"},
    "train": TRAINING,
    "evaluate": {"numpy", "safetensors", "tiktoken", "torch"},
    "export": {"numpy", "pyarrow", "safetensors", "tiktoken", "torch"},
}
BEGINNING = """
import contextlib, runpy
from types import SimpleNamespace
from tiny_lm import frame

def begin(name, load):
    with contextlib.suppress(SystemExit):
        load(name)(SimpleNamespace(name=name, section=lambda *_: sys.exit()))

frame.run_stage = begin
runpy.run_module("tiny_lm.stages", run_name="__main__")
"""


def loaded(code, *arguments):
    """The modules that a fresh Python has loaded in the end, without stand-ins, which are of no file."""
    code += (
        "\nfor name, module in list(sys.modules.items()):\n    print('loaded', name, getattr(module, '__file__', ''))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}", *arguments], env=environment | {"PYTHONPATH": str(ROOT / "src")},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ") for line in done.stdout.splitlines() if line.startswith("loaded ")]
    return {name for _, name, *file in lines if file != [""]}


def test_the_package_itself_loads_nothing():
    before = loaded("")
    assert loaded("import tiny_lm") - before == {"tiny_lm"}


@pytest.mark.parametrize("stage", read_yaml(ROOT / "dvc.yaml")["stages"])
def test_a_stage_loads_the_libraries_that_it_uses(stage):
    """As `python -m tiny_lm.stages` starts it, up to the first thing that it asks for, its params."""
    assert loaded(BEGINNING, stage) & LIBRARIES == USED[stage]


def test_the_export_stage_spares_transformers_what_its_language_models_do_not_use():
    modules = loaded(f"{BEGINNING}\nfrom transformers import GPT2LMHeadModel, LlamaForCausalLM", "export")
    assert {"transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama"} <= modules
    assert "scipy" not in modules


def test_nothing_of_the_libraries_is_looked_through_for_garbage():
    """Not while the stage runs, and not at its end, handlers of other libraries included: those run first."""
    left = (
        "import atexit, gc\natexit.register(lambda: print('at the end', gc.isenabled(), len(gc.get_objects()) < 1000))"
    )
    code = f"import sys\n{left}\n{BEGINNING}\nprint('loaded', gc.isenabled(), len(gc.get_objects()) < 10_000)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, "train"], env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "loaded True True\nat the end True True\n"


def test_the_frame_loads_no_library_but_for_yaml():
    own = {name.split(".")[0] for name in loaded("import tiny_lm.frame") - loaded("")} - set(sys.stdlib_module_names)
    assert own <= {"tiny_lm", "ruamel", "_ruamel_yaml"}

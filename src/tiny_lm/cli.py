"""The command line, `tiny-lm TOOL …`. A tool is imported only when it runs, so that help and typos are instant."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

from tiny_lm.runner.code import require_this_tree

TOOLS = {
    "check": "compare outputs with their checksums in dvc.lock",
    "compare": "compare the losses of commits or experiments, with confidence intervals",
    "count-params": "count parameters, FLOPs and memory of a model before training it",
    "export-gguf": "export the trained model as a GGUF file for llama.cpp",
    "find-batch-size": "find the fastest micro-batch size that fits in memory, by running training steps",
    "generate": "continue one or more prompts with a trained model",
    "inspect-shards": "show statistics of the shards, or documents token by token",
    "join": "join a training run on several machines as one of its nodes",
    "plan": "choose model size, dropout and steps for a given time, and write them to params.yaml",
    "plots": "save the plots of one or more runs as PNG files",
    "preset": "apply presets and set values in params.yaml, keeping its comments",
    "report": "write an HTML file that shows one or more runs side by side",
    "restore": "restore the outputs of stages as recorded in dvc.lock, including metrics and plots",
    "subset": "copy the first tokens of the shards into new, smaller shards",
    "summary": "show the results of the last run, and what to try next",
    "tokenize": "show how a text is split into tokens, and how well it compresses",
    "upload": "upload models/export to the Hugging Face Hub",
    "verify": "rebuild everything in a scratch folder and compare the bytes",
}


def main() -> None:
    name = f"tiny-lm {sys.argv[1]}" if sys.argv[1:2] and sys.argv[1] in TOOLS else "tiny-lm"
    if sys.stdin is None:  # closed with `<&-`
        sys.stdin = open(os.devnull)  # noqa: SIM115
    if sys.stdout is None:  # closed with `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that `finally` and `with` clean up
    try:
        run_code_of_this_tree()
        try:
            run(sys.argv[1:])
        finally:
            flush_stdout()
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        sys.exit(141)
    except (ValueError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {error.strerror}"
        sys.exit(f"{name}: {' '.join(text.split())}")
    except KeyboardInterrupt:
        sys.exit(130)


def run_code_of_this_tree() -> None:
    """Restarts with the code of the project in this folder if the installed package is another clone or worktree.
    Stages run the code of their own tree, so tools that read their results have to as well.
    """
    if not os.path.exists("src/tiny_lm/cli.py"):
        return
    try:
        require_this_tree()
    except ValueError:
        path = [os.path.abspath("src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        if path[1:2] == path[:1]:  # restarted already
            raise
        command = [sys.executable, "-P", "-c", "from tiny_lm.cli import main; main()", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": os.pathsep.join(path)})


def run(argv: list[str]) -> None:
    """Runs the tool that `argv` names, or prints the list of tools."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: tiny-lm TOOL [--help] ...\n")
        print("\n".join(f"  {name:<16}{text}" for name, text in TOOLS.items()))
        print("\nRun the pipeline with `dvc repro`, and a variant with `dvc exp run -S model.n_kv_heads=1`.")
        return
    if argv[0] not in TOOLS:
        raise ValueError(f"unknown tool {argv[0]!r}; choose one of {', '.join(TOOLS)}")
    above = [folder for folder in Path.cwd().parents if (folder / "dvc.yaml").exists()]
    if above and not Path("dvc.yaml").exists():
        raise ValueError(f"run this in {above[0]}, the folder with dvc.yaml")
    importlib.import_module(f"tiny_lm.tools.{argv[0].replace('-', '_')}").main(argv[1:])


def flush_stdout() -> None:
    """Flushes stdout here, because an error while the interpreter does it at exit is a traceback."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit succeeds
        raise OSError(error.errno, error.strerror, "stdout") from None

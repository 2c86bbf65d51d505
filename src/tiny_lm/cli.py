"""`tiny-lm TOOL …`: imports a tool only when it is called, so that help and mistakes are instant."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import sys
from pathlib import Path

TOOLS = {
    "check": "read every output, and compare it with the checksum in dvc.lock",
    "compare": "is the difference real? losses of commits or experiments, with a confidence interval",
    "count-params": "parameters, FLOPs and memory of a model, before it is trained",
    "export-gguf": "the trained model as one file that llama.cpp opens",
    "find-batch-size": "the fastest micro-batch that fits in memory, by real steps",
    "generate": "continue a prompt, or many, with a trained model",
    "inspect-shards": "facts of the shards, and documents with the boundaries of their tokens",
    "plots": "the plots of runs as pictures, without a browser",
    "preset": "put presets and values into params.yaml, comments kept",
    "report": "a run, or several side by side, as one HTML file that opens without a network",
    "restore": "put back what dvc.lock records of stages, metrics and plots included",
    "subset": "the first tokens of the shards as shards of their own",
    "summary": "what the last run built, how good it is, and what to type next",
    "tokenize": "a text with the boundaries of its tokens, and how well it compresses",
    "upload": "models/export to the Hugging Face Hub",
    "verify": "build everything again in a scratch folder, and compare the bytes",
}


def main() -> None:
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: tiny-lm TOOL [--help] …\n")
        print("\n".join(f"  {name:<16}{text}" for name, text in TOOLS.items()))
        print(
            "\nThe pipeline itself is DVC's: `dvc repro` builds, `dvc exp run -S model.n_kv_heads=1` tries a variant."
        )
        return
    if argv[0] not in TOOLS:
        sys.exit(f"tiny-lm: no tool {argv[0]!r}; there are {', '.join(TOOLS)}")
    above = [folder for folder in Path.cwd().parents if (folder / "dvc.yaml").exists()]
    if above and not Path("dvc.yaml").exists():
        sys.exit(f"tiny-lm {argv[0]}: run it in {above[0]}, where dvc.yaml is")
    # To look for garbage among what imports make, and at the end once more, takes a third of a short command's time.
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that tools clean up
    tool = importlib.import_module(f"tiny_lm.tools.{argv[0].replace('-', '_')}")
    try:
        tool.main(argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {error.strerror}"
        sys.exit(f"tiny-lm {argv[0]}: {' '.join(text.split())}")
    except KeyboardInterrupt:
        sys.exit(130)

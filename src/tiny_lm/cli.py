"""`tiny-lm TOOL …`: imports a tool only when it is called, so that help and mistakes are instant."""

from __future__ import annotations

import importlib
import sys

TOOLS = {
    "compare": "is the difference real? losses of commits or experiments, with a confidence interval",
    "plots": "the plots of runs as pictures, without a browser",
    "preset": "put presets and values into params.yaml, comments kept",
    "restore": "put back what dvc.lock records of stages, metrics and plots included",
    "summary": "what the last run built, how good it is, and what to type next",
    "verify": "read every output and compare it with the checksum in dvc.lock",
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
    tool = importlib.import_module(f"tiny_lm.tools.{argv[0].replace('-', '_')}")
    try:
        tool.main(argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"tiny-lm {argv[0]}: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)

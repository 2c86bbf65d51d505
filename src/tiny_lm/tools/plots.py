"""`tiny-lm plots`: the plots of `dvc plots` as pictures, without a browser and without a network.

DVC writes pages that load their renderer from the web; this renders the same specifications, of one run or of several
laid over each other, into PNG files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tiny_lm.report.charts import png
from tiny_lm.terminal import Parser


def main(argv: list[str]) -> None:
    parser = Parser("plots", __doc__, "main workspace   (two runs in one picture)")
    parser.add_argument("revisions", nargs="*", metavar="REV", help="commits or experiments; none: the working tree")
    parser.add_argument("--output", type=Path, default=Path("dvc_plots"), help="folder of the pictures (dvc_plots)")
    args = parser.parse_args(argv)
    for name, specification in read_plots(args.revisions):
        path = args.output / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(specification))
        print(path)


def read_plots(revisions: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """(name, Vega-Lite specification) of every plot that DVC knows; ValueError in DVC's words where it fails."""
    command = [sys.executable, "-m", "dvc", "plots", *(["diff", *revisions] if revisions else ["show"]), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[0].removeprefix("ERROR: ") if done.stderr else "dvc failed")
    plots = []
    for path, parts in json.loads(done.stdout).get("data", {}).items():
        for part in parts:
            name = "-".join(p for p in Path(path).with_suffix("").parts if p not in ("results", "plots", "metrics"))
            plots.append((name, _sized(part["content"])))
    if not plots:
        raise ValueError("there are no plots yet: `dvc repro` makes them")
    return plots


def _sized(specification: dict[str, Any]) -> dict[str, Any]:
    """DVC's plots fill a page; a picture has a size of its own."""
    return {**specification, "width": 720, "height": 360, "background": "white"}

"""Save the plots of `dvc plots` as PNG files, without a browser or a network.

DVC writes HTML pages that load their renderer from the web. This tool renders the same Vega-Lite specifications, for
one run or for several runs in the same plots.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tiny_lm.report.charts import png
from tiny_lm.runner.git import dvc, git
from tiny_lm.terminal import Parser


def main(argv: list[str]) -> None:
    parser = Parser("plots", __doc__, "main workspace")
    parser.add_argument("revisions", nargs="*", metavar="REV", help="commits or experiments; default: the workspace")
    parser.add_argument("--output", type=Path, metavar="DIR", default="dvc_plots", help="default: %(default)s")
    args = parser.parse_args(argv)
    for name, specification in read_plots(args.revisions):
        path = args.output / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(specification))
        print(path)


def read_plots(revisions: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """(name, Vega-Lite specification) of each plot. ValueError if there are none, or if DVC cannot read a revision.
    Files that DVC cannot read are listed on stderr.
    """
    if revisions:
        git("rev-parse", "--git-dir")  # Git's error message contains the remedy, DVC's does not
    shown = json.loads(dvc("plots", *(["diff", *revisions] if revisions else ["show"]), "--json"))
    errors = shown.get("errors", [])
    for error in errors:
        if "source" not in error:
            raise ValueError(f"{error['rev']}: {error['msg']}")
    plots = []
    for path, parts in shown.get("data", {}).items():
        for part in parts:
            name = "-".join(p for p in Path(path).with_suffix("").parts if p not in ("results", "plots", "metrics"))
            size = {"width": 720, "height": 360, "background": "white"}  # instead of filling a page
            plots.append((name, {**part["content"], **size}))
    if not plots:
        raise ValueError("there are no plots yet; run `dvc repro`")
    for line in dict.fromkeys(f"{error['rev']}: {error['source']}: not plotted: {error['msg']}" for error in errors):
        print(line, file=sys.stderr)
    return plots

"""`tiny-lm plots`: the plots of `dvc plots` as PNG files, rendered without a browser or a network.

DVC writes HTML pages that load their renderer from the web. This renders the same Vega-Lite specifications, for one run
or for several runs in the same plots.
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
    parser = Parser("plots", __doc__, "main workspace   (two runs in the same plots)")
    parser.add_argument("revisions", nargs="*", metavar="REV", help="commits or experiments; default: the workspace")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("dvc_plots"), help="default: dvc_plots")
    args = parser.parse_args(argv)
    for name, specification in read_plots(args.revisions):
        path = args.output / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(specification))
        print(path)


def read_plots(revisions: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """(name, Vega-Lite specification) of every plot that DVC finds. ValueError if there are none, or if DVC cannot read
    a revision; single files that it cannot read are listed on stderr.
    """
    if revisions:
        git("rev-parse", "--git-dir")  # if Git refuses, its message contains the remedy, and DVC's does not
    shown = json.loads(dvc("plots", *(["diff", *revisions] if revisions else ["show"]), "--json"))
    errors = shown.get("errors", [])
    for error in errors:
        if "source" not in error:
            raise ValueError(f"{error['rev']}: {error['msg']}")
    plots = []
    for path, parts in shown.get("data", {}).items():
        for part in parts:
            name = "-".join(p for p in Path(path).with_suffix("").parts if p not in ("results", "plots", "metrics"))
            size = {"width": 720, "height": 360, "background": "white"}  # DVC's fill a page
            plots.append((name, {**part["content"], **size}))
    if not plots:
        raise ValueError("there are no plots yet; run `dvc repro`")
    for line in dict.fromkeys(f"{error['rev']}: {error['source']}: not plotted: {error['msg']}" for error in errors):
        print(line, file=sys.stderr)
    return plots

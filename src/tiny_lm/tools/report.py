"""Write an HTML file that shows one or more runs side by side: scores, loss curves, samples, params and lineage.

The file works offline. Everything in it comes from dvc.lock and the results of each revision, so the same revisions
give the same bytes. The lineage shows the hashes of the inputs and outputs of each stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tiny_lm.io.files import write_whole
from tiny_lm.terminal import Parser

if TYPE_CHECKING:
    from tiny_lm.report.run import Run

MAX_RUNS = 8  # one color each, in style.css


def main(argv: list[str]) -> None:
    parser = Parser("report", __doc__, "main workspace")
    parser.add_argument("revs", nargs="*", metavar="REV", help="commits or experiments; default: the workspace")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", default="dvc_plots/report.html", help="default: %(default)s"
    )
    args = parser.parse_args(argv)
    revs = list(dict.fromkeys(args.revs or ["workspace"]))
    if len(revs) > MAX_RUNS:
        raise ValueError(f"{len(revs)} runs: a report shows at most {MAX_RUNS}")
    text = report([read_run(rev) for rev in revs])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output, lambda file: file.write(text.encode()))
    print(args.output)


def read_run(rev: str) -> Run:
    """Reads a revision. ValueError if no model was trained there, or if a file does not match dvc.lock. Files inside of
    output folders are not checked; `tiny-lm check` does that. Stages that have not run since training are left out.
    """
    from tiny_lm.compare.revisions import MissingFile, Revision
    from tiny_lm.report.run import AFTER_TRAINING, NEEDED, SHOWN, STAGES, Run

    revision = Revision(rev)
    stages = revision.stages().only(STAGES)
    if "train" not in stages:
        raise ValueError(f"{rev}: no model was trained there; run `dvc repro`")
    for name, reason in stages.outdated().items():
        if name not in AFTER_TRAINING:
            raise ValueError(f"{rev}: {reason}; run `dvc repro`")
        del stages[name]
    outs = stages.outs
    remedy = "is missing; get it with `dvc fetch --all-commits`, or run `dvc repro train`"
    texts: dict[str, str | None] = {}
    for path in (*NEEDED, *SHOWN):
        texts[path] = None  # the stage has not run yet, or the file is not in the cache
        try:
            if path in outs:
                texts[path] = revision.read_output(path, outs[path], remedy)
            elif stages.maker(path):
                texts[path] = revision.read(path, remedy)
        except MissingFile:
            if path in NEEDED:
                raise
    return Run(rev, stages, texts)


def report(runs: list[Run]) -> str:
    """The HTML page. ValueError if a result has another format."""
    from tiny_lm.report.page import page
    from tiny_lm.report.sections import sections

    try:
        return page(f"tiny-lm: {', '.join(run.name for run in runs)}", *sections(runs))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a result is not in the format that the stages write ({error!r})") from error

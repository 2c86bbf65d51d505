"""`tiny-lm report`: one or more runs side by side in one HTML file that works offline.

It shows scores, loss curves, samples, tokenizer, params and lineage: the hashes of what each stage read and wrote. All
of it comes from dvc.lock and the results of the revisions, so the same revisions give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tiny_lm.io.files import write_whole
from tiny_lm.terminal import Parser

if TYPE_CHECKING:
    from tiny_lm.report.run import Run

MAX_RUNS = 8  # as many colors as one can tell apart


def main(argv: list[str]) -> None:
    parser = Parser("report", __doc__, "main workspace   (two runs side by side)")
    parser.add_argument(
        "revs", nargs="*", metavar="REV", help="commits, branches or experiments; default: the workspace"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("dvc_plots/report.html"),
        help="default: dvc_plots/report.html",
    )
    args = parser.parse_args(argv)
    revs = list(dict.fromkeys(args.revs or ["workspace"]))
    if len(revs) > MAX_RUNS:
        raise ValueError(f"{len(revs)} runs: at most {MAX_RUNS} can be told apart in one chart")
    text = report([read_run(rev) for rev in revs])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output, lambda file: file.write(text.encode()))
    print(args.output)


def read_run(rev: str) -> Run:
    """The files of a revision. ValueError if nothing was trained there, or if a file differs from dvc.lock. Folders
    that DVC caches as a whole are not checked; `tiny-lm check` does that.
    """
    from tiny_lm.compare.revisions import MissingFile, Revision
    from tiny_lm.report.run import NEEDED, SHOWN, STAGES, Run

    revision = Revision(rev)
    stages = {name: stage for name, stage in revision.stages().items() if name in STAGES}
    if "train" not in stages:
        raise ValueError(f"{rev}: no model was trained there; run `dvc repro`")
    outs = {path: md5 for stage in stages.values() for path, md5 in stage.outs.items()}
    remedy = "is missing; get it with `dvc fetch --all-commits`, or run `dvc repro train`"
    texts: dict[str, str | None] = {}
    for path in (*NEEDED, *SHOWN):
        try:
            texts[path] = (
                revision.read_output(path, outs[path], remedy) if path in outs else revision.read(path, remedy)
            )
        except MissingFile:
            if path in NEEDED:
                raise
            texts[path] = None  # its stage has not run yet, or it is not in the cache
    return Run(rev, stages, texts)


def report(runs: list[Run]) -> str:
    """The page as HTML. ValueError if a file of a run is not in the expected format."""
    from tiny_lm.report.page import page
    from tiny_lm.report.sections import sections

    try:
        return page(f"tiny-lm: {', '.join(run.name for run in runs)}", *sections(runs))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a result is not in the format that the stages write ({error!r})") from error

"""`tiny-lm report`: a run, or several side by side, as one HTML file that opens without a network.

Scores, loss curves, samples, tokenizer, params, and the lineage: which content each stage read and what it made of it.
All of it comes from dvc.lock and the results of the revision, so the same revisions give the same bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from tiny_lm.files import write_whole
from tiny_lm.terminal import Parser

if TYPE_CHECKING:
    from tiny_lm.report.run import Run

MOST = 8  # runs, which is as many colours as one can tell apart


def main(argv: list[str]) -> None:
    parser = Parser("report", __doc__, "main workspace   (two runs side by side)")
    parser.add_argument("revs", nargs="*", metavar="REV", help="commits, branches, experiments; none: `workspace`")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", default=Path("dvc_plots/report.html"), help="dvc_plots/report.html"
    )
    args = parser.parse_args(argv)
    revs = list(dict.fromkeys(args.revs or ["workspace"]))
    if len(revs) > MOST:
        raise ValueError(f"{len(revs)} runs: at most {MOST} can be told apart in one chart")
    text = report([read_run(rev) for rev in revs])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output, lambda file: file.write(text.encode()))
    print(args.output)


def read_run(rev: str) -> Run:
    """The files of a revision. ValueError, in one line, where nothing was trained, or metrics or samples are not those
    that dvc.lock records; `tiny-lm check` looks into the folders that DVC caches as a whole.
    """
    from tiny_lm.evaluation.revisions import Revision
    from tiny_lm.report.run import NEEDED, SHOWN, STAGES, Run

    revision = Revision(rev)
    stages = {name: stage for name, stage in revision.stages().items() if name in STAGES}
    if "train" not in stages:
        raise ValueError(f"{rev}: nothing was trained there yet; `dvc repro` does it")
    texts: dict[str, str | None] = {}
    for path in NEEDED:
        texts[path] = revision.read(path, "not there; `dvc repro train` makes it, `dvc fetch` gets it")
    for path in SHOWN:
        try:
            texts[path] = revision.read(path, "")
        except ValueError:
            texts[path] = None  # the stage has not run yet, or what it made is not in the cache
    run = Run(rev, stages, texts)
    for path, text in texts.items():
        if (
            text is not None
            and path in run.outs
            and hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() != run.outs[path]
        ):
            raise ValueError(f"{rev}: {path} is not the file that dvc.lock records; `dvc repro` makes it again")
    return run


def report(runs: list[Run]) -> str:
    """The page. ValueError where a file of a run is not in its format."""
    from tiny_lm.report.page import page
    from tiny_lm.report.sections import sections

    try:
        return page(f"tiny-lm: {', '.join(run.name for run in runs)}", *sections(runs))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"a result is not in the format that the stages write ({error!r})") from error

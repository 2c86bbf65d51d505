"""Corpus: reads documents from a source, filters and counts them, and splits them into training and validation.

For stories, also writes the exam about those in the validation split.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from tiny_lm.corpus.exam import make_exam
from tiny_lm.corpus.sources.base import DatasetParams, shorten
from tiny_lm.corpus.sources.local import LocalParams, list_files
from tiny_lm.corpus.sources.registry import SOURCES
from tiny_lm.corpus.sources.stories import StoriesParams
from tiny_lm.corpus.split import SPLITS, Selection, explain_empty, select_documents
from tiny_lm.corpus.write import write_split
from tiny_lm.exam import Exam
from tiny_lm.executor import Executor
from tiny_lm.io.files import write_json
from tiny_lm.runner.stage import Stage
from tiny_lm.tracking import warning

SCRATCH = Path(".work/drafts")
MAX_LISTED = 10  # names of files that were not read, in metadata.json


def main(stage: Stage) -> None:
    params = stage.section("dataset", SOURCES)
    with stage.executor() as executor:
        build(stage, params, executor)
    if isinstance(params, LocalParams):
        path = Path(params.path)
        files = [file.path for file in list_files(path, params.format, params.glob)]
        if line := warning(path, files):
            stage.say(line)


def build(stage: Stage, params: DatasetParams, executor: Executor) -> None:
    folder = Path("data/corpus")
    folder.mkdir(parents=True, exist_ok=True)
    progress = stage.runtime.progress
    source = params.open(progress, executor)
    if number := len(source.not_read):
        stage.say(
            f"{number:,} {'file is' if number == 1 else 'files are'} not read: {shorten(source.not_read)}. "
            "dataset.glob and dataset.format select files, see data/raw/README.md"
        )
    with _scratch_folder() as drafts:
        with tqdm(desc="documents", total=source.total, unit=" documents", disable=not progress) as bar:
            selection = select_documents(source, params, executor, drafts, bar)
        for split in SPLITS:
            if not selection.splits[split]:
                raise ValueError(explain_empty(split, params, selection))
        splits = {split: write_split(executor, folder, split, selection.splits[split]) for split in SPLITS}
        exam = _exam(params, selection, executor)

    metadata: dict[str, Any] = {
        "source": source.provenance,
        "documents_read": selection.read,
        "read_to_the_end": not selection.stopped_early,
        "removed": selection.removed | {"over_limit": selection.over_limit},
        "splits": {split: asdict(splits[split]) for split in SPLITS},
    }
    if number:
        metadata["not_read"] = {"number": number, "first": source.not_read[:MAX_LISTED]}
    write_json(folder / "metadata.json", metadata)
    exam.save(Path("data/exam"))
    train, val = splits["train"], splits["val"]
    stage.say(
        f"{train.documents:,} documents ({train.bytes / 1e6:.1f} MB) for training, "
        f"{val.documents:,} ({val.bytes / 1e6:.1f} MB) for validation; "
        f"{sum(selection.removed.values()):,} removed by filters"
    )


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """A folder that all nodes see, outside of the outputs, because a part that was read ahead may still write to it."""
    shutil.rmtree(SCRATCH, ignore_errors=True)  # of a run that was killed
    SCRATCH.mkdir(parents=True)
    with TemporaryDirectory(dir=SCRATCH, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _exam(params: DatasetParams, selection: Selection, executor: Executor) -> Exam:
    """The exam about validation stories, if they are whole; of other documents nothing is known."""
    if not isinstance(params, StoriesParams) or params.validation != "random":
        return Exam(None)
    kept = 1 - sum(selection.removed.values()) / selection.read
    return make_exam(executor, params.seed, selection.numbers("val"), kept)

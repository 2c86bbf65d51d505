"""Corpus: reads documents from a source, filters and counts them, and splits them into training and validation.

For stories, also writes the exam about those in the validation split.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

from tiny_lm.corpus.exam import Examiner
from tiny_lm.corpus.filters import Filters, Limits
from tiny_lm.corpus.sources.base import shorten
from tiny_lm.corpus.sources.local import LocalParams, list_files
from tiny_lm.corpus.sources.registry import SOURCES, open_source
from tiny_lm.corpus.split import explain_empty, split_documents
from tiny_lm.documents import DocumentWriter
from tiny_lm.io.files import write_json
from tiny_lm.runner.stage import Stage
from tiny_lm.tracking import warning

MAX_LISTED = 10  # names of files that were not read, in metadata.json


def main(stage: Stage) -> None:
    params = stage.section("dataset", SOURCES)
    folder = Path("data/corpus")
    folder.mkdir(parents=True, exist_ok=True)

    source = open_source(params, stage.runtime.progress)
    if number := len(source.not_read):
        stage.say(
            f"{number:,} {'file is' if number == 1 else 'files are'} not read: {shorten(source.not_read)}. "
            "dataset.glob and dataset.format select files, see data/raw/README.md"
        )
    filters = Filters(min_chars=params.min_chars, max_chars=params.max_chars, deduplicate=params.deduplicate)
    limits = Limits({"train": params.max_train_documents, "val": params.max_val_documents})
    examiner = Examiner()
    with DocumentWriter(folder / "train.parquet") as train, DocumentWriter(folder / "val.parquet") as val:
        writers = {"train": train, "val": val}
        with closing(split_documents(source, params, filters, limits, folder)) as documents:
            for split, text in documents:
                writers[split].write(text)
                if split == "val":
                    examiner.take(text)
        for split, writer in writers.items():
            if writer.counts.documents == 0:
                raise ValueError(explain_empty(split, params, filters))

    metadata: dict[str, Any] = {
        "source": source.provenance,
        "documents_read": filters.read,
        "read_to_the_end": not limits.stopped_early,
        "removed": filters.removed | {"over_limit": limits.over},
        "splits": {split: writer.metadata() for split, writer in writers.items()},
    }
    if number:
        metadata["not_read"] = {"number": number, "first": source.not_read[:MAX_LISTED]}
    write_json(folder / "metadata.json", metadata)
    examiner.exam(filters).save(Path("data/exam"))
    stage.say(
        f"{train.counts.documents:,} documents ({train.counts.bytes / 1e6:.1f} MB) for training, "
        f"{val.counts.documents:,} ({val.counts.bytes / 1e6:.1f} MB) for validation; "
        f"{sum(filters.removed.values()):,} removed by filters"
    )
    if isinstance(params, LocalParams):
        path = Path(params.path)
        files = [file.path for file in list_files(path, params.format, params.glob)]
        if line := warning(path, files):
            stage.say(line)

"""Corpus: documents from a source, filtered, counted, and divided into training and validation; all as a stream."""

from contextlib import closing
from pathlib import Path

from tiny_lm.corpus.documents import DocumentWriter
from tiny_lm.corpus.filters import Filters, Limits
from tiny_lm.corpus.local import list_files
from tiny_lm.corpus.sources import SOURCES, LocalParams, open_source
from tiny_lm.corpus.split import explain_empty, split_documents
from tiny_lm.files import write_json
from tiny_lm.runner.stage import Stage
from tiny_lm.tracking import warning


def main(stage: Stage) -> None:
    params = stage.section("dataset", SOURCES)
    folder = Path("data/corpus")
    folder.mkdir(parents=True, exist_ok=True)

    source = open_source(params, stage.runtime.progress)
    filters = Filters(min_chars=params.min_chars, max_chars=params.max_chars, deduplicate=params.deduplicate)
    limits = Limits({"train": params.max_train_documents, "val": params.max_val_documents})
    with DocumentWriter(folder / "train.parquet") as train, DocumentWriter(folder / "val.parquet") as val:
        writers = {"train": train, "val": val}
        with closing(split_documents(source, params, filters, limits, folder)) as documents:
            for split, text in documents:
                writers[split].write(text)
        if train.documents == 0 or val.documents == 0:
            raise ValueError(explain_empty("train" if train.documents == 0 else "val", params, filters))

    metadata = {
        "source": source.facts,
        "documents_read": filters.read,
        "read_to_the_end": not limits.stopped_early,
        "removed": filters.removed | {"over_limit": limits.over},
        "splits": {split: writer.facts() for split, writer in writers.items()},
    }
    write_json(folder / "metadata.json", metadata)
    stage.say(
        f"{train.documents:,} documents ({train.bytes / 1e6:.1f} MB) to train on, {val.documents:,} "
        f"({val.bytes / 1e6:.1f} MB) to validate on; {sum(filters.removed.values()):,} removed by filters"
    )
    if isinstance(params, LocalParams):
        path = Path(params.path)
        files = [file for _, file, _ in list_files(path, params.format, params.glob)]
        if line := warning(path, files):
            stage.say(line)

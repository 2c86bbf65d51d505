"""Corpus: reads documents from one or more sources, filters and counts them, and splits them into training and
validation.

For stories, also writes the exam about those in the validation split.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from tiny_lm.corpus.exam import make_exam
from tiny_lm.corpus.mixture import DATASETS, Component, MixtureParams, components, sizes_by_weight
from tiny_lm.corpus.sources.base import DatasetParams, Source, shorten
from tiny_lm.corpus.sources.stories import StoriesParams
from tiny_lm.corpus.split import SPLITS, Selection, explain_empty, select_documents
from tiny_lm.corpus.write import write_split
from tiny_lm.documents import format_runs
from tiny_lm.exam import Exam
from tiny_lm.executor import Executor
from tiny_lm.io.files import write_json
from tiny_lm.runner.stage import Stage
from tiny_lm.tracking import warning

SCRATCH = Path(".work/drafts")
MAX_LISTED = 10  # names of files that were not read, in metadata.json


def main(stage: Stage) -> None:
    params = stage.section("dataset", DATASETS)
    with stage.executor() as executor:
        build(stage, params, executor)
    files = [file for component in components(params) for file in component.params.files()]
    if files and (line := warning(Path(params.path), files)):
        stage.say(line)
    urls = [url for component in components(params) for url in component.params.remote()]
    if unwatched := [url for url in urls if Path(url) not in stage.data]:
        stage.say(
            f"{shorten(unwatched)}: DVC does not watch it, so `dvc repro -f -s corpus` is what reads it again if it "
            "changes; or add it to dvc.yaml (docs/urls.md)"
        )


def build(stage: Stage, params: DatasetParams | MixtureParams, executor: Executor) -> None:
    folder = Path("data/corpus")
    folder.mkdir(parents=True, exist_ok=True)
    progress = stage.runtime.progress
    inputs: list[tuple[Component, Source]] = []
    for component in components(params):
        with component.errors():
            inputs.append((component, component.params.open(progress, executor)))
    not_read = _not_read(Path(params.path), inputs)
    if number := len(not_read):
        stage.say(
            f"{number:,} {'file is' if number == 1 else 'files are'} not read: {shorten(not_read)}. "
            "dataset.glob or dataset.urls, and dataset.format, select files, see data/raw/README.md"
        )
    totals = [source.total for _, source in inputs]
    total = None if None in totals else sum(filter(None, totals))
    with _scratch_folder() as drafts:
        with tqdm(desc="documents", total=total, unit=" documents", disable=not progress) as bar:
            selections = select_documents(inputs, executor, drafts, bar)
        _check_not_empty(inputs, selections)
        kept = {split: [selection.splits[split] for selection in selections] for split in SPLITS}
        available = {
            split: [sum(segment.bytes for segment in segments) for segments in kept[split]] for split in SPLITS
        }
        sizes = available | {"train": sizes_by_weight(available["train"], [each.share for each, _ in inputs])}
        written = {split: write_split(executor, folder, split, kept[split], sizes[split]) for split in SPLITS}
        exam = _exam(params, selections[0], executor)

    (train, train_counts, _), (val, val_counts, order) = written["train"], written["val"]
    reports = [
        source.provenance
        | asdict(component.share)
        | _counts([selection])
        | {"train": of_train | {"available_bytes": bytes_available}, "val": of_val}
        for (component, source), selection, of_train, of_val, bytes_available in zip(
            inputs, selections, train_counts, val_counts, available["train"], strict=True
        )
    ]
    mixture = isinstance(params, MixtureParams)
    together = {"source": "mixture", "sources": reports, "validation_order": format_runs(order)}
    metadata: dict[str, Any] = {
        "source": together if mixture else inputs[0][1].provenance,
        **_counts(selections),
        "splits": {"train": asdict(train), "val": asdict(val)},
    }
    if number:
        metadata["not_read"] = {"number": number, "first": not_read[:MAX_LISTED]}
    write_json(folder / "metadata.json", metadata)
    exam.save(Path("data/exam"))
    if mixture:
        for (component, _), report in zip(inputs, reports, strict=True):
            stage.say(_describe_share(component, report, train.bytes))
    removed = sum(sum(selection.removed.values()) for selection in selections)
    stage.say(
        f"{train.documents:,} documents ({train.bytes / 1e6:.1f} MB) for training, "
        f"{val.documents:,} ({val.bytes / 1e6:.1f} MB) for validation; {removed:,} removed by filters"
    )


def _not_read(path: Path, inputs: Sequence[tuple[Component, Source]]) -> list[str]:
    """The files that no source reads: URLs, and local files relative to `path`."""
    urls, found = set[str](), set[Path]()
    for component, source in inputs:
        if component.params.remote():
            urls.update(source.not_read)
        else:
            found.update(Path(component.params.path, name) for name in source.not_read)
    if found and len(inputs) > 1:
        found -= {file for component, _ in inputs for file in component.params.files()}
    return sorted([*urls, *(os.path.relpath(file, path) for file in found)])


def _check_not_empty(inputs: Sequence[tuple[Component, Source]], selections: Sequence[Selection]) -> None:
    """Raises ValueError if a source has no training documents, or none has validation documents."""
    for split, empty in (("train", any), ("val", all)):
        missing = [not selection.splits[split] for selection in selections]
        if empty(missing):
            component, _ = inputs[missing.index(True)]
            with component.errors():
                raise ValueError(explain_empty(split, component.params, selections[missing.index(True)]))


def _counts(selections: Sequence[Selection]) -> dict[str, Any]:
    removed = [selection.removed | {"over_limit": selection.over_limit} for selection in selections]
    return {
        "documents_read": sum(selection.read for selection in selections),
        "read_to_the_end": not any(selection.stopped_early for selection in selections),
        "removed": {reason: sum(each[reason] for each in removed) for reason in removed[0]},
    }


def _describe_share(component: Component, report: Mapping[str, Any], total: int) -> str:
    train, val = report["train"], report["val"]
    return (
        f"{component.section} ({component.params.source}): {train['bytes'] / total:.1%} of the training text, "
        f"{train['bytes'] / 1e6:.1f} MB from {train['available_bytes'] / 1e6:.1f} MB "
        f"({train['bytes'] / train['available_bytes']:.2f} epochs); {val['documents']:,} documents for validation"
    )


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """A folder that all nodes see, outside of the outputs, because a part that was read ahead may still write to it."""
    shutil.rmtree(SCRATCH, ignore_errors=True)  # of a run that was killed
    SCRATCH.mkdir(parents=True, exist_ok=True)  # a link to another disk is not removed, nor what NFS still holds open
    with TemporaryDirectory(dir=SCRATCH, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _exam(params: DatasetParams | MixtureParams, selection: Selection, executor: Executor) -> Exam:
    """The exam about validation stories, if they are whole; of other documents nothing is known."""
    if not isinstance(params, StoriesParams) or params.validation != "random":
        return Exam(None)
    kept = 1 - sum(selection.removed.values()) / selection.read
    return make_exam(executor, params.seed, selection.numbers("val"), kept)

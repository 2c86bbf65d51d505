"""Runs tasks of lm-evaluation-harness on a model folder, with the harness's own Hugging Face model.

The harness downloads the data of a task through `datasets`, into the cache of the user (`HF_HOME`).
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_lm.tasks.params import EXAM, TasksParams

INSTALL = "pip install -c constraints.txt -e '.[tasks]'"
MAIN_METRICS = ("acc_norm", "acc", "exact_match", "bits_per_byte")  # the first that a task has; else its first one
EWOK = Path(__file__).parent / "ewok"  # which the harness lacks
BOOTSTRAP_SAMPLES = 1000  # for standard errors without a formula; the harness's own 100,000 take minutes


@dataclass(frozen=True)
class Score:
    """The main metric of a task or group."""

    task: str
    metric: str  # in the harness's own words
    value: float
    stderr: float | None  # None if the harness does not estimate it, as for a single question
    questions: int


def run_tasks(
    model: Path, exam: Path, params: TasksParams, device: str, *, progress: bool
) -> tuple[list[Score], dict[str, Any]]:
    """The scores of the tasks, groups and tags in `params.names`, and all that the harness reports, subtasks included.
    `exam` is the folder of the exam. ValueError, in one line, if a task does not exist or its data cannot be loaded.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of a prompt that is longer than the context
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise ValueError(f"lm-evaluation-harness is not installed (no module {error.name}); run `{INSTALL}`") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of each of them
    with contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO()):  # it always draws bars
        manager = TaskManager(include_path=[str(exam.resolve()), str(EWOK)])
        _check_names(params.names, manager.all_tasks, exam)
        chosen = [task for name in params.names for task in _load(manager, name, exam)]
        try:
            report = lm_eval.simple_evaluate(
                model="hf",
                model_args={"pretrained": str(model), "dtype": "float32"},
                tasks=chosen,
                task_manager=manager,
                limit=params.limit,
                batch_size=params.batch_size,
                device=device,
                bootstrap_iters=BOOTSTRAP_SAMPLES,
                log_samples=False,
            )
        except (ValueError, AssertionError) as error:  # tasks that need another kind of model, or a longer context
            raise ValueError(f"tasks.names = {list(params.names)}: lm-evaluation-harness: {error}") from error
    assert report is not None  # as in other processes than the first
    names = [name for task in chosen for name in _reported(task, report["results"])]
    return [_score(name, report["results"][name]) for name in dict.fromkeys(names)], report


def _check_names(names: Sequence[str], known: Sequence[str], exam: Path) -> None:
    for name in names:
        if name in known:
            continue
        if name == EXAM:
            raise ValueError(f"tasks.names: {EXAM}: {exam} has no questions; only dataset.source: stories has an exam")
        near = difflib.get_close_matches(name, known, 4)
        raise ValueError(
            f"tasks.names: {name[:80]!r}: no such task, group or tag in lm-evaluation-harness; "
            + (f"similar: {', '.join(near)}" if near else "`lm_eval ls tasks` lists them")
        )


def _load(manager: Any, name: str, exam: Path) -> list[Any]:
    """The task or group, or the tasks of a tag, with their data."""
    try:
        with contextlib.chdir(exam):  # where the task of the exam looks for its questions
            loaded = manager.load([name])
    except Exception as error:  # of `datasets`, the Hub's client, or the network
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"tasks.names: {name}: its data could not be loaded: {reason[:500]}") from error
    return [loaded["groups"][name]] if name in loaded["groups"] else list(loaded["tasks"].values())


def _reported(task: Any, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The name of a task or group, or the names of the tasks of a group that has no mean of its own."""
    if not hasattr(task, "get_all_tasks"):
        return [task.task_name]
    return [task.name] if _metrics(results[task.name]) else [inner.task_name for inner in task.get_all_tasks()]


def _metrics(result: Mapping[str, Any]) -> dict[str, str]:
    """{metric: its key}; keys are "acc,none" and "acc_stderr,none", with the name of a filter."""
    metrics: dict[str, str] = {}
    for key in result:
        metric, comma, _ = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            metrics.setdefault(metric, key)  # with several filters, the first
    return metrics


def _score(name: str, result: Mapping[str, Any]) -> Score:
    metrics = _metrics(result)
    metric = next((metric for metric in MAIN_METRICS if metric in metrics), next(iter(metrics)))
    key = metrics[metric]
    stderr = result.get(key.replace(",", "_stderr,", 1))
    return Score(
        task=name,
        metric=metric,
        value=float(result[key]),
        stderr=float(stderr) if isinstance(stderr, int | float) else None,
        questions=int(result["sample_len"]),
    )

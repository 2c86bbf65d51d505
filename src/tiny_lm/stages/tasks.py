"""Tasks: benchmarks of lm-evaluation-harness on the exported model, in a separate pipeline, tasks/dvc.yaml."""

import json
from pathlib import Path

from tiny_lm.device import set_arithmetic, uses_cuda
from tiny_lm.io.files import write_json, write_whole
from tiny_lm.runner.stage import Stage
from tiny_lm.tasks.harness import Score, run_tasks
from tiny_lm.tasks.params import TasksParams

FOLDER, REPORT = Path("results/tasks"), Path(".work/tasks.json")


def main(stage: Stage) -> None:
    params = stage.section("tasks", TasksParams)
    cuda = uses_cuda("tasks", params.accelerator, "32")
    set_arithmetic(params.threads, portable=False, cuda=cuda)
    scores, report = run_tasks(
        Path("models/export"), Path("data/exam"), params, "cuda" if cuda else "cpu", progress=stage.runtime.progress
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_json(FOLDER / "metrics.json", {score.task: _metrics(score) for score in scores})
    text = json.dumps(report, indent=2, default=str).encode()
    write_whole(REPORT, lambda file: file.write(text))
    for score in scores:
        error = "" if score.stderr is None else f" ± {score.stderr:.4f}"
        asked = f"{score.questions:,} question{'s' * (score.questions != 1)}"
        stage.say(f"{score.task}: {score.metric} {score.value:.4f}{error}, {asked}")
    stage.say(f"all metrics, subtasks and versions: {REPORT}")


def _metrics(score: Score) -> dict[str, float | int]:
    error = {} if score.stderr is None else {"stderr": score.stderr}
    return {score.metric: score.value, **error, "n": score.questions}

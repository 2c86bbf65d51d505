"""Accuracy in the exam, by the number of training steps: four budgets with three seeds each.

    for steps in 125 250 500 1000; do for seed in 1 2 3; do
        dvc exp run -n exam-$steps-$seed -S train.steps=$steps -S train.seed=$seed    # half an hour
    done; done
    python benchmarks/exam.py                                                         # writes docs/images/exam.png

Prints the means over the seeds and their range, and draws a line through the means of each skill, with a point for each
run. An experiment that is missing is an error.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from tiny_lm.compare.revisions import Revision
from tiny_lm.report.charts import png

PICTURE = Path(__file__).resolve().parent.parent / "docs/images/exam.png"
STEPS, SEEDS = (125, 250, 500, 1000), (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=PICTURE, help="default: docs/images/exam.png")
    args = parser.parse_args()
    rows = [row for steps in STEPS for seed in SEEDS for row in accuracies(steps, seed)]
    print_table(rows)
    args.picture.write_bytes(png(specification(rows)))


def accuracies(steps: int, seed: int) -> list[dict[str, Any]]:
    """A row for each skill, and one for the whole exam, of an experiment."""
    path = "results/evaluate/metrics.json"
    exam = json.loads(Revision(f"exam-{steps}-{seed}").read(path, "is missing; run the experiment again"))["exam"]
    skills = {name.replace("_", " "): values for name, values in exam.items() if isinstance(values, dict)}
    return [
        {"steps": steps, "seed": seed, "skill": skill, "accuracy": values["accuracy"], "chance": values["chance"]}
        for skill, values in ({"all": exam} | skills).items()
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Accuracy in percent: the mean over the seeds (lowest to highest)."""
    print("| steps | " + " | ".join(skills := list(dict.fromkeys(row["skill"] for row in rows))) + " |")
    print("|---" * (len(skills) + 1) + "|")
    for steps in STEPS:
        cells = [str(steps)]
        for skill in skills:
            values = [100 * row["accuracy"] for row in rows if (row["steps"], row["skill"]) == (steps, skill)]
            cells.append(f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        print("| " + " | ".join(cells) + " |")


def specification(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The picture, for Vega-Lite."""
    x = {
        "field": "steps", "type": "quantitative", "title": "optimizer steps, log scale",
        "scale": {"type": "log", "nice": False, "padding": 12}, "axis": {"values": list(STEPS), "grid": False},
    }  # fmt: skip
    y = {
        "field": "accuracy", "type": "quantitative", "title": "accuracy, with three seeds",
        "scale": {"zero": False}, "axis": {"format": "%"},
    }  # fmt: skip
    color = {"field": "skill", "type": "nominal", "title": None, "sort": None}
    return {
        "width": 560, "height": 320, "background": "white", "data": {"values": rows},
        "encoding": {"x": x, "y": y, "color": color},
        "layer": [
            {"mark": "line", "encoding": {"y": y | {"aggregate": "mean"}}},
            {"mark": {"type": "point", "filled": True, "size": 24, "opacity": 0.6}},
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main()

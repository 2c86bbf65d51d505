"""`tiny-lm plan` and eight alternatives, each planned for the same time on the same shards.

    git clone . .work/plan && cd .work/plan        # it overwrites params.yaml and results
    tiny-lm preset dataset=local dataset.path=FILE && dvc repro shards
    python benchmarks/plan.py --minutes 2

The alternatives are the four nearest shapes, the other precision, the other choice of dropout, and half and twice the
learning rates. Each is measured and planned as `tiny-lm plan` does it (but dropout is changed afterwards, which takes
longer or shorter by an eighth), then trained, evaluated and exported. Prints the seconds that this took and the bits
per byte of validation text, as a table and, with `--json`, as a file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tiny_lm.presets import PARAMS, edit_params, params_with, write_params
from tiny_lm.tools.plan import DROPOUT, SHAPES, dropout_settings, plan_run

RATES = ("learning_rate", "embedding_learning_rate", "matrix_learning_rate")


@dataclass(frozen=True)
class Alternative:
    """What differs from the plan: the shape, and settings before and after planning."""

    name: str
    shape: tuple[int, int]  # d_model, n_layers
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    name: str
    steps: int
    seconds: float  # of `dvc repro`, from training to export
    bits_per_byte: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    before = PARAMS.read_text(encoding="utf-8")
    rows = []
    for alternative in alternatives(plan_run([], 60 * args.minutes, SHAPES).settings):
        plan = plan_run(list(alternative.before), 60 * args.minutes, [alternative.shape])
        try:
            rows.append(run(alternative.name, [*alternative.before, *plan.settings, *alternative.after]))
        finally:
            PARAMS.write_text(before, encoding="utf-8")
        print(f"{rows[-1]}", flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    best = min(row.bits_per_byte for row in rows)
    print("\n| | steps | seconds | bits per byte | more than the best by |\n|---|---|---|---|---|")
    for row in rows:
        more = 100 * (row.bits_per_byte / best - 1)
        print(f"| {row.name} | {row.steps:,} | {row.seconds:.0f} | {row.bits_per_byte:.4f} | {more:.1f} % |")


def alternatives(planned: list[str]) -> list[Alternative]:
    """The plan itself, and eight others."""
    model, train = params_with(planned, "model", "train")
    chosen = (model.d_model, model.n_layers)
    place = SHAPES.index(chosen)
    others = sorted(set(SHAPES) - {chosen}, key=lambda shape: abs(SHAPES.index(shape) - place))[:4]
    precision = "32" if train.precision == "bf16-mixed" else "bf16-mixed"
    dropout = 0.0 if model.embedding_dropout else DROPOUT
    return [
        Alternative("the plan", chosen),
        *(Alternative(f"{d_model} × {n_layers}", (d_model, n_layers)) for d_model, n_layers in sorted(others)),
        Alternative(precision, chosen, before=(f"train.precision={precision}",)),
        Alternative(f"dropout {dropout:g}", chosen, after=tuple(dropout_settings(dropout))),
        *(
            Alternative(
                f"learning rates × {factor:g}", chosen,
                after=tuple(f"train.{rate}={factor * getattr(train, rate):.4g}" for rate in RATES),
            )
            for factor in (0.5, 2.0)
        ),
    ]  # fmt: skip


def run(name: str, settings: list[str]) -> Row:
    """Trains, evaluates and exports, even if DVC has a run with these settings."""
    write_params(edit_params(settings))
    started = time.perf_counter()
    command = ["dvc", "repro", "--force", "--single-item", "train", "evaluate", "export"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    metrics = json.loads(Path("results/evaluate/metrics.json").read_bytes())
    (train,) = params_with([], "train")
    return Row(name, train.steps, seconds, metrics["bits_per_byte"])


if __name__ == "__main__":
    main()

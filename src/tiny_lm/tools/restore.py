"""Restore the outputs of stages as recorded in dvc.lock, including metrics and plots.

Existing outputs are replaced. If one cannot be restored, the others still are.
"""

from __future__ import annotations

from tiny_lm.runner.locks import WORKSPACE, hold
from tiny_lm.runner.pipelines import read_plans
from tiny_lm.runner.restore import RUNNING, restore_stages
from tiny_lm.terminal import Parser


def main(argv: list[str]) -> None:
    parser = Parser("restore", __doc__, "train")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="default: all in dvc.lock")
    args = parser.parse_args(argv)
    _lock = hold(WORKSPACE, "a stage is running in this workspace: wait for it, or stop it")
    plan = read_plans()
    unknown = [name for name in args.stages if name not in plan]
    if unknown:
        raise ValueError(f"dvc.yaml has no stage {unknown[0]!r}; choose from {', '.join(plan)}")
    restored, failures = restore_stages({name: plan[name] for name in args.stages or plan})
    for path in restored:
        print(f"restored {path}")
    if failures:
        raise ValueError(f"{'; '.join(failures)}; `dvc pull` may fetch what is missing, `dvc repro` rebuilds it")
    if not args.stages or (RUNNING.exists() and RUNNING.read_text() in args.stages):
        RUNNING.unlink(missing_ok=True)  # the outputs of a killed stage are restored, so the next stage need not warn

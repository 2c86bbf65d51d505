"""Overhead of the stages and DVC: `dvc repro` with nothing to do, the overhead of six stages by cause, the time from
`dvc exp run` to the first training step, and the time to the first generated token and to `--help`.

    python benchmarks/pipeline.py                              # all of it
    python benchmarks/pipeline.py --gigabytes 0 --rounds 1     # without the large shards, once each

It works on a clone of the last commit in a scratch folder, which is deleted at the end. The clone runs the default
pipeline at full size, but with few training steps and short samples. A program named `python` on PATH runs the stages
unchanged with timers: each second is charged to the innermost of the causes below. DVC's time is what `dvc repro` takes
outside of the stages' processes. The large shards are sparse files, as many as in a run of that size, which DVC
records; no stage runs on them.
"""

from __future__ import annotations

import argparse
import atexit
import builtins
import functools
import importlib
import json
import os
import platform
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SHORT = (
    "train.steps=4 train.validate_every=2 train.checkpoint_every=2 train.val_documents=10 train.threads=1 "
    "evaluate.threads=1 evaluate.max_new_tokens=5"
)
STAGES = ["corpus", "tokenizer", "shards", "train", "evaluate", "export"]
CAUSES = ("interpreter", "imports", "runner", "input check", "opening", "exit", "DVC")
SHARD_BYTES = 100_000_000
PYTHON = """#!/bin/sh
if [ "$1 $2" != "-m tiny_lm.stages" ]; then exec {python} "$@"; fi
TINY_LM_STARTED=$(date +%s.%N) {python} {script} --stage "$3"
code=$?
echo "{{\\"ended\\": $(date +%s.%N)}}" >> {log}
exit $code
"""


class Clocks:
    """Charges each second to the cause whose function was entered last."""

    def __init__(self, since: float) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.marks: dict[str, float] = {"started": since}
        self.causes, self.last = ["interpreter"], since

    def charge(self) -> None:
        now = time.time()
        self.seconds[self.causes[-1]] += now - self.last
        self.last = now

    def of(self, cause: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self.causes.append(cause)
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self.causes.pop()

        return charged


def run_stage_in_clocks(name: str) -> None:
    """Runs `python -m tiny_lm.stages NAME` with timers around the functions of each cause."""
    clocks = Clocks(float(os.environ["TINY_LM_STARTED"]))
    builtins.__import__ = clocks.of("imports", builtins.__import__)
    from tiny_lm.runner import run as runner
    from tiny_lm.runner.stage import Stage

    def end() -> None:
        clocks.charge()
        with Path(os.environ["TINY_LM_LOG"]).open("a") as log:
            log.write(json.dumps({"stage": name, "seconds": clocks.seconds, "marks": clocks.marks}) + "\n")

    atexit.register(end)
    for owner, method, cause in (
        (subprocess.Popen, "communicate", "input check"),  # only the remaining wait
        (Stage, "__init__", "runner"), (Stage, "work_folder", "runner"), (Stage, "changes", "runner"),
    ):  # fmt: skip
        setattr(owner, method, clocks.of(cause, getattr(owner, method)))
    import_module, run_stage = importlib.import_module, runner.run_stage

    def import_stage(name: str, package: str | None = None) -> Any:
        module: Any = clocks.of("imports", import_module)(name, package)
        if not name.startswith("tiny_lm.stages."):
            return module
        if hasattr(module, "load_checkpoint"):
            module.load_checkpoint = clocks.of("opening", module.load_checkpoint)
        if hasattr(module, "Tokenizer"):
            module.Tokenizer.load = clocks.of("opening", module.Tokenizer.load)
        if name == "tiny_lm.stages.train":
            module.main = functools.partial(train, clocks, module.main)
        return module

    importlib.import_module = import_stage
    runner.run_stage = lambda name, load: clocks.of("runner", run_stage)(
        name, lambda name: clocks.of("work", load(name))
    )
    sys.argv = ["tiny_lm.stages", name]
    runpy.run_module("tiny_lm.stages", run_name="__main__", alter_sys=True)


def train(clocks: Clocks, main: Callable[[Any], None], stage: Any) -> None:
    """The train stage, which marks the time of its first step."""
    from tiny_lm.training.module import CausalLMModule  # not earlier than the stage does

    step = CausalLMModule.training_step

    def training_step(*args: Any) -> Any:
        clocks.marks.setdefault("first step", time.time())
        return step(*args)

    CausalLMModule.training_step = training_step  # type: ignore[assignment, method-assign]
    main(stage)


class Scratch:
    """A clone in which everything is built."""

    def __init__(self, folder: Path) -> None:
        self.path, self.log = folder / "clone", folder / "log"
        program = folder / "bin/python"
        program.parent.mkdir()
        program.write_text(PYTHON.format(python=sys.executable, script=Path(__file__).resolve(), log=self.log))
        program.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC", "GIT_", "PYTHON"))}
        self.environment = kept | {
            "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TINY_LM_LOG": str(self.log), "DVC_SITE_CACHE_DIR": str(folder / "site"),
            "GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x@x", "GIT_COMMITTER_NAME": "x",
            "GIT_COMMITTER_EMAIL": "x@x",
        }  # fmt: skip
        self.run("git", "clone", "-q", str(Path(__file__).parents[1]), str(self.path), cwd=folder)
        self.run(*self.tiny_lm("preset", *SHORT.split()))
        self.run("dvc", "repro")
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "built")

    @staticmethod
    def tiny_lm(*arguments: str) -> list[str]:
        return ["env", "PYTHONPATH=src", "python", "-c", "from tiny_lm.cli import main; main()", *arguments]

    def run(self, *command: str, cwd: Path | None = None) -> float:
        """Runs a command and returns its seconds; its output is shown only if it fails."""
        start = time.time()
        done = subprocess.run(
            command,
            cwd=cwd or self.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return time.time() - start

    def first_output(self, *command: str) -> float:
        start = time.time()
        with subprocess.Popen(command, cwd=self.path, env=self.environment, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.read(1)
            seconds = time.time() - start
            process.stdout.read()
        return seconds

    def stages(self) -> Iterator[dict[str, Any]]:
        """Times of the stages that ran since the last call, in order."""
        entries = [json.loads(line) for line in self.log.read_text().splitlines()]
        self.log.unlink()
        for stage, end in zip(entries[::2], entries[1::2], strict=True):
            seconds, marks = defaultdict(float, stage["seconds"]), stage["marks"]
            seconds["exit"] = end["ended"] - marks["started"] - sum(seconds.values())
            yield {"stage": stage["stage"], "seconds": seconds, "ended": end["ended"], **marks}


def overhead(scratch: Scratch, rounds: int) -> None:
    tables = []
    for _ in range(rounds):
        start = time.time()
        scratch.run("dvc", "repro", "--force")
        end, stages = time.time(), list(scratch.stages())
        assert [stage["stage"] for stage in stages] == STAGES
        for stage, following in zip(stages, [*stages[1:], {"started": end}], strict=True):
            stage["seconds"]["DVC"] = following["started"] - stage["ended"]
        stages[0]["seconds"]["DVC"] += stages[0]["started"] - start
        tables.append([stage["seconds"] for stage in stages])
    print(f"\n{'seconds, median of ' + str(rounds):<20}" + "".join(f"{name:>10}" for name in [*STAGES, "all"]))
    total = 0.0
    for cause in (*CAUSES, "work"):
        row = [statistics.median(table[column][cause] for table in tables) for column in range(len(STAGES))]
        total += sum(row) if cause != "work" else 0
        print(f"{cause:<20}" + "".join(f"{seconds:>10.2f}" for seconds in (*row, sum(row))))
    print(f"overhead: {total:.1f} s", flush=True)


def first_steps(scratch: Scratch, rounds: int) -> None:
    for options in ([], ["--temp"]):
        waits = []
        for turn in range(rounds):
            start = time.time()
            scratch.run("dvc", "exp", "run", *options, "-S", f"train.seed={100 * (1 + bool(options)) + turn}", "train")
            waits += [stage["first step"] - start for stage in scratch.stages() if "first step" in stage]
        command = " ".join(["dvc exp run", *options])
        print(f"{command}: {statistics.median(waits):.1f} s to the first step ({min(waits):.1f} – {max(waits):.1f})")
    scratch.run("git", "checkout", "-q", ".")
    scratch.run("dvc", "checkout", "--quiet")


def large_shards(scratch: Scratch, gigabytes: float) -> float:
    """Seconds that DVC takes to record them."""
    folder = scratch.path / "data/shards/train"
    shutil.rmtree(folder)
    folder.mkdir()
    for number in range(round(gigabytes * 1e9 / SHARD_BYTES)):
        with (folder / f"{number:05d}.bin").open("wb") as file:
            file.write(number.to_bytes(8, "little"))  # so that checksums differ
            file.truncate(SHARD_BYTES)
    return scratch.run("dvc", "commit", "--force", "--quiet")


def show(name: str, measure: Callable[[], float], rounds: int) -> None:
    seconds = [measure() for _ in range(rounds)]
    print(f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} – {max(seconds):.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of the large shards; 0: none")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        return run_stage_in_clocks(args.stage)
    print(f"{platform.machine()}, {os.cpu_count()} cores; median of {args.rounds} (fastest – slowest)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Scratch(Path(folder))
        list(scratch.stages())
        show("tiny-lm --help", lambda: scratch.run(*scratch.tiny_lm("--help")), args.rounds)
        generate = scratch.tiny_lm("generate", "--prompt", "", "--max-new-tokens", "3")
        show("first token of tiny-lm generate", lambda: scratch.first_output(*generate), args.rounds)
        nothing_to_do = lambda: scratch.run("dvc", "repro")  # noqa: E731
        show("dvc repro with nothing to do", nothing_to_do, args.rounds)
        first_steps(scratch, args.rounds)
        overhead(scratch, args.rounds)
        if args.gigabytes:
            recording = large_shards(scratch, args.gigabytes)
            print(f"\n{args.gigabytes:g} GB of shards: {recording:.1f} s for DVC to record them once")
            show("dvc repro with nothing to do", nothing_to_do, args.rounds)
    return None


if __name__ == "__main__":
    main()

"""Corpus and shards on several processes and nodes: time, memory, and what a killed worker or node costs.

    python benchmarks/cluster.py --megabytes 1000                  # 1 and 2 processes, then two nodes of Ray
    python benchmarks/cluster.py --documents 20000000 --stages corpus --runs local=2    # memory for many documents

It generates JSONL in a scratch folder, 3 % of it duplicates, and runs the two stages as they are, each in a process of
its own. A run is local=PROCESSES, or ray=NODES, which starts as many Ray nodes on this machine, with two cores each.
`+worker` kills a worker in the middle, and `+node` a node: `ray=2+node`. A local run whose worker was killed fails, and
is started again. All runs must give the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
RUNS = ["local=1", "local=2", "local=2+worker", "ray=2", "ray=2+worker", "ray=2+node"]
FILES = 64
START_SECONDS = 120
KILL_AFTER_SECONDS = 3.0  # after the first worker is busy


def generate(folder: Path, megabytes: int, documents: int) -> None:
    """Writes FILES files of JSONL with sentences in random order; every 33rd document is an earlier one."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwyp"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(20_000)]
    sentences = [" ".join(rng.choices(words, k=rng.randint(3, 18))) for _ in range(50_000)]
    length = megabytes * 10**6 // documents
    for file in range(FILES):
        old: list[str] = []
        with (folder / f"{file:02}.jsonl").open("w") as out:
            for number in range(file, documents, FILES):
                if number % 33 == 0 and old:
                    text = rng.choice(old)
                else:
                    text = f"{number} " + ". ".join(rng.choices(sentences, k=length // 60 + 1))
                    text = text[: max(length - 12, 8)]
                    if len(old) < 1000:
                        old.append(text)
                out.write(f'{{"text": "{text}"}}\n')


class FakeStage:
    """The stage context, without DVC."""

    def __init__(self, name: str, kind: str, number: int, source: Path) -> None:
        self.name, self.kind = name, kind
        self.runtime = SimpleNamespace(workers=number, progress=False)
        self.sections = {"dataset": {"source": "local", "path": str(source)}, "shards": {}}

    def section(self, name: str, choices: Any) -> Any:
        from tiny_lm.io.params import load_params

        return load_params(name, self.sections[name], choices)

    @contextmanager
    def executor(self) -> Iterator[Any]:
        from tiny_lm.runner.executors import Processes, RayTasks

        local = self.kind == "local"
        executor = Processes(self.runtime.workers, f"tiny_lm.stages.{self.name}") if local else RayTasks("auto")
        with contextlib.closing(executor):
            yield executor

    def say(self, line: str) -> None:
        print(line, file=sys.stderr)


def run_stage(name: str, run: str, source: Path) -> None:
    """Runs a stage in this process; prints its seconds, and its peak memory in MB."""
    from importlib import import_module

    kind, number = run.split("=")
    stage = FakeStage(name, kind, int(number), source)
    main = import_module(f"tiny_lm.stages.{name}").main
    started = time.perf_counter()
    try:
        main(stage)
    except ValueError as error:
        sys.exit(str(error))
    print(json.dumps([time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000]))


class Watch(threading.Thread):
    """Records the peak memory of the workers, and kills one if asked to."""

    def __init__(self, kill: str, ray_nodes: list[subprocess.Popen[bytes]]) -> None:
        super().__init__(daemon=True)
        self.kill, self.nodes = kill, ray_nodes
        self.peak, self.done, self.busy_since = 0.0, False, 0.0

    def run(self) -> None:
        while not self.done:
            with contextlib.suppress(psutil.Error):
                workers = [process for process in psutil.Process().children(recursive=True) if self._is_worker(process)]
                self.peak = max([self.peak, *(process.memory_info().rss / 1e6 for process in workers)])
                busy = [process for process in workers if sum(process.cpu_times()[:2]) > 0.5]
                self.busy_since = self.busy_since or (time.monotonic() if busy else 0.0)
                if self.kill and busy and time.monotonic() - self.busy_since > KILL_AFTER_SECONDS:
                    if self.kill == "worker":
                        busy[-1].kill()
                    else:
                        for process in psutil.Process(self.nodes[-1].pid).children(recursive=True):
                            process.kill()
                        self.nodes[-1].kill()
                    self.kill = ""
            time.sleep(0.1)

    def _is_worker(self, process: psutil.Process) -> bool:
        name = " ".join(process.cmdline())
        return name.startswith("ray::_run_in") if self.nodes else "multiprocessing.forkserver" in name


@contextmanager
def ray_nodes(number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Ray nodes on this machine, each a process group."""
    nodes: list[subprocess.Popen[bytes]] = []
    os.environ["RAY_AUTH_MODE"] = "token"  # as the head has it by default, but nodes that join it do not
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=2", "--disable-usage-stats"]
    try:
        for index in range(number):
            where = (
                ["--head", "--port=6399", "--include-dashboard=false"] if index == 0 else ["--address=127.0.0.1:6399"]
            )
            nodes.append(subprocess.Popen([*ray, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            until = time.monotonic() + START_SECONDS
            while sum(process.name() == "raylet" for process in psutil.Process().children(recursive=True)) <= index:
                if nodes[-1].poll() is not None or time.monotonic() > until:
                    sys.exit(f"node {index} of Ray did not start")
                time.sleep(0.5)
            time.sleep(5)
        yield nodes
    finally:
        for node in nodes:
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process(node.pid).children(recursive=True):
                    process.kill()
            node.kill()


def measure(run: str, stages: list[str], source: Path, folder: Path, megabytes: float) -> None:
    run, _, kill = run.partition("+")
    kind, number = run.split("=")
    cluster: contextlib.AbstractContextManager[list[Any]] = contextlib.nullcontext([])
    if kind == "ray":
        cluster = ray_nodes(int(number))
    with cluster as nodes:
        for stage in stages:
            watch = Watch(kill, nodes)
            watch.start()
            command = [
                sys.executable,
                str(Path(__file__).resolve()),
                "--stage",
                stage,
                "--runs",
                run,
                "--source",
                str(source),
            ]
            environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
            started = time.perf_counter()
            attempts = 0
            while True:
                attempts += 1
                done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
                if done.returncode == 0:
                    break
                print(f"    {done.stderr.strip().splitlines()[-1]}")
                if not kill or attempts > 2:
                    sys.exit(1)
            watch.done = True
            seconds, driver = json.loads(done.stdout.splitlines()[-1])  # Ray prints there, too
            whole = time.perf_counter() - started
            killed = f", a {kill} killed" if kill and not watch.kill else ""
            print(
                f"{run:8} {stage:7} {seconds:7.1f} s in the stage, {whole:7.1f} s in all ({attempts} starts{killed}), "
                f"{megabytes / seconds:6.1f} MB/s, peak {driver:5.0f} MB, of a worker {watch.peak:5.0f} MB",
                flush=True,
            )


def digest(folder: Path) -> str:
    sha256 = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha256.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return sha256.hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--documents", type=int, help="default: one for each 1,300 bytes")
    parser.add_argument("--runs", nargs="+", default=RUNS)
    parser.add_argument("--stages", nargs="+", default=["corpus", "shards"])
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to measure; default: the system's")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        run_stage(args.stage, args.runs[0], args.source)
        return
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        source, digests = Path(scratch, "text"), set()
        source.mkdir()
        generate(source, args.megabytes, args.documents or args.megabytes * 10**6 // 1300)
        megabytes = sum(path.stat().st_size for path in source.iterdir()) / 1e6
        print(f"{megabytes:.0f} MB of JSONL, {len(os.sched_getaffinity(0))} cores")
        train_tokenizer(source, Path(scratch, "tokenizer"))
        for number, run in enumerate(args.runs):
            folder = Path(scratch, str(number))
            shutil.copytree(Path(scratch, "tokenizer"), folder / "models/tokenizer")
            measure(run, args.stages, source, folder, megabytes)
            digests.add(digest(folder))
            shutil.rmtree(folder)
    print("the same bytes every time" if len(digests) == 1 else f"DIFFERENT BYTES: {digests}")


def train_tokenizer(source: Path, folder: Path) -> None:
    """Trains a tokenizer of 2,000 tokens on the beginning of the text."""
    from tiny_lm import bpe

    with (source / "00.jsonl").open() as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(3000), strict=False)]
    bpe.train_tokenizer(texts, bpe.TokenizerParams(vocab_size=2000)).save(folder)


if __name__ == "__main__":
    main()

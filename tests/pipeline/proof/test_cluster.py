"""Ray gives the same bytes as this machine, also if workers are killed. Needs `pip install -e '.[ray]'`."""

import contextlib
import importlib.util
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tiny_lm.corpus.sources import local
from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params
from tiny_lm.runner.executors import RayTasks
from tiny_lm.stages.corpus import main

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is an extra")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def ray_tasks():
    """On a machine on which a cluster was killed, so that Ray still knows its address."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:  # a short path, for sockets
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        Path(folder, "ray").mkdir()
        Path(folder, "ray/ray_current_cluster").write_text("127.0.0.1:1")
        with contextlib.closing(RayTasks(None)) as executor:
            yield executor


ONE_SOURCE = {"source": "local", "path": "text", "validation_fraction": 0.2}
MIXTURE = {
    "source": "mixture",
    "path": "text",
    "sources": [
        ONE_SOURCE | {"weight": 3, "glob": "*[02468].jsonl", "min_chars": 100},
        ONE_SOURCE | {"weight": 1, "glob": "*[13579].jsonl", "max_epochs": 3},
        {"weight": 1, "source": "stories", "documents": 20_000},
    ],
}


def corpus(executor, values):
    stage = SimpleNamespace(
        section=lambda name, choices: load_params(name, values, choices), say=lambda line: None,
        runtime=SimpleNamespace(progress=False), executor=lambda: contextlib.nullcontext(executor),
    )  # fmt: skip
    main(stage)
    return {str(path): path.read_bytes() for path in Path("data").rglob("*.*")}


def test_an_address_without_a_cluster_is_an_error_in_one_line():
    with pytest.raises(ValueError, match=r"^runtime.address = '127.0.0.1:1': no Ray cluster there") as error:
        RayTasks("127.0.0.1:1")
    assert "\n" not in str(error.value)


def test_paths_are_relative_to_this_folder_and_errors_are_raised_as_they_were(folder, ray_tasks):
    (folder / "a.txt").write_text("here")
    assert list(ray_tasks.ordered(Path.read_text, [Path("a.txt")] * 3)) == ["here"] * 3
    with pytest.raises(ValueError, match="^invalid literal for int") as error:
        list(ray_tasks.ordered(int, ["1", "x"]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", [ONE_SOURCE, MIXTURE], ids=["one source", "a mixture"])
def test_the_corpus_has_the_same_bytes_even_if_workers_are_killed(folder, ray_tasks, monkeypatch, values):
    (folder / "text").mkdir()
    for k in range(20):
        lines = (
            json.dumps({"text": f"document {i % 50_000} " + "word " * (i % 90)})
            for i in range(k * 3000, k * 3000 + 3000)
        )
        (folder / f"text/{k:02}.jsonl").write_text("\n".join(lines))
    alone = corpus(InProcess(), values)
    monkeypatch.setattr(local, "PART_BYTES", 100_000)
    killed, done = [], threading.Event()

    def kill():
        while not done.is_set() and len(killed) < 5:
            time.sleep(0.2)
            for process in psutil.process_iter(["cmdline"]):
                if (process.info["cmdline"] or [""])[0].startswith("ray::_run_in"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
                        killed.append(process.pid)
                    break

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert corpus(ray_tasks, values) == alone
    finally:
        done.set()
        thread.join()
    assert killed

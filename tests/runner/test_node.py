"""runner/node.py: what a node says about workers that end. tests/pipeline has real runs."""

import json
import subprocess
import sys

RUN = """
import json, sys
from tiny_lm.runner.node import _run_workers

program, order = sys.argv[1:]
sys.executable = program
print(json.dumps(_run_workers("train", json.loads(order))))
"""


def test_a_killed_worker_is_the_cause_and_not_those_that_torchrun_ends_for_it(tmp_path):
    worker = tmp_path / "worker"
    worker.write_text("#!/bin/sh\n[ $RANK = 1 ] && kill -KILL $$\nexec sleep 60\n")  # sleep ends by SIGTERM
    worker.chmod(0o755)
    order = {"rank": 0, "nodes": 1, "processes": 2, "master": "127.0.0.1", "port": 0, "address": "127.0.0.1"}
    command = [sys.executable, "-c", RUN, str(worker), json.dumps(order)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(output)[1] == "process 1 was killed by SIGKILL; run the same command to resume"

"""A fork server, and a folder in which it runs stages, without the seconds that each takes to start."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from tiny_lm.io.params import read_yaml
from tiny_lm.presets import apply


class Server:
    """Runs stages in forked processes; see server.py."""

    def __init__(self, environment, code, folder):
        self.log = folder / "log"
        self.environment = environment | {"PYTHONPATH": str(code)}
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("server.py")], env=self.environment, cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, folder, stage, **order):
        """The result: `code` (negative: the signal), `seconds`, `killed`, `counts` of moments, `peak_megabytes`,
        which began as large as the server, and `said`.
        """
        order |= {"folder": str(folder), "stage": stage, "log": str(self.log)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        outcome = json.loads(self.process.stdout.readline())
        return outcome | {"said": self.log.read_text(encoding="utf-8")}


class Bench:
    """A repository, a copy of the built one, whose `src` is the code that the server runs."""

    def __init__(self, server, repository):
        self.server, self.repository, self.path = server, repository, repository.path
        self.plan = read_yaml(self.path / "dvc.yaml")["stages"]
        self.before = self.state()

    def preset(self, settings):
        """Does what `tiny-lm preset` does, but fast."""
        params = self.path / "params.yaml"
        with contextlib.chdir(self.path):
            params.write_text(apply(params.read_text(encoding="utf-8"), settings.split()), encoding="utf-8")

    def start(self, stage, **order):
        """Deletes the outputs, as DVC does before a stage."""
        self.remove(stage)
        return self.server.run(self.path, stage, **order)

    def remove(self, stage):
        for path in self.outputs(stage):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def outputs(self, stage):
        lists = (self.plan[stage].get(key, ()) for key in ("outs", "metrics", "plots"))
        return [self.path / (out if isinstance(out, str) else next(iter(out))) for outs in lists for out in outs]

    def nothing_is_lost(self, stage, outcome, mend=lambda: None):
        """A stage that failed has said why in one line, and the earlier outputs are there again, or it says how to get
        them; then that is done, after `mend`. What happened, in words.
        """
        assert outcome["code"] == 1, outcome
        assert "Traceback" not in outcome["said"], outcome["said"]
        line = outcome["said"].splitlines()[-1]
        assert line.startswith(f"{stage}: "), outcome
        if line.endswith("The previous outputs are restored"):
            self.outputs_are_back()
            mend()
            return "the previous outputs are restored, then the same bytes"
        assert f"`tiny-lm restore {stage}`" in line, outcome
        mend()
        self.restore(stage)
        return "`tiny-lm restore`, as advised, restores the previous outputs, then the same bytes"

    def restore(self, stage):
        command = [sys.executable, "-c", "from tiny_lm.cli import main; main()", "restore", stage]
        subprocess.run(command, cwd=self.path, env=self.server.environment, check=True, capture_output=True)
        self.outputs_are_back()

    def outputs_are_back(self):
        assert self.state() == self.before

    def forget(self, stage):
        """No resume checkpoint: what runs next is not the same run again."""
        shutil.rmtree(self.path / ".work" / stage, ignore_errors=True)

    def state(self):
        """What the artifacts' folders hold: of files that depend on the machine, the steps; of all others, the hash."""
        state = {}
        for folder in ("data", "models", "results"):
            for file in sorted((self.path / folder).rglob("*")):
                if file.is_dir():
                    continue
                name, content = str(file.relative_to(self.path)), file.read_bytes()
                if "hardware" not in file.parts:
                    state[name] = hashlib.sha256(content).hexdigest()
                elif file.suffix == ".tsv":
                    state[name] = [line.split(b"\t")[0].decode() for line in content.splitlines()]
                else:
                    state[name] = sorted(json.loads(content))
        return state

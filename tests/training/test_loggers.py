import json
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny_lm.training.loggers import LiveLogger
from tiny_lm.training.module import CausalLMModule

ROWS = [(step, {"train_loss": 1 / step, "hardware/tokens_per_second": 10.0 * step}) for step in range(1, 6)]


def log(folder, rows):
    logger = LiveLogger(folder)
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
    return logger


def test_metrics_of_the_machine_have_a_separate_folder(tmp_path):
    log(tmp_path, ROWS)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"train_loss": 0.2, "step": 5}
    assert json.loads((tmp_path / "hardware/metrics.json").read_text()) == {"tokens_per_second": 50.0, "step": 5}
    assert (tmp_path / "plots/metrics/train_loss.tsv").read_text().splitlines()[:2] == ["step\ttrain_loss", "1\t1.0"]
    assert (tmp_path / "hardware/plots/metrics/tokens_per_second.tsv").exists()


def test_restored_rows_are_continued_without_a_gap(tmp_path):
    whole = log(tmp_path / "whole", ROWS)
    log(tmp_path / "again", [*ROWS[:3], (4, {"train_loss": 9.0})])  # step 4 was logged after the resume checkpoint
    again = LiveLogger(tmp_path / "again")
    again.restore(ROWS[:3])
    for step, metrics in ROWS[3:]:
        again.log_metrics(metrics, step)
    assert again.rows == whole.rows
    for path in (tmp_path / "whole").rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


def test_the_summary_is_complete_even_if_files_were_deleted(tmp_path):
    logger = log(tmp_path, ROWS)
    (tmp_path / "plots/metrics/train_loss.tsv").unlink()
    logger.summarize({"best_val_loss": 0.1, "hardware/torch": "2"})
    assert len((tmp_path / "plots/metrics/train_loss.tsv").read_text().splitlines()) == 6
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"train_loss": 0.2, "step": 5, "best_val_loss": 0.1}
    assert json.loads((tmp_path / "hardware/metrics.json").read_text())["torch"] == "2"


def test_logging_leaves_the_repository_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    log(tmp_path / "results", ROWS).summarize({})
    assert (tmp_path / "dvc.yaml").read_text() == "stages: {}\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dvc.yaml", "results"]


def test_logging_asks_nothing_of_git_or_studio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)  # and no commit
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "isat_token")
    monkeypatch.setenv("DVC_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("requests.sessions.Session.request", lambda *_, **__: pytest.fail("posts to Studio"))
    log(tmp_path / "results", ROWS)
    assert json.loads((tmp_path / "results/metrics.json").read_text())["step"] == 5


def test_trackio_gets_the_same_rows_under_the_project_of_the_environment(train, tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    calls = []
    real = trackio.init

    def init(project, **options):
        run = real(project=project, **options)
        calls.append((project, run))
        return run

    monkeypatch.setattr(trackio, "init", init)
    logged = []
    monkeypatch.setattr(trackio.Run, "log", lambda self, metrics, step=None: logged.append((step, metrics)))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    with_it = train("a", runtime={"loggers": ("trackio",)})
    assert calls[0][0] == "tiny-lm"
    assert [step for step, metrics in logged if "train_loss" in metrics] == list(range(1, 13))
    assert with_it.files == train("b").files
    assert len(calls) == 1  # only where it is asked for
    monkeypatch.setenv("TRACKIO_PROJECT", "mine")
    train("c", runtime={"loggers": ("trackio",)})
    assert calls[1][0] == "mine"


def test_a_resumed_run_is_a_new_one_of_trackio_with_all_rows(train, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    for name, module in list(sys.modules.items()):  # which have read TRACKIO_DIR when they were imported
        if name.startswith("trackio") and hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setenv("TRACKIO_PROJECT", "resumed")
    stopped_and_resumed(train, "trackio", monkeypatch)
    runs = [SQLiteStorage.get_logs("resumed", name) for name in SQLiteStorage.get_runs("resumed")]
    steps = [[row["step"] for row in rows if "train_loss" in row] for rows in runs]
    assert list(range(1, 13)) in steps
    assert len(steps) == 2


def stopped_and_resumed(train, logger, monkeypatch, between=lambda: None):
    """A run that is killed after step 7, one after its last resume checkpoint, and continued to the end."""
    real = CausalLMModule.on_train_batch_start

    def stop(module, *rest):
        if module.global_step == 7:
            raise RuntimeError("killed")
        real(module, *rest)

    monkeypatch.setattr(CausalLMModule, "on_train_batch_start", stop)
    with pytest.raises(RuntimeError, match="killed"):
        train("a", runtime={"loggers": (logger,)})
    between()
    monkeypatch.setattr(CausalLMModule, "on_train_batch_start", real)
    return train("a", runtime={"loggers": (logger,)})


def read_events(folder):
    """{metric: [(step, value), …]} of the event files in `folder`, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_the_same_rows_next_to_the_resume_checkpoint(train):
    pytest.importorskip("tensorboard")
    result = train("a", runtime={"loggers": ("tensorboard",)})
    events = read_events("tensorboard/work")
    for name in ("train_loss", "val_loss", "lr"):
        assert dict(events[name]) == pytest.approx(result.rows(name), rel=1e-6)  # events are float32
    assert "hardware/tokens_per_second" in events
    assert not [name for name in result.files if "events" in name]
    assert result.files == train("b").files
    assert not Path("tensorboard").exists()


def test_a_resumed_run_has_no_double_rows_in_tensorboard(train, monkeypatch):
    pytest.importorskip("tensorboard")
    stopped_and_resumed(train, "tensorboard", monkeypatch)
    for repeated in range(2):
        events = read_events("tensorboard/work")
        assert [step for step, _ in events["train_loss"]] == list(range(1, 13))
        assert [step for step, _ in events["val_loss"]] == [5, 10, 12]
        if not repeated:
            Path("work/last.ckpt").unlink()
            train("a", runtime={"loggers": ("tensorboard",)})  # from the start: the run takes its own place
    train("a", runtime={"loggers": ("tensorboard",)})  # has nothing left to do, and what it shows is whole all the same
    assert read_events("tensorboard/work") == events


def wandb_records(path):
    """The records of W&B's log file, which is in LevelDB's log format: blocks of 32 KB, of parts with a header each."""
    data, place, whole = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)  # after a checksum
        if place + 7 + length > len(data):  # it is being written
            return
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the record is whole, or this was its last part
            yield whole
            whole = b""


def wandb_runs(folder):
    """(project, params, rows) of each offline run, oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    runs = []
    for path in sorted(Path(folder).glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_ctime_ns):
        project, params, rows, end = "", {}, [], time.monotonic() + 60
        while True:  # `finish` may return before W&B's other process has written all
            records = [Record.FromString(data) for data in wandb_records(path)]
            if "exit" in [record.WhichOneof("record_type") for record in records]:
                break
            assert time.monotonic() < end, f"{path} has no end"
            time.sleep(0.05)
        for record in records:
            if record.HasField("run"):
                project = record.run.project or project
                params |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.HasField("history"):
                rows.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
        runs.append((project, params, rows))
    return runs


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    module = pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "SILENT": "true", "CONFIG_DIR": tmp_path, "CACHE_DIR": tmp_path}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    yield module
    module.teardown()


def test_wandb_gets_the_same_rows_and_the_params(train, wandb, monkeypatch, tmp_path):
    result = train("a", runtime={"loggers": ("wandb", "wandb")})  # twice is once
    wandb.finish()
    ((project, params, rows),) = wandb_runs(".")
    assert project == "tiny-lm"
    assert params["train"] == result.train
    for name in ("train_loss", "val_loss"):
        logged = [(row["trainer/global_step"], row[name]) for row in rows if name in row]
        assert len(logged) == len(dict(logged))
        assert dict(logged) == pytest.approx(result.rows(name))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    again = train("b", runtime={"loggers": ("wandb",)})
    wandb.finish()
    assert wandb_runs(tmp_path)[0][0] == "mine"
    assert not Path("wandb").exists()
    assert again.files == result.files


def test_a_resumed_run_is_a_new_one_of_wandb_with_all_rows(train, wandb, monkeypatch):
    stopped_and_resumed(train, "wandb", monkeypatch, wandb.finish)
    wandb.finish()
    runs = [rows for _, _, rows in wandb_runs(".")]
    steps = [[row["trainer/global_step"] for row in rows if "train_loss" in row] for rows in runs]
    assert sorted(steps) == [list(range(1, 8)), list(range(1, 13))]


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_logger_that_is_not_installed_is_one_line(train, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    command = re.escape(f"`pip install -c constraints.txt -e '.[{name}]'`")
    with pytest.raises(ValueError, match=rf"^runtime\.loggers = {name}: not installed; run {command}$"):
        train("a", runtime={"loggers": (name,)})


def test_a_logger_that_does_not_start_stops_the_run_before_a_step(train, wandb, monkeypatch):
    def init(**options):
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(ValueError, match="^runtime.loggers = wandb: No API key configured"):
        train("a", runtime={"loggers": ("wandb",)})

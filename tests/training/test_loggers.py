import json
import sys

import pytest

from tiny_lm.training.loggers import LiveLogger

ROWS = [(step, {"train_loss": 1 / step, "hardware/tokens_per_second": 10.0 * step}) for step in range(1, 6)]


def log(folder, rows):
    logger = LiveLogger(folder)
    for step, metrics in rows:
        logger.log_metrics(metrics, step)
    return logger


def test_figures_of_the_machine_have_a_folder_of_their_own(tmp_path):
    log(tmp_path, ROWS)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"train_loss": 0.2, "step": 5}
    assert json.loads((tmp_path / "hardware/metrics.json").read_text()) == {"tokens_per_second": 50.0, "step": 5}
    assert (tmp_path / "plots/metrics/train_loss.tsv").read_text().splitlines()[:2] == ["step\ttrain_loss", "1\t1.0"]
    assert (tmp_path / "hardware/plots/metrics/tokens_per_second.tsv").exists()


def test_restored_rows_are_continued_as_if_nothing_had_happened(tmp_path):
    whole = log(tmp_path / "whole", ROWS)
    log(tmp_path / "again", [*ROWS[:3], (4, {"train_loss": 9.0})])  # step 4 was logged after the recovery state
    again = LiveLogger(tmp_path / "again")
    again.restore(ROWS[:3])
    for step, metrics in ROWS[3:]:
        again.log_metrics(metrics, step)
    assert again.rows == whole.rows
    for path in (tmp_path / "whole").rglob("*.*"):
        assert (tmp_path / "again" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


def test_the_summary_is_whole_after_somebody_deleted_the_files(tmp_path):
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


def test_trackio_that_is_not_installed_is_said_in_a_line(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match=r"^runtime\.loggers = trackio: not installed; `pip install"):
        train("a", runtime={"loggers": ("trackio",)})

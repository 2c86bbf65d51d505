"""Loggers: DVCLive always, and TensorBoard, Trackio or Weights & Biases if `runtime.loggers` asks for them.

DVCLive's own Lightning logger posts to Studio and parses all files again at every step; ours writes through `Live`.
It keeps the rows that it logged, as part of the resume checkpoint: a resumed run has no missing and no double rows.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from dvclive import Live
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

HARDWARE = "hardware/"  # prefix of metrics that depend on the machine and the time; they go to a separate folder
Rows = list[tuple[int, dict[str, float]]]  # of (step, metrics)


class LiveFiles(Live):
    """`Live` that only writes files. Its own setup fails in a repository without a commit, and reports to Studio."""

    def _init_dvc(self) -> None: ...

    _init_studio = _init_dvc


class LiveLogger(Logger):
    """Writes `folder/metrics.json` and `folder/plots/metrics/NAME.tsv`, and the same under `folder/hardware/`."""

    name, version = "dvclive", ""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.restore([])

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: DVC tracks params.yaml."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.append((step, metrics))
        self._write([(step, metrics)])

    def restore(self, rows: Rows) -> None:
        """Writes the files again, with `rows` and nothing else."""
        self.rows = list(rows)
        options: dict[str, Any] = {"resume": False, "dvcyaml": None, "save_dvc_exp": False}  # no edits, no commits
        self._lives = [LiveFiles(str(folder), **options) for folder in (self.folder, self.folder / "hardware")]
        self._write(self.rows)

    def summarize(self, metrics: dict[str, float | str]) -> None:
        """Adds metrics of the whole run to metrics.json, next to the last value of each logged metric."""
        self.restore(self.rows)  # in case files were deleted during the run
        for name, value in metrics.items():
            self._live(name).log_metric(name.removeprefix(HARDWARE), value, plot=False)
        self._write([])

    def _write(self, rows: Rows) -> None:
        """Appends rows to the plots and updates metrics.json."""
        for step, metrics in rows:
            for name, value in metrics.items():
                live = self._live(name)
                live.step = step
                live.log_metric(name.removeprefix(HARDWARE), value)
        for live in self._lives:
            live.make_summary()

    def _live(self, name: str) -> LiveFiles:
        return self._lives[name.startswith(HARDWARE)]


class TrackioLogger(Logger):
    """Lightning has no logger for Trackio."""

    name, version = "trackio", ""
    log_hyperparams = LiveLogger.log_hyperparams

    def __init__(self, project: str, config: dict[str, Any]) -> None:
        super().__init__()
        import trackio

        self.experiment = trackio.init(project=project, config=config, embed=False)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.experiment.log(metrics, step=step)

    def finalize(self, status: str) -> None:
        self.experiment.finish()


def start_logger(name: str, folder: Path, params: dict[str, Any]) -> Logger:
    """A logger of `runtime.loggers`, which gets the same rows as DVCLive. ValueError if it cannot start.

    TensorBoard and Weights & Biases write next to `folder`, or to WANDB_DIR. The project is WANDB_PROJECT or
    TRACKIO_PROJECT, by default tiny-lm.
    """
    project = os.environ.get(f"{name.upper()}_PROJECT", "tiny-lm")
    try:
        if name == "tensorboard":
            logger: Any = TensorBoardLogger(folder.parent, name, version=folder.name)
            shutil.rmtree(logger.log_dir, ignore_errors=True)  # the same run, before it was resumed or repeated
        elif name == "wandb":
            logger = WandbLogger(project=project, save_dir=os.environ.get("WANDB_DIR", folder.parent), config=params)
        else:
            logger = TrackioLogger(project, params)
        logger.experiment  # noqa: B018  # starts it now, so that errors come before the first step
    except ImportError:
        raise ValueError(
            f"runtime.loggers = {name}: not installed; run `pip install -c constraints.txt -e '.[{name}]'`"
        ) from None
    except Exception as error:  # not logged in, no network: each library has its own exceptions
        raise ValueError(f"runtime.loggers = {name}: {error}") from error
    return logger

"""Metrics of a run: DVCLive always, and beside it TensorBoard, Trackio or Weights & Biases where the user asks for it.

DVCLive's own Lightning logger posts to Studio and parses all files again at every step; this one writes through `Live`.
It remembers its rows, as part of the recovery state: a resumed run continues without a missing or a double row.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from dvclive import Live
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

HARDWARE = "hardware/"  # metrics of this prefix depend on machine and time, and go to a folder of their own
Rows = list[tuple[int, dict[str, float]]]  # of (step, metrics)


class Files(Live):
    """`Live` that only writes files: it asks nothing of Git, which may have no commit yet, and tells Studio nothing."""

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
        """Params are in params.yaml, which DVC tracks."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.append((step, metrics))
        self._write([(step, metrics)])

    def restore(self, rows: Rows) -> None:
        """Starts the files again with `rows`, and nothing after them."""
        self.rows = list(rows)
        options: dict[str, Any] = {"resume": False, "dvcyaml": None, "save_dvc_exp": False}  # no edits, no commits
        self._lives = [Files(str(folder), **options) for folder in (self.folder, self.folder / "hardware")]
        self._write(self.rows)

    def summarize(self, figures: dict[str, float | str]) -> None:
        """Writes figures of the whole run beside the last of each metric, into metrics.json alone."""
        self.restore(self.rows)  # whole again, should anything have been deleted while the run went on
        for name, value in figures.items():
            self._lives[name.startswith(HARDWARE)].log_metric(name.removeprefix(HARDWARE), value, plot=False)
        self._write([])

    def _write(self, rows: Rows) -> None:
        """Adds rows to the plots, and brings metrics.json up to date."""
        for step, metrics in rows:
            for name, value in metrics.items():
                live = self._lives[name.startswith(HARDWARE)]
                live.step = step
                live.log_metric(name.removeprefix(HARDWARE), value)
        for live in self._lives:
            live.make_summary()


class TrackioLogger(Logger):
    """Lightning's own loggers are for TensorBoard and Weights & Biases; this is one for Trackio."""

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
    """A logger of `runtime.loggers`, which gets the rows that DVCLive gets. TensorBoard and Weights & Biases write
    beside `folder`, or in WANDB_DIR; the project is WANDB_PROJECT or TRACKIO_PROJECT, else tiny-lm. ValueError, a line.
    """
    project = os.environ.get(f"{name.upper()}_PROJECT", "tiny-lm")
    try:
        if name == "tensorboard":
            logger: Any = TensorBoardLogger(folder.parent, name, version=folder.name)
            shutil.rmtree(logger.log_dir, ignore_errors=True)  # of the run that this one continues, or repeats
        elif name == "wandb":
            logger = WandbLogger(project=project, save_dir=os.environ.get("WANDB_DIR", folder.parent), config=params)
        else:
            logger = TrackioLogger(project, params)
        logger.experiment  # noqa: B018  # begins now: what is missing is not missed in the middle of a run
    except ImportError:
        raise ValueError(f"runtime.loggers = {name}: not installed; `pip install 'tiny-lm[{name}]'`") from None
    except Exception as error:  # no login, no network: each says it in a way of its own
        raise ValueError(f"runtime.loggers = {name}: {error}") from error
    return logger

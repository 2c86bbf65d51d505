"""Metrics of a run: DVCLive always, Trackio where the user asks for it.

DVCLive's own Lightning logger posts to Studio and parses all files again at every step; this one writes through `Live`.
It remembers its rows, as part of the recovery state: a resumed run continues without a missing or a double row.
"""

import os
from pathlib import Path
from typing import Any

from dvclive import Live
from pytorch_lightning.loggers.logger import Logger

HARDWARE = "hardware/"  # metrics of this prefix depend on machine and time, and go to a folder of their own
Rows = list[tuple[int, dict[str, float]]]  # of (step, metrics)


class LiveLogger(Logger):
    """Writes `folder/metrics.json` and `folder/plots/metrics/NAME.tsv`, and the same under `folder/hardware/`."""

    name, version = "dvclive", ""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.rows: Rows = []
        self._open()

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Params are in params.yaml, which DVC tracks."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.append((step, metrics))
        self._write([(step, metrics)])

    def restore(self, rows: Rows) -> None:
        """Starts the files again with `rows`, and nothing after them."""
        self.rows = list(rows)
        self._open()
        self._write(self.rows)

    def summarize(self, figures: dict[str, float | str]) -> None:
        """Writes figures of the whole run beside the last of each metric, into metrics.json alone."""
        self.restore(self.rows)  # whole again, should anything have been deleted while the run went on
        for name, value in figures.items():
            self._lives[name.startswith(HARDWARE)].log_metric(name.removeprefix(HARDWARE), value, plot=False)
        self._write([])

    def _open(self) -> None:
        options: dict[str, Any] = {"resume": False, "dvcyaml": None, "save_dvc_exp": False}  # no edits, no commits
        self._lives = [Live(str(folder), **options) for folder in (self.folder, self.folder / "hardware")]

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
    """Sends the same rows to Trackio, an optional extra, under the project `TRACKIO_PROJECT` or `tiny-lm`."""

    name, version = "trackio", ""

    def __init__(self) -> None:
        super().__init__()
        try:
            import trackio
        except ImportError:
            raise ValueError("runtime.loggers = trackio: not installed; `pip install 'tiny-lm[trackio]'`") from None
        self._trackio = trackio
        self._run = trackio.init(project=os.environ.get("TRACKIO_PROJECT", "tiny-lm"), embed=False)

    log_hyperparams = LiveLogger.log_hyperparams

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._run.log(metrics, step=step)

    def finalize(self, status: str) -> None:
        self._trackio.finish()

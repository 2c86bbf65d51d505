"""Training without what Lightning and DVCLive import and it does not use: it starts sooner, in less memory."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


def keep_out_unused_libraries() -> None:
    """To be called before Lightning and DVCLive are imported.

    Lightning asks torchmetrics for two classes, to recognize its metrics. There are none here, and with the two come
    scipy, transformers and some hundred metrics. DVCLive takes pandas where it is installed, for tables. Torch is
    imported before it: it looks through all modules that are loaded, which takes longer once DVCLive's are.
    """
    import torch  # noqa: F401

    empty = type("Metric", (), {})
    stand_in = ModuleType("torchmetrics")
    stand_in.__dict__.update(Metric=empty, MetricCollection=empty, __version__="1.0.0")
    stand_in.__spec__ = ModuleSpec("torchmetrics", None)
    sys.modules["torchmetrics"] = stand_in
    sys.modules["pandas"] = None  # type: ignore[assignment]  # "is not installed"
    import dvclive  # noqa: F401

    del sys.modules["pandas"]

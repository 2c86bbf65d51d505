"""The `export` section of params.yaml."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ExportParams:
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # 16 bits: files of half the size

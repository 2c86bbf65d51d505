"""Mixtures: several sources in one corpus, each with a weight. docs/mixtures.md defines weights.

A single source is a mixture of one, so that the stage has one path for both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Literal

from tiny_lm.corpus.sources.base import DatasetParams
from tiny_lm.corpus.sources.registry import SOURCES
from tiny_lm.io.params import check, load_params, params_class, show


@dataclass(frozen=True, kw_only=True)
class Share:
    """How much of the training text comes from a source of a mixture."""

    weight: float = 1.0  # in proportion to the weights of the other sources
    max_epochs: int = 1  # a source that is smaller than its share is used up to this many times

    def __post_init__(self) -> None:
        check(self.weight > 0, "weight", self.weight, "above 0")
        check(1 <= self.max_epochs <= 1000, "max_epochs", self.max_epochs, "between 1 and 1000")


@dataclass(frozen=True)
class Component:
    """A source of a corpus."""

    section: str  # in params.yaml: dataset, or dataset.sources.0
    params: DatasetParams
    share: Share = Share()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Names the keys of the component in error messages: `dataset.path` -> `dataset.sources.0.path`."""
        try:
            yield
        except ValueError as error:
            keys = "|".join(field.name for field in fields(self.params))
            raise ValueError(re.sub(rf"\bdataset\.(?=({keys})\b)", f"{self.section}.", str(error))) from error


@dataclass(frozen=True, kw_only=True)
class MixtureParams:
    source: Literal["mixture"] = "mixture"  # stories | huggingface | local | url | mixture
    path: str = "data/raw"  # a folder that has the files of all local sources, which DVC watches
    seed: int = 0  # for the stories, and for validation: random
    deduplicate: bool = True  # drop exact duplicates; of equal texts in two sources, the first source keeps its own
    # each with the keys of a single source, and weight, its share of the training text: docs/mixtures.md
    sources: tuple[Mapping[str, object], ...] = ()

    def __post_init__(self) -> None:
        check(self.seed >= 0, "seed", self.seed, "0 or more")
        check(bool(self.sources), "sources", list(self.sources), "a list of sources, each with a weight")
        self.components()

    def components(self) -> tuple[Component, ...]:
        """The sources. Raises ValueError if one is invalid."""
        return tuple(self._component(f"sources.{number}", values) for number, values in enumerate(self.sources))

    def _component(self, section: str, values: Mapping[str, object]) -> Component:
        cls = params_class(section, values, SOURCES)
        allowed = [field.name for field in (*fields(Share), *fields(cls))]
        for key in values:
            if key not in allowed:
                of = f"with source = {values['source']}"
                raise ValueError(f"{section}.{str(key)[:80]}: unknown key {of}; allowed: {', '.join(allowed)}")
        if "weight" not in values:
            raise ValueError(f"{section}.weight: missing; set the share of the training text, such as 0.5")
        shares = {field.name for field in fields(Share)}
        share = load_params(section, {key: value for key, value in values.items() if key in shares}, Share)
        of_all = {"seed": self.seed, "deduplicate": self.deduplicate}
        own = {key: value for key, value in values.items() if key not in shares}
        params = load_params(section, of_all | own, SOURCES)
        for key, value in of_all.items():
            check(getattr(params, key) == value, f"{section}.{key}", getattr(params, key), f"dataset.{key} = {value}")
        if params.reads_path:
            inside = (
                Path(params.path).is_relative_to(self.path)
                and ".." not in Path(params.path).parts[len(Path(self.path).parts) :]
            )
            check(
                inside,
                f"{section}.path",
                params.path,
                f"in dataset.path = {show(self.path)}, the folder that DVC watches",
            )
        return Component(f"dataset.{section}", params, share)


DATASETS: dict[str, type[DatasetParams] | type[MixtureParams]] = {**SOURCES, "mixture": MixtureParams}


def components(params: DatasetParams | MixtureParams) -> tuple[Component, ...]:
    """The sources of a corpus, in order."""
    return params.components() if isinstance(params, MixtureParams) else (Component("dataset", params),)


def sizes_by_weight(available: Sequence[int], shares: Sequence[Share]) -> list[int]:
    """The bytes to take from each source: in proportion to the weights, until one source is used up.

    `available` are the bytes of each. Fractions are exact, so all machines agree.
    """
    total = min(
        Fraction(size * share.max_epochs) / Fraction(share.weight)
        for size, share in zip(available, shares, strict=True)
    )
    return [ceil(total * Fraction(share.weight)) for share in shares]

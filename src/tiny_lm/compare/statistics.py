"""The difference of two models in bits per byte on the same documents, with a confidence interval.

A model's bits per byte are the bits of all documents divided by their bytes, so the difference is a ratio estimate over
documents (Cochran 1977, chapter 6). It is paired: the difficulty that a document has for both models cancels out (Dror
et al. 2018; Miller 2024, arXiv 2411.00640). It has two sources of randomness, each with its own variance:

- Documents: the delete-one jackknife (Efron & Tibshirani 1993, chapter 11) and Student's t. Long documents weigh more,
  so the degrees of freedom are the effective number of documents (Kish 1965) minus one.
- Seeds: Welch's variance and degrees of freedom (Welch 1947) over the bits per byte of each seed. The variance over
  documents already includes the effect of a seed on single documents, so it is subtracted (two-way clustering: Cameron
  et al. 2011).

The squares of the half-widths, each with its own t, are added, which gives at least the nominal coverage for normal
errors (Banerjee 1960). docs/lab/intervals.md has the derivation; benchmarks/coverage.py simulates how often the
interval contains the true difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The variant's bits per byte minus the baseline's: below zero, the variant is better."""

    value: float
    half_width: float | None  # of the interval; None if there are too few documents and seeds for one
    covers: tuple[Literal["documents", "seeds"], ...]  # sources of randomness in the interval

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.half_width is None else (self.value - self.half_width, self.value + self.half_width)

    @property
    def verdict(self) -> Literal["better", "worse", "not distinguishable", "no interval"]:
        if self.half_width is None:
            return "no interval"
        if abs(self.value) <= self.half_width:
            return "not distinguishable"
        return "better" if self.value < 0 else "worse"

    def to_json(self) -> dict[str, Any]:
        return {"difference": self.value, "interval": self.interval, "covers": self.covers, "verdict": self.verdict}


def compare(baseline: Array, variant: Array, sizes: Array, confidence: float) -> Difference:
    """The difference of two models, each trained with one or more seeds, on the same documents.

    baseline and variant, both (seeds, documents), are bits of text; sizes (documents,) are its bytes. The interval
    covers documents if their effective number is at least two, and seeds if both models have at least two.
    """
    assert sizes.sum() > 0, "the documents are empty"
    assert baseline.shape[1:] == variant.shape[1:] == sizes.shape, (baseline.shape, variant.shape, sizes.shape)
    bits = variant.mean(0) - baseline.mean(0)  # (documents,)
    squares, covers = 0.0, list[Literal["documents", "seeds"]]()
    effective = effective_documents(sizes)
    if effective >= 2:
        covers.append("documents")
        squares += student_t(confidence, effective - 1) ** 2 * _variance_over_documents(bits, sizes)
    if min(len(baseline), len(variant)) >= 2:
        covers.append("seeds")
        over_seeds, freedom, shared = _variance_over_seeds([baseline, variant], sizes)
        excess = over_seeds - shared if effective >= 2 else over_seeds
        if excess > 0:
            squares += student_t(confidence, freedom) ** 2 * excess
    return Difference(float(bits.sum() / sizes.sum()), math.sqrt(squares) if covers else None, tuple(covers))


def effective_documents(sizes: Array) -> float:
    """The number of equally long documents that would have as much information: (Σb)² / Σb²."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def student_t(confidence: float, freedom: float) -> float:
    """The half-width, in standard errors, of an interval that contains a Student's t with probability `confidence`."""
    return float(stdtrit(freedom, 0.5 + confidence / 2))


def extremes(baseline: Array, variant: Array, sizes: Array, count: int) -> tuple[list[int], list[int]]:
    """The indices of the documents that gained most (fewer bits), and of those that lost most.

    Ranked by bits divided by the square root of bytes, because noise grows with that root: by bits, the longest
    documents would always come first, and by bits per byte, the shortest.
    """
    change = (variant.mean(0) - baseline.mean(0)) / np.sqrt(np.maximum(sizes, 1))  # (documents,)
    order = np.argsort(change, kind="stable").tolist()
    return [i for i in order[:count] if change[i] < 0], [i for i in order[::-1][:count] if change[i] > 0]


def _variance_over_documents(bits: Array, sizes: Array) -> float:
    """Jackknife variance of Σ bits / Σ sizes: how much the ratio changes when one document is left out."""
    total, n = sizes.sum(), len(sizes)
    changes = (bits - bits.sum() / total * sizes) / (total - sizes)  # (documents,)
    return float((n - 1) / n * (changes**2).sum())


def _variance_over_seeds(models: list[Array], sizes: Array) -> tuple[float, float, float]:
    """Welch's variance over seeds, its degrees of freedom, and the part that is in the variance over documents too.

    That part is the interaction of seed and document: the variance of what remains of a seed's bits on a document after
    subtracting the document's mean over seeds and the seed's bits per byte.
    """
    total, n = sizes.sum(), len(sizes)
    variances, freedoms, shared = [], [], 0.0
    for bits in models:  # (seeds, documents)
        seeds = len(bits)
        ratios = bits.sum(1, keepdims=True) / total  # (seeds, 1)
        rest = bits - bits.mean(0) - (ratios - ratios.mean()) * sizes
        variances.append(float(ratios.var(ddof=1)) / seeds)
        freedoms.append(seeds - 1)
        shared += float((rest**2).sum()) * n / max(n - 1, 1) / (seeds - 1) / seeds / total**2
    variance = sum(variances)
    squares = sum(v**2 / freedom for v, freedom in zip(variances, freedoms, strict=True))
    return variance, variance**2 / squares if squares else math.inf, shared

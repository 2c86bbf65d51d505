"""Whether two models differ: bits per byte on the same documents, with a confidence interval of the difference.

A model's bits per byte are the bits of all documents over the bytes of all documents, so the difference of two models
is a ratio estimate over documents (Cochran 1977, chapter 6), paired: what makes a document hard for both cancels
(Dror et al. 2018; Miller 2024, arXiv 2411.00640). Two things in it are random, and each has a variance of its own.

- Documents: the delete-one jackknife (Efron & Tibshirani 1993, chapter 11) and Student's t. Long documents weigh more,
  so the degrees of freedom are the effective number of documents (Kish 1965) less one, not the number.
- Seeds: Welch's variance and degrees of freedom (Welch 1947) over the bits per byte of each seed. What a seed does to
  single documents is in the variance over documents already, and is taken out (two-way crossed: Cameron et al. 2011).

Half-widths, each with its own t, add as squares, which covers at least what it says for normal errors (Banerjee 1960).
docs/compare.md has the derivation, and how often the interval holds the truth in simulations: benchmarks/coverage.py.
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
    half_width: float | None  # of the interval; None where neither documents nor seeds are enough for one
    covers: tuple[Literal["documents", "seeds"], ...]  # whose choice the interval covers

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


def compare(baseline: Array, variant: Array, sizes: Array, confidence: float) -> Difference:
    """The difference of two models, each trained with one or more seeds, on the same documents.

    baseline (seeds, documents) and variant (other seeds, documents) are bits of text, sizes (documents,) bytes of it.
    An interval covers documents where they count for two or more, and seeds where both models have two or more.
    """
    assert sizes.sum() > 0, "documents without a byte"
    assert baseline.shape[1:] == variant.shape[1:] == sizes.shape, (baseline.shape, variant.shape, sizes.shape)
    bits = variant.mean(0) - baseline.mean(0)  # (documents,)
    squares, covers = 0.0, list[Any]()
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
    """How many documents of equal size say as much about a mean over bytes as these do: (Σb)² / Σb²."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def student_t(confidence: float, freedom: float) -> float:
    """How many standard errors to each side hold `confidence` of Student's t."""
    return float(stdtrit(freedom, 0.5 + confidence / 2))


def extremes(baseline: Array, variant: Array, sizes: Array, count: int) -> tuple[list[int], list[int]]:
    """The numbers of the documents that gained most (bits went down), and of those that lost most.

    By bits over the square root of bytes, which is how chance grows with length: by bits the longest documents would
    always come first, by bits per byte the shortest.
    """
    change = (variant.mean(0) - baseline.mean(0)) / np.sqrt(np.maximum(sizes, 1))  # (documents,)
    order = np.argsort(change, kind="stable").tolist()
    return [i for i in order[:count] if change[i] < 0], [i for i in order[::-1][:count] if change[i] > 0]


def _variance_over_documents(bits: Array, sizes: Array) -> float:
    """Jackknife variance of Σ bits / Σ sizes: by how much the ratio moves when each document is left out."""
    total, n = sizes.sum(), len(sizes)
    moves = (bits - bits.sum() / total * sizes) / (total - sizes)  # (documents,)
    return float((n - 1) / n * (moves**2).sum())


def _variance_over_seeds(models: list[Array], sizes: Array) -> tuple[float, float, float]:
    """Welch's variance of the difference over seeds, its degrees of freedom, and the part that documents show as well.

    That part is the interaction: what is left of a seed's bits on a document without the mean of the document over
    seeds and the seed's own bits per byte, over seeds and documents as if they were drawn one by one.
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

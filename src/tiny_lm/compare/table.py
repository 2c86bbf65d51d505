"""Formats a comparison as text: a table, the documents that changed most, and the conclusions; 100 columns wide."""

from __future__ import annotations

import math

from tiny_lm.compare.comparison import Comparison, ExamDifference, Variant, one_line
from tiny_lm.compare.statistics import Difference

COVERS = {
    ("documents", "seeds"): "The interval accounts for the choice of documents and seeds.",
    ("documents",): "The interval accounts for the choice of documents but not of seeds: with another train.seed,\n"
    "the difference may change. Train each with two or more seeds: `dvc exp run -S train.seed=2`.",
    ("seeds",): "The interval accounts for the choice of seeds but not of documents: one is most of the split.",
    (): "There is no interval, because one document is most of the split. Split the text into documents\n"
    "(dataset.separator), or train each variant with two or more seeds: `dvc exp run -S train.seed=2`.",
}


def format_comparison(comparison: Comparison) -> str:
    baseline, variants = comparison.baseline, comparison.variants
    halves = [variant.difference.half_width for variant in variants if variant.difference]
    digits = max([4, *(min(6, 1 - math.floor(math.log10(half))) for half in halves if half)])
    percent = f"{100 * comparison.confidence:g} %"
    lines = [
        f"{comparison.documents:,} validation documents, {comparison.bytes:,} bytes; bits per byte, lower is better\n",
        f"{'':<33}{'seeds':>5}  bits/byte  difference  {percent + ' interval':<20}  verdict",
    ]
    for variant in [baseline, *variants]:
        row = f"{one_line(variant.name, 33):<33}{len(variant.revs):>5}  {variant.bits_per_byte:>9.4f}"
        if d := variant.difference:
            row += f"  {d.value:>+10.{digits}f}  {_interval(d, digits):<20}  {d.verdict}"
        revs = [] if variant.revs == [variant.name] else [one_line(f"  {', '.join(variant.revs)}", 100)]
        lines += [row, *revs]
    for variant in variants:
        for verb, documents in (("gained", variant.gained), ("lost", variant.lost)):
            if documents:
                lines.append(f"\nDocuments that {verb} most for their length: {baseline.name} → {variant.name}")
            for doc in documents:
                change = f"{doc.before:7.3f} → {doc.after:.3f} {doc.after - doc.before:+.3f}"
                line = f"{doc.document:>8} {doc.bytes:>8,} bytes {change}  {doc.text or ''}"
                lines.append(one_line(line, 100).rstrip())
    sentences = [_sentence(variant, baseline.name, percent, digits) for variant in variants]
    sentences += [
        _exam(variant.name, variant.exam, percent) for variant in variants if variant.exam and not variant.identical
    ]
    return "\n".join([*lines, "", *sentences, "", *_notes(comparison)]).rstrip()


def _interval(difference: Difference, digits: int) -> str:
    return " to ".join(f"{end:+.{digits}f}" for end in difference.interval or ())


def _sentence(variant: Variant, baseline: str, percent: str, digits: int) -> str:
    assert variant.difference
    name, d, verdict = variant.name, variant.difference, variant.difference.verdict
    amount = f"{abs(d.value):.{digits}f} bits per byte"
    if variant.identical:
        return f"{name} is the same as {baseline}: every document has the same loss."
    if d.interval is None:
        direction = "higher" if d.value > 0 else "lower"
        return f"{name} is {amount} {direction} than {baseline}, which may be chance."
    if verdict == "not distinguishable":
        difference = f"{d.value:+.{digits}f} bits per byte ({percent} interval {_interval(d, digits)})"
        return f"{name} is not distinguishable from {baseline}: {difference}."
    low, high = sorted(abs(end) for end in d.interval)
    interval = f"{percent} interval {low:.{digits}f} to {high:.{digits}f}"
    return f"{name} is {verdict} than {baseline} by {amount} ({interval})."


def _exam(name: str, exam: ExamDifference, percent: str) -> str:
    """The difference of the accuracies, in percentage points."""
    change = f"Exam, {name}: {100 * exam.before:.1f} % → {100 * exam.after:.1f} % of {exam.questions:,} questions"
    if exam.errors.interval is None:
        return f"{change}."
    if exam.errors.interval == (0, 0):
        return f"{change}, as many right answers about every document."
    low, high = (-100 * end for end in reversed(exam.errors.interval))
    return f"{change}, {low:+z.1f} to {high:+z.1f} points ({percent} interval): {exam.errors.verdict}."


def _notes(comparison: Comparison) -> list[str]:
    """Caveats: which randomness the intervals cover, and others."""
    effective, notes = comparison.effective_documents, list[str]()
    variants = [variant for variant in comparison.variants if not variant.identical]
    for covers, note in COVERS.items():
        names = [variant.name for variant in variants if variant.difference and variant.difference.covers == covers]
        if names:
            notes.append(note if len(names) == len(variants) else f"{', '.join(names)}: {note}")
    if 2 <= effective < 10:
        notes.append(f"The documents are worth only {effective:.1f} of equal length, so the interval is rough.")
    if len(comparison.variants) > 1 and any(v.difference and v.difference.covers for v in variants):
        apart = ", separately for losses and exam" if any(variant.exam for variant in variants) else ""
        notes.append(f"Intervals are widened so that all {len(comparison.variants)} hold at once (Bonferroni){apart}.")
    if variants:
        notes += [f"{rev} is the same run as {first}; it counts once." for rev, first in comparison.repeats.items()]
    if comparison.tokenizers_differ:
        notes.append("The tokenizers differ: bits per byte are comparable, losses per token are not.")
    return notes

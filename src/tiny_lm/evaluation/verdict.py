"""A comparison in words: a table, the documents behind it, and what it means, in lines of 100 columns."""

from __future__ import annotations

import math
from typing import Any

COVERS = {
    "documents and seeds": "The interval covers the choice of documents and of seeds.",
    "documents": "The interval covers the choice of documents, not of seeds: with another train.seed the difference\n"
    "may be another. Give each two seeds or more: `dvc exp run -S train.seed=2`.",
    "seeds": "The interval covers the choice of seeds, not of documents: one makes up most of the split.",
    "": "There is no interval, since one document makes up most of the split. Cut the text into documents\n"
    "(dataset.separator), or give each variant two seeds or more: `dvc exp run -S train.seed=2`.",
}


def report(result: dict[str, Any]) -> str:
    """The result for people: a table, the documents behind it, and plain sentences; 100 columns wide."""
    baseline, variants = result["baseline"], result["variants"]
    halves = [(v["interval"][1] - v["interval"][0]) / 2 for v in variants if v["interval"]]
    digits = max([4, *(min(6, 1 - math.floor(math.log10(half))) for half in halves if half > 0)])
    percent = f"{100 * result['confidence']:g} %"
    lines = [
        f"{result['documents']:,} validation documents, {result['bytes']:,} bytes; bits per byte, less is better\n",
        f"{'':<33}{'seeds':>5}  bits/byte  difference  {percent + ' interval':<20}  verdict",
    ]
    for entry in [baseline, *variants]:
        row = f"{cut(entry['name'], 33):<33}{len(entry['revs']):>5}  {entry['bits_per_byte']:>9.4f}"
        if entry is not baseline:
            row += f"  {entry['difference']:>+10.{digits}f}  {_interval(entry, digits):<20}  {entry['verdict']}"
        lines += [row] if entry["revs"] == [entry["name"]] else [row, cut(f"  {', '.join(entry['revs'])}", 100)]
    for entry in variants:
        for key in ("gained", "lost"):
            if entry[key]:
                lines.append(f"\nDocuments that {key} most for their length, {baseline['name']} → {entry['name']}")
            for d in entry[key]:
                change = f"{d['before']:7.3f} → {d['after']:.3f} {d['after'] - d['before']:+.3f}"
                lines.append(
                    cut(f"{d['document']:>8} {d['bytes']:>8,} bytes {change}  {d['text'] or ''}", 100).rstrip()
                )
    sentences = [_sentence(entry, baseline["name"], percent, digits) for entry in variants]
    return "\n".join([*lines, "", *sentences, "", *_notes(result)])


def _interval(entry: dict[str, Any], digits: int) -> str:
    return " to ".join(f"{end:+.{digits}f}" for end in entry["interval"] or ())


def _sentence(entry: dict[str, Any], baseline: str, percent: str, digits: int) -> str:
    size, verdict = f"{abs(entry['difference']):.{digits}f} bits per byte", entry["verdict"]
    if entry["identical"]:
        return f"{entry['name']} is the same as {baseline}: every document has the same loss."
    if verdict == "no interval":
        more = "more" if entry["difference"] > 0 else "less"
        return f"{entry['name']} takes {size} {more} than {baseline}, and nothing says whether that is chance."
    if verdict == "not distinguishable":
        where = f"{entry['difference']:+.{digits}f} bits per byte ({percent} interval {_interval(entry, digits)})"
        return f"{entry['name']} is not distinguishable from {baseline}: {where}."
    low, high = sorted(abs(end) for end in entry["interval"])
    where = f"{percent} interval {low:.{digits}f} to {high:.{digits}f}"
    return f"{entry['name']} is {verdict} than {baseline} by {size} ({where})."


def _notes(result: dict[str, Any]) -> list[str]:
    """What the intervals cover and what they do not."""
    effective, notes = result["effective_documents"], []
    variants = [entry for entry in result["variants"] if not entry["identical"]]
    for covers, note in COVERS.items():
        names = [entry["name"] for entry in variants if " and ".join(entry["covers"]) == covers]
        if names:
            notes.append(note if len(names) == len(variants) else f"{', '.join(names)}: {note}")
    if 2 <= effective < 10:
        notes.append(f"The documents count for only {effective:.1f} of equal length: the interval is a rough one.")
    if len(result["variants"]) > 1 and any(entry["covers"] for entry in variants):
        notes.append(f"Intervals are widened so that all {len(result['variants'])} hold at once (Bonferroni).")
    if variants:
        notes += [f"{rev} is the same run as {first}, and counts once." for rev, first in result["repeats"].items()]
    if result["tokenizers_differ"]:
        notes.append("The tokenizers differ: bits per byte still compare, losses per token do not.")
    return notes


def cut(text: str, width: int) -> str:
    """The text on one line, and no longer; control characters, which could move the cursor, become spaces."""
    text = "".join(c if c.isprintable() else " " for c in text[: 2 * width])
    return text if len(text) <= width else text[: width - 1] + "…"

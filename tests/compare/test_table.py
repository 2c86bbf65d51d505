import pytest

from tiny_lm.compare.comparison import Comparison, Document, ExamDifference, Variant, one_line
from tiny_lm.compare.statistics import Difference
from tiny_lm.compare.table import format_comparison


def variant(value=0.0123, half_width=0.0023, covers=("documents",), **change):
    return Variant(**{
        "name": "model.n_kv_heads=2", "revs": ["witty-newt"], "seeds": [1], "params": {"model.n_kv_heads": [4, 2]},
        "files": [], "bits_per_byte": 1.2123, "difference": Difference(value, half_width, covers),
        "lost": [Document(7, 812, 1.2, 1.3, "Once upon a time")],
    } | change)  # fmt: skip


def comparison(*variants, **change):
    """`main` compared with one variant or more."""
    return Comparison(**{
        "confidence": 0.95, "documents": 600, "effective_documents": 500.0, "bytes": 480_000, "repeats": {},
        "tokenizers_differ": False, "baseline": Variant("main", ["main"], [1], {}, [], 1.2),
        "variants": list(variants or [variant()]),
    } | change)  # fmt: skip


def shown(*variants, **change):
    return format_comparison(comparison(*variants, **change))


def test_table_documents_conclusion_and_note():
    assert shown().splitlines() == [
        "600 validation documents, 480,000 bytes; bits per byte, lower is better",
        "",
        "                                 seeds  bits/byte  difference  95 % interval         verdict",
        "main                                 1     1.2000",
        "model.n_kv_heads=2                   1     1.2123     +0.0123  +0.0100 to +0.0146    worse",
        "  witty-newt",
        "",
        "Documents that lost most for their length: main → model.n_kv_heads=2",
        "       7      812 bytes   1.200 → 1.300 +0.100  Once upon a time",
        "",
        "model.n_kv_heads=2 is worse than main by 0.0123 bits per byte (95 % interval 0.0100 to 0.0146).",
        "",
        "The interval accounts for the choice of documents but not of seeds: with another train.seed,",
        "the difference may change. Train each with two or more seeds: `dvc exp run -S train.seed=2`.",
    ]


def test_the_exam_has_a_sentence_with_accuracies_and_points():
    exam = ExamDifference(0.912, 0.93, 3021, Difference(-0.018, 0.009, ("documents",)))
    lines = shown(variant(exam=exam)).splitlines()
    assert lines[11] == (
        "Exam, model.n_kv_heads=2: 91.2 % → 93.0 % of 3,021 questions, +0.9 to +2.7 points (95 % interval): better."
    )
    exam = ExamDifference(0.912, 0.93, 7, Difference(-0.018, None, ()))
    assert "Exam, model.n_kv_heads=2: 91.2 % → 93.0 % of 7 questions." in shown(variant(exam=exam))
    exam = ExamDifference(0.93, 0.93, 7, Difference(0.0, 0.0, ("documents",)))
    assert "93.0 % → 93.0 % of 7 questions, as many right answers about every document." in shown(variant(exam=exam))
    exam = ExamDifference(0.93, 0.93, 7, Difference(0.0, 0.0004, ("documents",)))
    assert "of 7 questions, +0.0 to +0.0 points (95 % interval): not distinguishable." in shown(variant(exam=exam))
    same = {"value": 0.0, "half_width": 0.0, "identical": True}
    assert "Exam" not in shown(variant(exam=exam, **same))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"value": -0.02, "half_width": 0.01},
            "is better than main by 0.0200 bits per byte (95 % interval 0.0100 to 0.0300).",
        ),
        (
            {"value": -0.02, "half_width": 0.03},
            "is not distinguishable from main: -0.0200 bits per byte (95 % interval -0.0500 to +0.0100).",
        ),
        (
            {"value": -0.02, "half_width": None, "covers": ()},
            "is 0.0200 bits per byte lower than main, which may be chance.",
        ),
        (
            {"value": 0.0, "half_width": 0.0, "identical": True},
            "is the same as main: every document has the same loss.",
        ),
    ],
)
def test_each_verdict_has_a_sentence(change, sentence):
    assert f"\nmodel.n_kv_heads=2 {sentence}" in shown(variant(**change))


@pytest.mark.parametrize(
    ("covers", "note"),
    [
        (("documents", "seeds"), "The interval accounts for the choice of documents and seeds."),
        (("documents",), "The interval accounts for the choice of documents but not of seeds"),
        (("seeds",), "The interval accounts for the choice of seeds but not of documents"),
        ((), "There is no interval, because one document is most of the split."),
    ],
)
def test_a_note_explains_which_randomness_the_interval_covers(covers, note):
    text = shown(variant(covers=covers, half_width=0.0023 if covers else None))
    assert [line for line in text.splitlines() if line.startswith(note)]


def test_notes_that_apply_to_some_variants_name_them():
    text = shown(variant(name="a=1"), variant(name="b=2", covers=("documents", "seeds")))
    assert "\na=1: The interval accounts for the choice of documents but not of seeds" in text
    assert "\nb=2: The interval accounts for the choice of documents and seeds." in text
    assert text.endswith("Intervals are widened so that all 2 hold at once (Bonferroni).")
    exam = ExamDifference(0.912, 0.93, 3021, Difference(-0.018, 0.009, ("documents",)))
    text = shown(variant(name="a=1", exam=exam), variant(name="b=2"))
    assert text.endswith("all 2 hold at once (Bonferroni), separately for losses and exam.")


@pytest.mark.parametrize(
    ("effective", "noted"), [(1.99, None), (2.0, "2.0"), (6.28, "6.3"), (9.99, "10.0"), (10.0, None)]
)
def test_few_effective_documents_are_noted(effective, noted):
    text = shown(documents=40, effective_documents=effective)
    assert ("so the interval is rough" in text) == (noted is not None)
    assert noted is None or f"are worth only {noted} of equal length, so the interval is rough" in text


def test_a_narrow_interval_is_shown_with_more_digits():
    assert "+0.000020 to +0.000040" in shown(variant(3e-5, 1e-5))


def test_a_text_is_cut_to_one_line_without_control_characters():
    assert one_line("a\nb\x1b[2Jc\u202ed", 60) == "a b [2Jc d"
    assert one_line("x" * 61, 60) == "x" * 59 + "…"

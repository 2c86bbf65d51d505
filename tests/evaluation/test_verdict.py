import pytest

from tiny_lm.evaluation.verdict import cut, report


def result(**change):
    """A comparison of `main` with one variant or more, as `tiny-lm compare --json` prints it."""
    variants = change.pop("variants", [{}])
    entry = {
        "name": "model.n_kv_heads=2", "revs": ["witty-newt"], "seeds": [1], "bits_per_byte": 1.2123,
        "params": {"model.n_kv_heads": [4, 2]}, "files": [], "difference": 0.0123, "interval": [0.01, 0.0146],
        "covers": ["documents"], "verdict": "worse", "identical": False, "gained": [],
        "lost": [{"document": 7, "bytes": 812, "before": 1.2, "after": 1.3, "text": "Once upon a time"}],
    }  # fmt: skip
    return {
        "confidence": 0.95, "documents": 600, "effective_documents": 500.0, "bytes": 480_000,
        "tokenizers_differ": False, "repeats": {}, "variants": [entry | variant for variant in variants],
        "baseline": {"name": "main", "revs": ["main"], "seeds": [1], "bits_per_byte": 1.2},
    } | change  # fmt: skip


def test_a_comparison_reads_like_this():
    assert report(result()).splitlines() == [
        "600 validation documents, 480,000 bytes; bits per byte, less is better",
        "",
        "                                 seeds  bits/byte  difference  95 % interval         verdict",
        "main                                 1     1.2000",
        "model.n_kv_heads=2                   1     1.2123     +0.0123  +0.0100 to +0.0146    worse",
        "  witty-newt",
        "",
        "Documents that lost most for their length, main → model.n_kv_heads=2",
        "       7      812 bytes   1.200 → 1.300 +0.100  Once upon a time",
        "",
        "model.n_kv_heads=2 is worse than main by 0.0123 bits per byte (95 % interval 0.0100 to 0.0146).",
        "",
        "The interval covers the choice of documents, not of seeds: with another train.seed the difference",
        "may be another. Give each two seeds or more: `dvc exp run -S train.seed=2`.",
    ]


@pytest.mark.parametrize(
    ("variant", "sentence"),
    [
        (
            {"verdict": "better", "difference": -0.02, "interval": [-0.03, -0.01]},
            "is better than main by 0.0200 bits per byte (95 % interval 0.0100 to 0.0300).",
        ),
        (
            {"verdict": "not distinguishable", "difference": -0.02, "interval": [-0.03, 0.01]},
            "is not distinguishable from main: -0.0200 bits per byte (95 % interval -0.0300 to +0.0100).",
        ),
        (
            {"verdict": "no interval", "difference": -0.02, "interval": None, "covers": []},
            "takes 0.0200 bits per byte less than main, and nothing says whether that is chance.",
        ),
        (
            {"verdict": "not distinguishable", "difference": 0.0, "interval": [0.0, 0.0], "identical": True},
            "is the same as main: every document has the same loss.",
        ),
    ],
)
def test_every_verdict_is_a_plain_sentence(variant, sentence):
    assert f"\nmodel.n_kv_heads=2 {sentence}\n" in report(result(variants=[variant]))


@pytest.mark.parametrize(
    ("covers", "note"),
    [
        (["documents", "seeds"], "The interval covers the choice of documents and of seeds."),
        (["documents"], "The interval covers the choice of documents, not of seeds"),
        (["seeds"], "The interval covers the choice of seeds, not of documents"),
        ([], "There is no interval, since one document makes up most of the split."),
    ],
)
def test_the_report_says_what_its_interval_covers(covers, note):
    variant = {"covers": covers} | ({} if covers else {"interval": None, "verdict": "no interval"})
    assert [line for line in report(result(variants=[variant])).splitlines() if line.startswith(note)]


def test_where_variants_have_other_numbers_of_seeds_each_note_says_whose_it_is():
    text = report(result(variants=[{"name": "a=1"}, {"name": "b=2", "covers": ["documents", "seeds"]}]))
    assert "\na=1: The interval covers the choice of documents, not of seeds" in text
    assert "\nb=2: The interval covers the choice of documents and of seeds." in text
    assert text.endswith("Intervals are widened so that all 2 hold at once (Bonferroni).")


def test_few_documents_are_said_to_be_few():
    assert "count for only 6.3 of equal length: the interval is a rough one" in report(
        result(documents=40, effective_documents=6.28)
    )


def test_a_small_interval_is_shown_with_more_digits():
    assert "+0.000020 to +0.000040" in report(result(variants=[{"difference": 3e-5, "interval": [2e-5, 4e-5]}]))


def test_a_text_stays_on_its_line_and_cannot_move_the_cursor():
    assert cut("a\nb\x1b[2Jc\u202ed", 60) == "a b [2Jc d"
    assert cut("x" * 61, 60) == "x" * 59 + "…"

from tiny_lm.corpus.filters import Filters


def reasons(texts, **limits):
    filters = Filters(**{"min_chars": 1, "max_chars": None} | limits)
    return [filters.reason(text) for text in texts]


def test_lengths_are_inclusive_and_in_characters():
    texts = ["é", "éé", "ééé", "éééé"]
    assert reasons(texts, min_chars=2, max_chars=3) == ["too_short", None, None, "too_long"]


def test_without_limits_only_blank_documents_are_removed():
    assert reasons(["", " \n\t", "a", "a", "b" * 10**6]) == ["blank", "blank", None, None, None]

from tiny_lm.corpus.filters import Filters, Limits


def test_lengths_are_inclusive_and_in_characters():
    filters = Filters(min_chars=2, max_chars=3, deduplicate=False)
    assert list(filters.apply(["é", "éé", "ééé", "éééé"])) == ["éé", "ééé"]
    assert filters.removed == {"blank": 0, "too_short": 1, "too_long": 1, "duplicate": 0}
    assert filters.read == 4


def test_without_limits_only_blank_documents_are_removed():
    filters = Filters(min_chars=1, max_chars=None, deduplicate=False)
    assert list(filters.apply(["", " \n\t", "a", "a", "b" * 10**6])) == ["a", "a", "b" * 10**6]
    assert filters.removed["blank"] == 2


def test_of_exact_duplicates_only_the_first_is_kept():
    filters = Filters(min_chars=1, max_chars=None, deduplicate=True)
    assert list(filters.apply(["a", "b", "a", "a ", "b"])) == ["a", "b", "a "]
    assert filters.removed["duplicate"] == 2


def test_copies_of_a_document_removed_for_its_length_are_not_duplicates():
    filters = Filters(min_chars=2, max_chars=None, deduplicate=True)
    list(filters.apply(["a", "a"]))
    assert filters.removed == {"blank": 0, "too_short": 2, "too_long": 0, "duplicate": 0}


def test_each_split_has_its_own_limit():
    limits = Limits({"train": 2, "val": None})
    assert [limits.take("train") for _ in range(3)] == [True, True, False]
    assert all(limits.take("val") for _ in range(10))
    assert limits.full("train")
    assert not limits.full("val")
    assert limits.over == 1

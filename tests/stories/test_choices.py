"""Probabilities of choices, on grammars that are small enough to enumerate."""

import math
from collections import Counter, defaultdict
from itertools import combinations, permutations, product

import pytest

from tiny_lm.stories.choices import Choices, FromPools, FromTable


class Scripted(Choices):
    """Choices that are given in advance: each a number of the item, of so many items."""

    def __init__(self, script: list[tuple[int, int]]) -> None:
        super().__init__(0, 0)
        numbers = iter(script)
        self.draw = lambda: (lambda i, n: (i + 0.5) / n)(*next(numbers))


def tell(choices: Choices) -> tuple[str, set[str]]:
    """A small grammar with all kinds of choices: (text, words that it shows)."""
    ending = choices.pick(["runs", "sleeps", "sleeps"])
    cat, dog, _ = choices.deal("cat dog bird", ["red", "blue", "gray"])
    where, _ = choices.deal_row("where when", [("here", "now"), ("here", "then"), ("there", "now")])
    if choices.happens(0.25):
        return f"{cat} and {dog} {where}", {"cat", "dog", "where"}
    return f"{dog} {ending}", {"dog"}


SCRIPTS = [
    [(ending, 3), (i, 3), (j, 2), (0, 1), (row, 3), (quarter, 4)]
    for ending, i, j, row, quarter in product(range(3), range(3), range(2), range(3), range(4))
]


def test_the_probability_of_the_choices_is_that_of_the_text_if_no_other_choices_tell_it() -> None:
    truth, found = Counter[str](), defaultdict[str, set[float]](set)
    for script in SCRIPTS:  # all equally probable
        choices = Scripted(script)
        text, shown = tell(choices)
        truth[text] += 1 / len(SCRIPTS)
        found[text].add(round(math.exp(-choices.nats(shown)), 12))
    assert sum(truth.values()) == pytest.approx(1)
    # The first kind of text does not show the ending, which is counted all the same: there are two ways to tell it.
    for text, probability in truth.items():
        if " and " in text:
            assert sorted(found[text]) == pytest.approx([probability / 3, probability * 2 / 3])
        else:
            assert list(found[text]) == pytest.approx([probability])


def test_choices_that_tell_the_same_text_cost_what_repeat_counts() -> None:
    """The entropy of the choices is that of the text plus that of the choices given the text."""
    bits_of_choices = bits_of_text = gap = 0.0
    for script in SCRIPTS:
        choices = Scripted(script)
        text, shown = tell(choices)
        bits_of_choices += choices.nats(shown) / math.log(2) / len(SCRIPTS)
        if " and " in text:
            sleeps = script[0][0] > 0
            gap -= math.log2(2 / 3 if sleeps else 1 / 3) / len(SCRIPTS)
            choices.repeat(0.5 if sleeps else 2)
        bits_of_text += choices.nats(shown) / math.log(2) / len(SCRIPTS)
    truth = Counter(tell(Scripted(script))[0] for script in SCRIPTS)
    entropy = -sum(n / len(SCRIPTS) * math.log2(n / len(SCRIPTS)) for n in truth.values())
    assert bits_of_text == pytest.approx(entropy)
    assert bits_of_choices == pytest.approx(entropy + gap)
    assert gap > 0.2


@pytest.mark.parametrize("shown", [names for n in range(4) for names in combinations("abc", n)])
def test_words_of_pools_have_the_probabilities_of_an_enumeration(shown: tuple[str, ...]) -> None:
    pools = [(0.9, list("123")), (0.1, list("12345"))]
    truth = Counter[tuple[str, ...]]()
    for probability, pool in pools:
        for values in permutations(pool, 3):
            truth[tuple(v for name, v in zip("abc", values, strict=True) if name in shown)] += probability / math.perm(
                len(pool), 3
            )
    for values in permutations("12345", 3):
        some = tuple(v for name, v in zip("abc", values, strict=True) if name in shown)
        assert FromPools("abc", values, pools).probability(shown) == pytest.approx(truth[some])


def test_a_column_of_a_table_that_rows_share_has_the_probability_of_all_of_them() -> None:
    rows = [(m + k, m, k) for m in range(3, 7) for k in range(3, 7)]
    for row in rows:
        same = sum(other[0] == row[0] for other in rows)
        assert FromTable("nmk", row, rows).probability({"n"}) == same / 16
        assert FromTable("nmk", row, rows).probability({"m"}) == 1 / 4
        assert FromTable("nmk", row, rows).probability({"n", "k"}) == 1 / 16
        assert FromTable("nmk", row, rows).probability(set()) == 1

import math

import pytest
from stories.inverse import can_begin, derivations

from tiny_lm.stories.generator import story


@pytest.mark.parametrize("index", range(40))
def test_the_probability_of_a_story_is_that_of_all_ways_to_tell_its_text(index: int) -> None:
    text = story(5, index)
    ways = derivations(text)
    assert -math.log(sum(ways)) == pytest.approx(text.nats, abs=1e-9)
    assert len(ways) == (2 if text.startswith("One day,") and len(ways) > 1 else 1)


def test_a_text_that_no_choices_tell_has_no_probability() -> None:
    text = str(story(5, 0))
    assert derivations(text)
    assert not derivations(text + " The end.")
    assert not derivations(text[:-1])
    assert can_begin(text[:100])
    assert not can_begin(text[:100] + " qu")

"""Little stories from a generator: an endless corpus that needs no network and is the same on every machine.

A story deals people, things, places and numbers to the roles of a plot and tells it, so that what comes late follows
from what came early: who lost what, where it was hidden, who promised, how many were left. Only a model that uses its
context can answer the questions near the end. In the spirit of TinyStories (Eldan and Li, 2023,
https://arxiv.org/abs/2305.07759), with templates instead of a large model.

Most stories are short and name somebody in nearly every sentence, and four plots make up most of them. A small model
needs that to find out, in a few minutes, that names come back; with longer and more varied stories alone it does not.

All randomness is `random.Random(integer).random()`, which Python promises to keep, so story `index` of `seed` has the
same bytes everywhere.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from tiny_lm.stories.words import (
    ANIMALS,
    BOYS,
    COLORS,
    DUE,
    FAMILY,
    FEARS,
    FOODS,
    FREQUENT_BOYS,
    FREQUENT_GIRLS,
    GIRLS,
    GOODS,
    HURTS,
    LANDMARKS,
    NEIGHBORS,
    NUMBERS,
    PROJECTS,
    SETTINGS,
    SHELTERS,
    SIZES,
    TARGETS,
    THINGS,
    TOOLS,
    TRAITS,
    WEATHER,
    items,
    read_sections,
)

VERSION = 3  # recorded in the corpus's metadata; raise it with any change, here or in a text file, that changes stories

SHORT = 0.85  # fraction of short stories

T = TypeVar("T")


class Word(str):
    """A word or phrase with its other forms: `{animal}` fox, `{animal.a}` a fox, `{animal.A}` A fox."""

    def __new__(cls, text: str, **forms: str) -> Word:
        return super().__new__(cls, text)

    def __init__(self, text: str, **forms: str) -> None:
        article = "an " if text[0] in "aeiou" else "a "
        self.a, self.A, self.cap = article + text, article.capitalize() + text, text[0].upper() + text[1:]
        self.__dict__.update(forms)


_word = cache(Word)


@cache
def _person(name: str, male: bool) -> Word:
    he, him, his, child = ("he", "him", "his", "boy") if male else ("she", "her", "her", "girl")
    return Word(name, he=he, him=him, his=his, child=child, He=he.capitalize(), His=his.capitalize())


@cache
def _thing(color: str, noun: str, size: str = "") -> Word:
    does, part = THINGS[noun]
    return Word(f"{size} {color} {noun}".strip(), noun=noun, color=color, does=does, part=part)


def _listed(items: Sequence[str], pair: str = " and ") -> str:
    return pair.join(items) if len(items) < 3 else ", ".join(items[:-1]) + ", and " + items[-1]


def _parse(plot: str) -> tuple[str, list[str], list[tuple[str, str, str]]]:
    """(roles, paragraphs, questions as (role, question, answer)) of a plot."""
    roles, *lines = items(plot)
    asked = [re.fullmatch(r"([ABC])\? (.+) / (.+)", item) for item in lines]
    paragraphs = [item for item, match in zip(lines, asked, strict=True) if not match]
    return roles, paragraphs, [(match[1], match[2], match[3]) for match in asked if match]


_TEXTS = read_sections("plots.txt")
_OPENINGS, _SHORT_OPENINGS, _MEANWHILE, _ASKING, _ASKING_AGAIN, _ANSWERING, _CLOSINGS = (
    items(_TEXTS[name])
    for name in ("openings", "short openings", "meanwhile", "asking", "asking again", "answering", "closings")
)
_PLOTS, _SHORT_PLOTS = ([_parse(plot) for plot in _TEXTS[name].split("\n====\n")] for name in ("plots", "short plots"))
_PLOTS.append(_PLOTS[0])  # told twice as often as the others
_SHORT_PLOTS += _SHORT_PLOTS[:4] * 3  # these four are told four times as often
_FREQUENT, _CHILDREN = (
    [_person(name, male) for male, names in zip((False, True), lists, strict=True) for name in names]
    for lists in ((FREQUENT_GIRLS, FREQUENT_BOYS), (GIRLS, BOYS))
)


class Dealer:
    """Deals at random: all choices of one story, in order."""

    def __init__(self, seed: int, index: int) -> None:
        digest = hashlib.sha256(f"{seed} {index}".encode()).digest()
        self.draw = random.Random(int.from_bytes(digest, "little")).random

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.draw() * len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        left = list(items)
        return [left.pop(int(self.draw() * len(left))) for _ in range(count)]

    def few(self, items: Sequence[T], count: int) -> list[T]:
        """Nine times out of ten from the frequent ones, which come first."""
        return self.some(items[:8] if self.pick(range(10)) else items, count)

    def tell(self, template: str, words: dict[str, str]) -> str:
        """Fills in a template, after choosing among its `[one|other]`."""
        while "[" in template:  # innermost choices first
            template = re.sub(r"\[([^\[\]]*)\]", lambda match: self.pick(match[1].split("|")), template)
        return template.format_map(words)


def story(seed: int, index: int) -> str:
    """Story number `index` of `seed`: a function of these two numbers alone."""
    dealer = Dealer(seed, index)
    draw, pick, tell = dealer.draw, dealer.pick, dealer.tell
    short = draw() < SHORT
    roles, plot, questions = pick(_SHORT_PLOTS if short else _PLOTS)
    words = _cast(roles, dealer, ordered=short)
    words["sky"] = tell(words["sky"], words)
    opening, *rest = plot
    paragraphs = [tell(f"{pick(_SHORT_OPENINGS if short else _OPENINGS)} {opening}", words)]
    for paragraph in rest:
        if paragraph != "~":
            paragraphs.append(tell(paragraph, words))
        elif draw() < 0.4:
            paragraphs.append(tell(pick(_MEANWHILE), words))
    asked = pick((0, 1, 1) if short else (0, 1, 1, 1, 2, 2))
    for number, (role, question, answer) in enumerate(dealer.some(questions, asked)):
        about = words | {"R": words[role], "question": tell(question, words), "answer": tell(answer, words)}
        paragraphs.append(tell(pick(_ASKING_AGAIN if number else _ASKING), about))
        paragraphs.append(tell(pick(_ANSWERING), about))
    if not short and draw() < 0.6:
        paragraphs.append(tell(pick(_CLOSINGS), words))
    return "\n\n".join(paragraphs)


def _cast(roles: str, dealer: Dealer, ordered: bool) -> dict[str, str]:
    """Everything that a template may name, dealt at random. `roles` are the children of the story."""
    pick, some, few = dealer.pick, dealer.some, dealer.few
    children: list[Word] = []
    while len(children) < 3:
        child = pick(_CHILDREN if pick(range(20)) == 0 else _FREQUENT)
        if child not in children:
            children.append(child)
    w: dict[str, str] = dict(zip("ABC", children, strict=True))
    colors, nouns = few(list(COLORS), 5), few(list(THINGS), 5)
    for key, color, noun in zip("xyzw", colors, nouns, strict=False):
        w[key] = _thing(color, noun, pick(SIZES) if pick(range(3)) == 0 else "")
    w["r"] = _thing(pick(list(COLORS)), pick([noun for noun, (_, part) in THINGS.items() if part]), "")
    # a riddle: the thing, another one of its color, the same in another color
    w["c"], w["cw"], w["cu"] = _thing(colors[0], nouns[0]), _thing(colors[0], nouns[1]), _thing(colors[1], nouns[0])
    w["like"] = COLORS[colors[0]]
    w |= {f"c{i}": _word(color) for i, color in enumerate(colors, 1)}
    place, at, spots = few(SETTINGS, 1)[0]
    w["s"] = _word(place, at=f"{at} {place}")
    w |= {f"h{i}": _word(spot) for i, spot in enumerate(some(spots.split(", "), 4), 1)}
    w |= {f"l{i}": mark for i, mark in enumerate(some(LANDMARKS, 4), 1)}
    w["near"], w["limb"], w["tool"] = _word(pick(["behind", "beside"])), pick(["knee", "foot", "hand"]), pick(TOOLS)
    w["turn"], w["other"] = some([_word("left"), _word("right")], 2)
    w["clean"] = pick(TARGETS)
    w["G"] = _person(*pick(FAMILY))
    w["N"], w["N2"] = (_person(*neighbor) for neighbor in few(NEIGHBORS, 2))
    w["animal"], w["animal2"] = map(_word, few(ANIMALS, 2))
    w["food"], w["food2"] = few(FOODS, 2)
    w["shelter"], w["trait"] = _word(pick(SHELTERS)), _word(pick(TRAITS))
    w["fear"], w["lair"], w["deed"], w["scene"] = pick(FEARS)
    w["hurt"], w["cure"] = pick(HURTS)
    w["due"], w["dusk"] = pick(DUE)
    m, k = pick(range(3, 7)), pick(range(3, 7))
    w |= {key: _word(NUMBERS[n]) for key, n in zip("nmkji", (m + k, m, k, k - 1, m - 1), strict=True)}
    w["weather"], w["sky"] = pick(WEATHER)
    w["part"] = pick(["morning", "afternoon", "day"])
    w["day"] = pick(["One {weather} {part}", "On a {weather} {part}", "One {part}"]).format_map(w)

    project, material = pick(PROJECTS)
    parts, goods = some(material.split(", "), 3), some(GOODS, 3)
    w |= {"project": _word(project)} | dict(zip(("p1", "p2", "p3"), parts, strict=True))
    w |= dict(zip(("g1", "g2", "g3"), goods, strict=True)) | {"goods": _word(_listed(some(goods, 3)))}

    group = list(roles) if ordered else some(roles, len(roles))  # in the order in which the story names them
    names = [w[role] for role in group]
    w["group"], w["number"], w["others"] = _listed(names), NUMBERS[len(names)], _listed(names[1:])
    w["P"], w["Q"] = names[:2]
    own = {"A": ("x", "h1", "p1", "c1"), "B": ("y", "h2", "p2", "c2"), "C": ("z", "h3", "p3", "c3")}

    def each(clause: str, order: Sequence[str] = group) -> str:
        clauses = [clause.format(w[role], *(w[key] for key in own[role]), **w) for role in order]
        return _listed(clauses, pair=", and ") + "."

    w["has"] = each("{0} " + pick(["had", "had brought", "was carrying"]) + " {1.a}")
    w["hid"] = each("{0} hid the {1} {2}")
    w["brought"] = each("{0} brought {3}")
    w["planted"] = each("{0} planted {0.his} seed in {4.a} pot")
    w["painted"] = each("{0} painted with {4}")
    w["gave"] = each("{0} gave {A.him} {1.a}", [role for role in group if role != "A"])
    return w

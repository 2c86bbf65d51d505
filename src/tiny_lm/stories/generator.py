"""Little stories from a generator: an endless corpus that needs no network and is the same on every machine.

A story deals people, things, places and numbers to the roles of a plot and tells it, so that what comes late follows
from what came early: who lost what, where it was hidden, who promised, how many were left. Only a model that uses its
context can answer the questions near the end. In the spirit of TinyStories (Eldan and Li, 2023,
https://arxiv.org/abs/2305.07759), with templates instead of a large model.

Most stories are short and name somebody in nearly every sentence, and four plots make up most of them. A small model
needs that to find out, in a few minutes, that names come back; with longer and more varied stories alone it does not.

All randomness is in choices.py, so story `index` of `seed` has the same bytes everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from string import Formatter
from typing import NamedTuple

from tiny_lm.stories.choices import Choices, FromPools, FromTable
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

# What a word shows that was dealt under other names: a color, a noun and a size are a thing.
SHOWS = {
    "x": ("c1", "t1", "x_size"), "y": ("c2", "t2", "y_size"), "z": ("c3", "t3", "z_size"), "w": ("c4", "t4", "w_size"),
    "r": ("rc", "rt"), "c": ("c1", "t1"), "cw": ("c1", "t2"), "cu": ("c2", "t1"), "like": ("c1",),
    "h1": ("s",), "h2": ("s",), "h3": ("s",), "h4": ("s",), "sky": ("said",), "goods": ("goods1", "goods2", "goods3"),
}  # fmt: skip

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


class Phrase(str):
    """A word that is a template itself."""


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
_NUMBERS = [  # n = m + k, m, k, j = k - 1, i = m - 1
    [NUMBERS[n] for n in (m + k, m, k, k - 1, m - 1)] for m in range(3, 7) for k in range(3, 7)
]
_FREQUENT, _CHILDREN = (
    [_person(name, male) for male, names in zip((False, True), lists, strict=True) for name in names]
    for lists in ((FREQUENT_GIRLS, FREQUENT_BOYS), (GIRLS, BOYS))
)


class Slot(NamedTuple):
    """A word of a template in the text: `{x.noun:kind}` is the form `noun` of the word `x`, examined as `kind`."""

    start: int  # the place of its first character
    word: str
    form: str
    skill: str


class Story(str):
    """The text of a story, with what its generator knows of it: the choices, the words, and where they are."""

    choices: Choices
    words: dict[str, str]
    slots: list[Slot]

    @property
    def nats(self) -> float:
        """Minus the log-probability of the choices that the text shows."""
        shown = {slot.word for slot in self.slots}
        return self.choices.nats(shown.union(*(SHOWS[word] for word in shown & SHOWS.keys())))


def story(seed: int, index: int) -> Story:
    """Story number `index` of `seed`: a function of these two numbers alone."""
    choices = Choices(seed, index)
    short = choices.happens(SHORT)
    roles, plot, questions = choices.pick(_SHORT_PLOTS if short else _PLOTS)
    words = _cast(choices)
    order = list(roles) if short else choices.some(roles, len(roles))  # in which the story names the children
    words |= _phrases(order, words, choices)
    teller = _Teller(choices, words, {"P": order[0], "Q": order[1]})
    opening = choices.pick(_SHORT_OPENINGS if short else _OPENINGS)
    first, *rest = plot
    teller.tell(f"{opening} {first}")
    for paragraph in rest:
        if paragraph != "~":
            teller.tell(paragraph)
        elif choices.happens(0.4):
            teller.tell(choices.pick(_MEANWHILE))
    asked = choices.pick((0, 1, 1) if short else (0, 1, 1, 1, 2, 2))
    for number, (role, question, answer) in enumerate(choices.some(questions, asked)):
        teller.roles["R"] = role
        teller.tell(choices.pick(_ASKING_AGAIN if number else _ASKING).replace("{question}", question))
        teller.tell(choices.pick(_ANSWERING).replace("{answer}", answer))
    if not short and choices.happens(0.6):
        teller.tell(choices.pick(_CLOSINGS))
    told = teller.story()
    if short and told.startswith("One day,"):  # which two openings can say: `{day},` one time in four
        choices.repeat(3 if opening == "{day}," else 1 / 3)
    return told


class _Teller:
    """Writes a story from templates, with `words` for their slots. `roles` are other names of children: P for A."""

    def __init__(self, choices: Choices, words: dict[str, str], roles: dict[str, str]) -> None:
        self.choices, self.words, self.roles = choices, words, roles
        self._parts: list[str] = []
        self._length = 0
        self._slots: list[Slot] = []

    def tell(self, template: str) -> None:
        """One more paragraph, after choosing among the `[one|other]` of its template."""
        while "[" in template:  # innermost choices first
            template = _CHOICE.sub(lambda match: self.choices.pick(match[1].split("|")), template)
        self._fill(f"\n\n{template}" if self._parts else template)

    def story(self) -> Story:
        story = Story("".join(self._parts))
        story.choices, story.words, story.slots = self.choices, self.words, self._slots
        return story

    def _fill(self, template: str) -> None:
        for literal, name, form, skill in _parse_slots(template):
            self._parts.append(literal)
            self._length += len(literal)
            if not name:
                continue
            word = self.roles.get(name, name)
            value = self.words[word]
            self._slots.append(Slot(self._length, word, form, skill))
            if type(value) is Phrase:
                self._fill(value)
            else:
                text = getattr(value, form) if form else value
                self._parts.append(text)
                self._length += len(text)


@cache
def _parse_slots(template: str) -> list[tuple[str, str, str, str]]:
    """(literal text, then word, form and skill of the slot after it) of each part of a template."""
    parts = []
    for literal, field, skill, _ in Formatter().parse(template):
        word, _, form = (field or "").partition(".")
        parts.append((literal, word, form, skill or ""))
    return parts


def _cast(choices: Choices) -> dict[str, str]:
    """The words for the slots of templates, dealt at random."""
    deal, deal_frequent, deal_row = choices.deal, choices.deal_frequent, choices.deal_row
    _deal_children(choices)
    colors = deal_frequent("c1 c2 c3 c4 c5", list(COLORS))
    nouns = deal_frequent("t1 t2 t3 t4 t5", list(THINGS))
    sizes = [_deal_size(thing, choices) for thing in "xyzw"]
    made = deal("rc", list(COLORS)) + deal("rt", [noun for noun, (_, part) in THINGS.items() if part])
    [(place, at, spots)] = deal_frequent("s", SETTINGS)
    deal("h1 h2 h3 h4", spots.split(", "))
    deal("l1 l2 l3 l4", LANDMARKS)
    deal("near", ["behind", "beside"])
    deal("limb", ["knee", "foot", "hand"])
    deal("tool", TOOLS)
    deal("turn other", ["left", "right"])
    deal("clean", TARGETS)
    family = deal("G", FAMILY)
    neighbors = deal_frequent("N N2", NEIGHBORS)
    deal_frequent("animal animal2", ANIMALS)
    deal_frequent("food food2", FOODS)
    deal("shelter", SHELTERS)
    deal("trait", TRAITS)
    deal_row("fear lair deed scene", FEARS)
    deal_row("hurt cure", HURTS)
    deal_row("due dusk", DUE)
    _deal_numbers(choices)
    deal_row("weather sky", WEATHER)
    deal("part", ["morning", "afternoon", "day"])
    [day] = deal("day", ["One {weather} {part}", "On a {weather} {part}", "One {part}"])
    _, material = deal_row("project material", PROJECTS)
    deal("p1 p2 p3", material.split(", "))
    goods = deal("goods1 goods2 goods3", deal("g1 g2 g3", GOODS))  # in another order

    dealt = [pair for some in choices.deals for pair in zip(some.names, some.values, strict=True)]
    words: dict[str, str] = {
        name: value if isinstance(value, Word) else _word(value)
        for name, value in dealt
        if value and isinstance(value, str)
    }
    words |= {key: _thing(*parts) for key, *parts in zip("xyzw", colors, nouns, sizes, strict=False)}
    # a riddle: the thing, another one of its color, the same in another color
    words["c"], words["cw"] = _thing(colors[0], nouns[0]), _thing(colors[0], nouns[1])
    words["cu"], words["like"] = _thing(colors[1], nouns[0]), COLORS[colors[0]]
    words["r"] = _thing(*made)
    words["s"] = _word(place, at=f"{at} {place}")
    words["goods"] = _word(_listed(goods))
    words |= {key: _person(*person) for key, person in zip(("G", "N", "N2"), family + neighbors, strict=True)}
    return words | {"day": Phrase(day)}


def _deal_children(choices: Choices) -> None:
    """A, B and C: 19 times out of 20 with a frequent name."""
    children: list[Word] = []
    left = 1.0  # the probability of all names that no child has yet
    while len(children) < 3:
        names = _FREQUENT if int(choices.draw() * 20) else _CHILDREN
        child = names[int(choices.draw() * len(names))]
        if child not in children:
            children.append(child)
            probability = 0.05 / len(_CHILDREN) + (0.95 / len(_FREQUENT) if child in _FREQUENT else 0)
            choices.deals.append(FromPools("ABC"[len(children) - 1], [child], [(probability / left, [child])]))
            left -= probability


def _deal_size(thing: str, choices: Choices) -> str:
    """One thing in three has a size."""
    size = SIZES[int(choices.draw() * len(SIZES))] if int(choices.draw() * 3) == 0 else ""
    choices.deals.append(FromPools([f"{thing}_size"], [size], [(2 / 3, [""]), (1 / 3, SIZES)]))
    return size


def _deal_numbers(choices: Choices) -> None:
    row = _NUMBERS[4 * int(choices.draw() * 4) + int(choices.draw() * 4)]
    choices.deals.append(FromTable("nmkji", row, _NUMBERS))


def _phrases(order: Sequence[str], words: dict[str, str], choices: Choices) -> dict[str, str]:
    """The words that depend on the order of the children; most are templates themselves."""
    names, roles = [f"{{{role}}}" for role in order], "".join(order)
    [has] = choices.deal("has", ["had", "had brought", "was carrying"])
    [sky] = choices.deal("said", words["sky"][1:-1].split("|"))
    return {
        "group": Phrase(_listed(names)),
        "others": Phrase(_listed(names[1:])),
        "number": NUMBERS[len(names)],
        "has": _each(roles, f"{{0}} {has} {{1.a}}"),
        "hid": _each(roles, "{0} hid the {1} {2}"),
        "brought": _each(roles, "{0} brought {3}"),
        "planted": _each(roles, "{0} planted {0.his} seed in {4.a} pot"),
        "painted": _each(roles, "{0} painted with {4}"),
        "gave": _each(roles.replace("A", ""), "{0} gave {A.him} {1.a}"),
        "sky": sky,
    }


@cache
def _each(roles: str, clause: str) -> Phrase:
    """The clause for each of the roles: {0} is the child, {1} to {4} belong to it."""
    own = {"A": ("x", "h1", "p1", "c1"), "B": ("y", "h2", "p2", "c2"), "C": ("z", "h3", "p3", "c3")}
    clauses = []
    for role in roles:
        words = [role, *own[role]]
        clauses.append(re.sub(r"(?<={)\d", lambda match, words=words: words[int(match[0])], clause))  # type: ignore
    return Phrase(_listed(clauses, pair=", and ") + ".")

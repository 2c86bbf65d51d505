"""The generator run backwards: all ways in which it can tell a text, and the exact probability of the text.

It shares the templates and the lists of words with the generator, and nothing else. A template becomes a sequence of
nodes: a literal text, a slot, or alternatives with their probabilities. `derivations` matches them to the text from
left to right, and binds a word when its first slot is matched.
"""

import math
import re
from collections.abc import Iterator
from functools import cache
from itertools import permutations, product

from tiny_lm.stories import generator, words
from tiny_lm.stories.words import COLORS, THINGS

Node = str | tuple[str, str] | list  # literal, (word, form), or [(probability, nodes), …]
Nodes = tuple[Node, ...]
Bound = dict[str, object]

CHILDREN = {name: male for male, names in ((False, words.GIRLS), (True, words.BOYS)) for name in names}
COMMON = {*words.FREQUENT_GIRLS, *words.FREQUENT_BOYS}
PRONOUNS = {"he": "she he", "him": "her him", "his": "her his", "child": "girl boy", "He": "She He", "His": "Her His"}
OWN = {"A": ("x", "h1", "p1", "c1"), "B": ("y", "h2", "p2", "c2"), "C": ("z", "h3", "p3", "c3")}
THINGS_OF = {"x": ("c1", "t1", "x size"), "y": ("c2", "t2", "y size"), "z": ("c3", "t3", "z size"),
             "w": ("c4", "t4", "w size"), "c": ("c1", "t1", ""), "cw": ("c1", "t2", ""), "cu": ("c2", "t1", ""),
             "r": ("rc", "rt", "")}  # fmt: skip
SPOTS = {spot: place for place, _, spots in words.SETTINGS for spot in spots.split(", ")}
NUMBERS = [dict(zip("nmkji", (m + k, m, k, k - 1, m - 1), strict=True)) for m in range(3, 7) for k in range(3, 7)]
TABLES = {
    "fear lair deed scene": words.FEARS, "hurt cure": words.HURTS, "due dusk": words.DUE, "project": words.PROJECTS,
}  # fmt: skip
COLUMNS = {name: (columns, i) for columns in TABLES for i, name in enumerate(columns.split())}
# Words that are dealt as they are: {word: (group, items, whether eight are frequent)}
PLAIN = {
    word: (group, items, frequent)
    for group, items, frequent in (
        ("l1 l2 l3 l4", words.LANDMARKS, False), ("near", ["behind", "beside"], False), ("tool", words.TOOLS, False),
        ("limb", ["knee", "foot", "hand"], False), ("turn other", ["left", "right"], False),
        ("clean", words.TARGETS, False), ("animal animal2", words.ANIMALS, True), ("food food2", words.FOODS, True),
        ("shelter", words.SHELTERS, False), ("trait", words.TRAITS, False), ("g1 g2 g3", words.GOODS, False),
        ("part", ["morning", "afternoon", "day"], False), ("c1 c2 c3 c4 c5", list(COLORS), True),
    )
    for word in group.split()
}  # fmt: skip
PEOPLE = {"G": ("G", words.FAMILY, False), "N": ("N N2", words.NEIGHBORS, True), "N2": ("N N2", words.NEIGHBORS, True)}


def nodes(template: str) -> Nodes:
    """The nodes of a template with nested `[one|other]`."""
    for match in re.finditer(r"\[", template):  # the first bracket and its partner
        depth, start, cuts = 0, match.start(), [match.start()]
        for end in range(start, len(template)):
            depth += {"[": 1, "]": -1}.get(template[end], 0)
            if template[end] == "|" and depth == 1:
                cuts.append(end)
            if depth == 0:
                break
        pieces = [template[i + 1 : j] for i, j in zip(cuts, [*cuts[1:], end], strict=True)]
        alternatives = [(1 / len(pieces), nodes(piece)) for piece in pieces]
        return (*nodes(template[:start]), alternatives, *nodes(template[end + 1 :]))
    parts = re.split(r"\{(\w+)\.?(\w*)(?::\w+)?\}", template)
    slots = [(word, form) for word, form in zip(parts[1::3], parts[2::3], strict=True)]
    found = [parts[0], *(node for pair in zip(slots, parts[3::3], strict=True) for node in pair)]
    return tuple(node for node in found if node)


def one_of(templates: list[str]) -> Node:
    return [(1 / len(templates), nodes(template)) for template in templates]


@cache
def stories() -> list[tuple[float, str, Nodes]]:
    """(probability, order of the children, nodes) of every plot."""
    return list(_stories())


def _stories() -> Iterator[tuple[float, str, Nodes]]:
    for plots, short in ((generator._SHORT_PLOTS, True), (generator._PLOTS, False)):
        for plot in {id(plot): plot for plot in plots}.values():
            roles, (opening, *rest), questions = plot
            probability = (generator.SHORT if short else 1 - generator.SHORT) * plots.count(plot) / len(plots)
            told: list[Node] = [
                one_of(generator._SHORT_OPENINGS if short else generator._OPENINGS),
                " ",
                *nodes(opening),
            ]
            for paragraph in rest:
                if paragraph == "~":
                    told.append([(0.6, ()), (0.4, ("\n\n", one_of(generator._MEANWHILE)))])
                else:
                    told += ["\n\n", *nodes(paragraph)]
            counts = (0, 1, 1) if short else (0, 1, 1, 1, 2, 2)
            asked = []
            for count in set(counts):
                for some in permutations(questions, count):
                    p = counts.count(count) / len(counts) / math.perm(len(questions), count)
                    asked.append((p, tuple(node for i, question in enumerate(some) for node in ask(i, *question))))
            told.append(asked)
            if not short:
                told.append([(0.4, ()), (0.6, ("\n\n", one_of(generator._CLOSINGS)))])
            orders = [tuple(roles)] if short else list(permutations(roles))
            for order in orders:
                yield probability / len(orders), "".join(order), tuple(told)


def ask(number: int, role: str, question: str, answer: str) -> Nodes:
    def filled(templates: list[str]) -> Node:
        texts = [t.replace("{R", "{" + role).replace("{question}", question) for t in templates]
        return one_of([text.replace("{answer}", answer) for text in texts])

    asking = generator._ASKING_AGAIN if number else generator._ASKING
    return "\n\n", filled(asking), "\n\n", filled(generator._ANSWERING)


def listed(parts: list[str], pair: str = " and ") -> str:
    return pair.join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])}, and {parts[-1]}"


def phrase(word: str, form: str, order: str) -> Nodes | None:
    """What a word stands for that is a template itself."""
    names = ["{" + role + "}" for role in order]
    clauses = {
        "hid": "{0} hid the {1} {2}", "brought": "{0} brought {3}", "painted": "{0} painted with {4}",
        "planted": "{0} planted {0.his} seed in {4.a} pot", "gave": "{0} gave {A.him} {1.a}",
    }  # fmt: skip

    def each(clause: str) -> Nodes:
        roles = order.replace("A", "") if word == "gave" else order
        parts = [re.sub(r"\{(\d)", lambda m: "{" + (r, *OWN[r])[int(m[1])], clause) for r in roles]  # noqa: B023
        return nodes(listed(parts, pair=", and ") + ".")

    match word:
        case "group":
            return nodes(listed(names))
        case "others":
            return nodes(listed(names[1:]))
        case "number":
            return (words.NUMBERS[len(names)],)
        case "day":
            return (one_of(["One {weather} {part}", "On a {weather} {part}", "One {part}"]),)
        case "sky":
            return ([(1.0, (("weather=" + weather, ""), *nodes(sky))) for weather, sky in words.WEATHER],)
        case "has":
            return ([(1 / 3, each("{0} " + verb + " {1.a}")) for verb in ("had", "had brought", "was carrying")],)
        case "goods":
            orders = list(permutations("123"))
            lists = [
                listed([f"{{g{i}}}" for i in order]).replace("}", f".{form}}}" if form else "}", 1) for order in orders
            ]
            return ([(1.0, ((f"goods={i}", ""), *nodes(text))) for i, text in enumerate(lists)],)
    return each(clauses[word]) if word in clauses else None


def forms(text: str, form: str) -> str:
    article = "an " if text[0] in "aeiou" else "a "
    return {"": text, "a": article + text, "A": article.capitalize() + text, "cap": text[0].upper() + text[1:]}[form]


def values(word: str, form: str) -> Iterator[tuple[Bound, str]]:
    """(what is bound, text) of every value that a slot can have. A slot `word=value` binds and has no text."""
    if "=" in word:
        yield dict([word.split("=")]), ""
    elif word in THINGS_OF:
        color_key, noun_key, size_key = THINGS_OF[word]
        if form in ("noun", "does", "part"):
            for noun, (does, part) in THINGS.items():
                yield {noun_key: noun}, {"noun": noun, "does": does, "part": part}[form]
            return
        for color in COLORS:
            if form == "color":
                yield {color_key: color}, color
                continue
            for size, noun in product(["", *words.SIZES] if size_key else [""], THINGS):
                new = {color_key: color, noun_key: noun} | ({size_key: size} if size_key else {})
                yield new, forms(f"{size} {color} {noun}".strip(), form)
    elif word in "ABC" or word in PEOPLE:
        for name, male in CHILDREN.items() if word in "ABC" else PEOPLE[word][1]:
            yield {word: (name, male)}, PRONOUNS[form].split()[male] if form else name
    elif word == "like":
        for color in COLORS:
            yield {"c1": color}, COLORS[color]
    elif word == "s":
        for place, at, _ in words.SETTINGS:
            yield {"s": place}, f"{at} {place}" if form else place
    elif re.fullmatch(r"h\d", word):
        for spot, place in SPOTS.items():
            yield {word: spot, "s": place}, forms(spot, form)
    elif word == "weather":
        for weather, _ in words.WEATHER:
            yield {"weather": weather}, weather
    elif re.fullmatch(r"p\d", word):
        for project, material in words.PROJECTS:
            for part in material.split(", "):
                yield {word: part, "project": project}, forms(part, form)
    elif word in NUMBERS[0]:
        for number in sorted({row[word] for row in NUMBERS}):
            yield {word: number}, forms(words.NUMBERS[number], form)
    elif word in COLUMNS:
        columns, i = COLUMNS[word]
        for row in TABLES[columns]:
            yield {columns: row[0]}, forms(row[i], form)
    else:
        for item in PLAIN[word][1]:
            yield {word: item}, forms(item, form)


@cache
def by_text(word: str, form: str) -> tuple[dict[str, list[Bound]], list[int]]:
    """{text: what it can bind} of a slot, and the lengths of the texts."""
    table: dict[str, list[Bound]] = {}
    for new, said in values(word, form):
        table.setdefault(said, []).append(new)
    return table, sorted({len(said) for said in table})


class Reached(Exception):
    """The text, which is a beginning, ends here."""


def match(text: str, todo: Nodes, order: str, place: int, bound: Bound, p: float, whole: bool) -> Iterator[float]:
    """The probability of each way to tell the rest of the text."""
    if not todo:
        if whole and place == len(text):
            yield p * probability(bound)
        return
    first, rest = todo[0], todo[1:]
    if isinstance(first, str):
        if text.startswith(first, place):
            yield from match(text, rest, order, place + len(first), bound, p, whole)
        elif not whole and first.startswith(text[place:]) and probability(bound):
            raise Reached
    elif isinstance(first, list):
        for chance, alternative in first:
            yield from match(text, alternative + rest, order, place, bound, p * chance, whole)
    else:
        word, form = first
        word = {"P": order[0], "Q": order[1]}.get(word, word)
        inner = phrase(word, form, order)
        if inner is not None:
            yield from match(text, inner + rest, order, place, bound, p, whole)
            return
        table, lengths = by_text(word, form)
        for length in lengths:
            for new in table.get(text[place : place + length], ()):
                if all(bound.get(key, value) == value for key, value in new.items()):
                    yield from match(text, rest, order, place + length, bound | new, p, whole)
        if not whole and place + lengths[-1] > len(text):
            for said, news in table.items():
                if len(said) > len(text) - place and said.startswith(text[place:]):
                    for new in news:
                        fits = all(bound.get(key, value) == value for key, value in new.items())
                        if fits and probability(bound | new):
                            raise Reached


def probability(bound: Bound) -> float:
    """That all the words that are bound are dealt."""
    p, left = 1.0, 1.0
    names = [bound[role][0] for role in "ABC" if role in bound]
    if len(set(names)) < len(names):
        return 0.0
    for name in names:
        this = 0.05 / len(CHILDREN) + 0.95 / len(COMMON) * (name in COMMON)
        p, left = p * this / left, left - this
    groups: dict[str, tuple[list, bool]] = {"t1 t2 t3 t4 t5": (list(THINGS), True)}
    groups |= {group: (items, frequent) for group, items, frequent in (*PLAIN.values(), *PEOPLE.values())}
    for group, (items, frequent) in groups.items():
        dealt = [bound[word] for word in group.split() if word in bound]
        p *= (
            different(dealt, items) if not frequent else different(dealt, items[:8], 0.9) + different(dealt, items, 0.1)
        )
    if "s" in bound:
        [spots] = [spots.split(", ") for place, _, spots in words.SETTINGS if place == bound["s"]]
        places = [place for place, _, _ in words.SETTINGS]
        p *= different([bound["s"]], places[:8], 0.9) + different([bound["s"]], places, 0.1)
        p *= different([bound[f"h{i}"] for i in range(1, 5) if f"h{i}" in bound], spots)
    if "project" in bound:
        material = dict(words.PROJECTS)[bound["project"]].split(", ")
        p *= different([bound[f"p{i}"] for i in range(1, 4) if f"p{i}" in bound], material)
    for thing in "xyzw":
        if f"{thing} size" in bound:
            p *= 1 / 3 / len(words.SIZES) if bound[f"{thing} size"] else 2 / 3
    p /= len(COLORS) if "rc" in bound else 1
    broken = [noun for noun, (_, part) in THINGS.items() if part]
    p *= (bound["rt"] in broken) / len(broken) if "rt" in bound else 1
    p /= len(words.WEATHER) if "weather" in bound else 1
    p /= 6 if "goods" in bound else 1
    for columns, table in TABLES.items():
        p /= len(table) if columns in bound else 1
    numbers = [row for row in NUMBERS if all(bound.get(key, number) == number for key, number in row.items())]
    return p * len(numbers) / len(NUMBERS)


def different(dealt: list, items: list, p: float = 1.0) -> float:
    """That these are dealt, one after another, from the items."""
    possible = len(set(dealt)) == len(dealt) and all(item in items for item in dealt)
    return p * possible / math.perm(len(items), len(dealt))


def derivations(text: str) -> list[float]:
    """The probability of each way to tell a text."""
    return [p for chance, order, told in stories() for p in match(text, told, order, 0, {}, chance, True)]


def can_begin(text: str) -> bool:
    """Whether some story begins with this text."""
    try:
        for chance, order, told in stories():
            for _ in match(text, told, order, 0, {}, chance, False):
                pass
    except Reached:
        return True
    return False

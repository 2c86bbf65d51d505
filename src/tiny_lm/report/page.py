"""HTML elements, tables and the page. Text is escaped in one place, `element`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path


class Html(str):
    """HTML, which `element` does not escape again."""


def element(name: str, *children: str | None, **attributes: str | int | None) -> Html:
    """`element("td", "a < b", class_="n")` → `<td class="n">a &lt; b</td>`; attributes that are None are omitted."""
    inner = "".join(c if isinstance(c, Html) else html.escape(c, quote=False) for c in children if c is not None)
    listed = [(key.rstrip("_").replace("_", "-"), str(v)) for key, v in attributes.items() if v is not None]
    opening = "".join(f' {key}="{html.escape(value)}"' for key, value in listed)
    return Html(f"<{name}{opening}>{inner}</{name}>")


Row = tuple[str, Sequence[str]]  # label, one cell per run


def table(
    runs: Sequence[str], groups: Sequence[tuple[str, Sequence[Row]]], mark: bool = False, beside: bool = True
) -> Html:
    """Groups of rows, each with a title. A value that is the same in all runs gets one cell; with `mark`, other rows
    are highlighted. Several runs share one table; the groups of one run are separate tables, side by side if `beside`.
    """
    names = [element("th", swatch(i), name, scope="col") for i, name in enumerate(runs)]
    head = element("thead", element("tr", element("td"), *names)) if len(runs) > 1 else None
    bodies = []
    for title, rows in groups:
        lines = [element("tr", element("th", title, colspan=len(runs) + 1), class_="group")] if title else []
        for label, cells in rows:
            same = all(cell == cells[0] for cell in cells)
            shown = [element("td", cells[0], colspan=len(runs))] if same else [element("td", cell) for cell in cells]
            class_ = None if same or not mark else "differs"
            lines.append(element("tr", element("th", label, scope="row"), *shown, class_=class_))
        bodies.append(element("tbody", *lines))
    tables = [element("table", head, *bodies)] if head or not beside else [element("table", body) for body in bodies]
    return element("div", *tables, class_="tables", tabindex=0)


def swatch(run: int) -> Html:
    return element("i", class_="swatch", style=f"background: var(--run{run})", aria_hidden="true")


def page(title: str, *sections: Html) -> str:
    """The whole file. It loads no resources: styles are inline, fonts those of the system, and there are no scripts."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    head = element("title", title) + element("style", Html(style))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"{head}\n</head>\n<body>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )

"""Line charts with Vega-Lite, rendered without a browser or a network.

Colors are CSS variables (`--run0`, `--muted`, `--grid`), which style.css defines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import vl_convert

WIDTH, HEIGHT = 370, 220  # about the width of a phone


@dataclass(frozen=True)
class Line:
    points: Sequence[tuple[float, float]]
    color: str  # CSS
    style: Literal["plain", "faint", "marked"] = "plain"  # marked: a point at each value, with a tooltip


def png(specification: dict[str, Any]) -> bytes:
    """Renders a Vega-Lite specification at twice its size in pixels."""
    return vl_convert.vegalite_to_png(json.dumps(specification), scale=2)


def line_chart(lines: Sequence[Line], *, label: str, x: str, y: str, log: bool = False, log_x: bool = False) -> str:
    """The SVG of lines on common axes, with `label` for screen readers.

    With `log`, the y axis is logarithmic unless a value is 0 or all lie within a factor of three; with `log_x`, the x
    axis is, and all x must be above 0.
    """
    values, xs = [y for line in lines for _, y in line.points], [x for line in lines for x, _ in line.points]
    low, high = min(values, default=0), max(values, default=0)
    log = log and high > 3 * low > 0
    scale = {"type": "log", "nice": False} if log else {"zero": False}
    scale_x = {"type": "log", "nice": False} if log_x else {"nice": False, "domainMin": 0}
    ticks = [digit * 10.0**power for power in range(-12, 13) for digit in (1, 2, 3, 5, 7)]
    left, right = min(xs, default=1), max(xs, default=1)
    digits = (1, 2, 5) if right < 1000 * left else (1,)
    ticks_x = [digit * 10.0**power for power in range(-12, 13) for digit in digits]
    axis_x = {"values": [tick for tick in ticks_x if left <= tick <= right]} if log_x else {}
    axis_y = {"values": [tick for tick in ticks if low <= tick <= high]} if log else {}
    layers = []
    for line in lines:
        mark: dict[str, Any] = {"type": "line", "strokeJoin": "round", "aria": False, "strokeWidth": 1.5}
        if line.style == "faint":
            mark |= {"strokeWidth": 1.2, "opacity": 0.5}
        if line.style == "marked" or len(line.points) == 1:  # a point alone is not a line
            mark |= {"strokeWidth": 2, "point": {"size": 26, "color": line.color}}
        rows = [{"x": x, "y": y, "text": f"{_number(x)}: {y:.4g}"} for x, y in line.points]
        encoding = {
            "x": {
                "field": "x",
                "type": "quantitative",
                "title": x + ", log scale" * log_x,
                "scale": scale_x,
                "axis": axis_x,
            },
            "y": {
                "field": "y",
                "type": "quantitative",
                "title": y + ", log scale" * log,
                "scale": scale,
                "axis": axis_y,
            },
            "color": {"value": line.color},
            "description": {"field": "text"},
        }
        layers.append({"data": {"values": rows}, "mark": mark, "encoding": encoding})
    axis = {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--grid)",
        "titleFontWeight": 400,
    }
    axis |= {"labelFontSize": 12, "titleFontSize": 12, "labelOverlap": "greedy", "titlePadding": 8}
    specification = {
        "width": WIDTH, "height": HEIGHT, "background": None, "padding": 2, "layer": layers,
        "config": {
            "view": {"stroke": None}, "axis": {**axis, "domain": False, "ticks": False, "labelPadding": 6},
            "axisX": {"grid": False, "tickCount": 5, **({"format": ",~r"} if log_x else {})},
            "axisY": {"tickCount": 5, "format": ",~r"},
        },
    }  # fmt: skip
    return _slim(vl_convert.vegalite_to_svg(json.dumps(specification)), label)


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 10 or x == int(x) else f"{x:.2g}"


def _slim(svg: str, label: str) -> str:
    """The SVG with the width of its container, coordinates to a tenth of a pixel, and descriptions as tooltips."""
    view = re.search(r' viewBox="[^"]*"', svg)
    assert view
    assert '"' not in label
    svg = f'<svg role="img" aria-label="{label}"{view[0]}' + svg[svg.index(">") :]
    svg = re.sub(r' (?:d|transform)="[^"]*"', lambda m: re.sub(r"-?\d+\.\d\d+", _tenth, m[0]), svg)
    return re.sub(r'<path aria-label="([^"]*)"([^>]*)/>', r"<path\2><title>\1</title></path>", svg)


def _tenth(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")

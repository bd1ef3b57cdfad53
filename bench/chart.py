"""Draws the figures of a run as an SVG: a bar for each ratio."""

from __future__ import annotations

from typing import Any, List, Mapping
from xml.sax.saxutils import escape

_ROW, _LEFT, _UNIT, _MOST = 22, 330, 160, 2.5


def draw(found: Mapping[str, Any]) -> str:
    """Return the picture.

    :param found: the contents of ``figures.json``
    """
    figures = [one for one in found["figures"] if one["ratio"]]
    height = _ROW * (len(figures) + 3)
    width = _LEFT + int(_UNIT * _MOST) + 60
    lines: List[str] = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(10, _ROW, "Agent against the bare minimum, which is 1.0"),
    ]
    for row, one in enumerate(figures, 2):
        y = row * _ROW
        length = min(one["ratio"], _MOST) * _UNIT
        good = "s" if "/s" in one["name"] else "m"
        better = one["ratio"] >= 1 if good == "s" else one["ratio"] <= 1
        colour = "#3a7" if better else "#c84"
        lines += [
            _text(10, y + 14, one["name"]),
            f'<rect x="{_LEFT}" y="{y + 3}" width="{length:.0f}" '
            f'height="{_ROW - 8}" fill="{colour}"/>',
            _text(_LEFT + length + 6, y + 14, f"{one['ratio']:.2f}"),
        ]
    x = _LEFT + _UNIT
    lines += [
        f'<line x1="{x}" x2="{x}" y1="{2 * _ROW - 6}" '
        f'y2="{height - _ROW}" stroke="black"/>',
        _text(
            10,
            height - 8,
            f"{found['command']}, {found['date']}, Python {found['python']}, "
            f"{found['cores']} cores; medians; green is better",
        ),
        "</svg>\n",
    ]
    return "\n".join(lines)


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'

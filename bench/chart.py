"""Draws the figures of a run as an SVG: a bar for each ratio."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH, _MARGIN, _ROW, _BAR = 850, 24, 24, 12
_LEFT = 370  # where the bars begin
_LENGTH = 290  # of the longest bar
_RIGHT = _WIDTH - _MARGIN
_RATIO = _RIGHT - 115
_MOST = 2.5  # ratio of the longest bar; greater ones are cut

# Colours that people with colour blindness can tell apart.
_STYLE = """\
svg { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif }
.back { fill: #ffffff; stroke: #d0d7de }
text { fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 }
.group { font-weight: 600 }
.small { font-size: 11px; fill: #59636e }
.end { text-anchor: end }
.middle { text-anchor: middle }
.better { fill: #2f81c7 }
.worse { fill: #d98a1f }
.range { stroke: #1f2328; stroke-opacity: 0.6 }
.floor { stroke: #1f2328; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117; stroke: #3d444d }
text { fill: #f0f6fc }
.small { fill: #9198a1 }
.range, .floor { stroke: #f0f6fc }
}"""


def draw(found: Mapping[str, Any]) -> str:
    """Return the picture.

    :param found: the contents of the file that ``--json`` writes
    """
    figures = [one for one in found["figures"] if one["ratio"]]
    groups: Dict[str, List[Mapping[str, Any]]] = {
        "Throughput: more is better": [],
        "Time and memory: less is better": [],
    }
    more, less = groups.values()
    for one in figures:
        (more if _is_more_better(one) else less).append(one)
    lines: List[str] = []
    y = 78
    for name, members in groups.items():
        if members:
            lines.append(_text(_MARGIN, y + 15, name, "group"))
            lines += _bars(members, y + _ROW)
            y += _ROW * (len(members) + 1) + 12
    x = _at(1)
    height = y + 60
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
            f'height="{height}" viewBox="0 0 {_WIDTH} {height}" role="img">',
            f"<style>{_STYLE}</style>",
            f'<rect class="back" x="0.5" y="0.5" width="{_WIDTH - 1}" '
            f'height="{height - 1}" rx="6"/>',
            _text(
                _MARGIN,
                36,
                "ngcp-task-agent, compared with the bare minimum of its work",
                "title",
            ),
            _text(x, 64, "bare minimum = 1.0", "small middle"),
            _text(_RATIO, 64, "ratio", "small end"),
            _text(_RIGHT, 64, "agent / minimum", "small end"),
            *lines,
            f'<line class="floor" x1="{x:.1f}" x2="{x:.1f}" y1="70" '
            f'y2="{y - 8}"/>',
            _text(
                _MARGIN,
                y + 14,
                "All are medians of the rounds, the ratios too, so a ratio "
                "can differ from that of the two figures beside it.",
                "small",
            ),
            _text(
                _MARGIN,
                y + 30,
                "The thin lines range from the least to the greatest ratio. "
                f"Bars end at {_MOST}. Blue is 1.0 or better. A/B compares A "
                "with B.",
                "small",
            ),
            _text(
                _MARGIN,
                y + 46,
                f"{found['date']}, {found['command']}, Python "
                f"{found['python']}, {found['cores']} cores",
                "small",
            ),
            "</svg>\n",
        ]
    )


def _at(ratio: float) -> float:
    """Return where the bar of a ratio ends."""
    return _LEFT + min(ratio / _MOST, 1) * _LENGTH


def _bars(figures: Sequence[Mapping[str, Any]], y: float) -> List[str]:
    lines: List[str] = []
    for one in figures:
        ratio, middle = one["ratio"], y + _ROW / 2
        is_better = ratio >= 1 if _is_more_better(one) else ratio <= 1
        lines += [
            _text(_LEFT - 10, middle + 4, one["name"], "end"),
            f'<rect class="{"better" if is_better else "worse"}" x="{_LEFT}" '
            f'y="{middle - _BAR / 2}" width="{_at(ratio) - _LEFT:.1f}" '
            f'height="{_BAR}" rx="2"/>',
            f'<line class="range" x1="{_at(one["low"]):.1f}" '
            f'x2="{_at(one["high"]):.1f}" '
            f'y1="{middle}" y2="{middle}"/>',
            _text(_RATIO, middle + 4, f"{ratio:.2f}", "group end"),
            _text(
                _RIGHT,
                middle + 4,
                f"{_short(one['agent'])} / {_short(one['floor'])}",
                "small end",
            ),
        ]
        y += _ROW
    return lines


def _is_more_better(figure: Mapping[str, Any]) -> bool:
    return "s/s" in figure["name"]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
    )

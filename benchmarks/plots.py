"""Pictures of a run, in SVG: bars for what has one figure, lines for what has one at each size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from .bars import shown
from .pairs import Book

Point = tuple[float, float]
#: For snowgreen, and then for the others in turn; the text can be read on white and on black.
_OURS: Final = "#1a9850"
_OTHERS: Final = ("#4575b4", "#d73027", "#984ea3", "#ff7f00", "#a65628", "#f781bf", "#666699", "#999933")
_TEXT: Final = "#808080"
_ROW: Final = 24
_WIDTH: Final = 720
_LEFT: Final = 170
_LINES_HEIGHT: Final = 380
#: Below which two labels under a line would touch.
_APART: Final = 60


def draw(book: Book, folder: Path) -> list[Path]:
    """All pictures that the figures are there for."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, figure in {
        "accept": "server CPU per accepted link, µs",
        "rtt": "RTT p50, µs",
        "broadcast": "broadcast of 256 B to 5,000 links, ms",
        "idle": "idle CPU at 10,000 links, % of a core",
    }.items():
        if figure in book.figures:
            pictures[name] = bars(figure, medians(book, figure))
    for name, (title, before, after) in {
        "memory": ("RSS per link, bytes, by links held", "RSS per link at ", ", bytes"),
        "messages": ("messages/s, by bytes of each", "", ": messages/s"),
    }.items():
        series = by_size(book, before, after)
        if series:
            pictures[name] = lines(title, series)
    paths = []
    for name, picture in pictures.items():
        paths.append(folder / f"{name}.svg")
        paths[-1].write_text(picture, encoding="utf-8")
    return paths


def medians(book: Book, figure: str) -> dict[str, float]:
    """Of each peer."""
    return {peer: book.summary(figure, peer).median for peer in book.figures[figure]}  # type: ignore[union-attr]  # whoever is there has rounds


def by_size(book: Book, before: str, after: str) -> dict[str, list[Point]]:
    """The medians of each peer by what stands between `before` and `after` in a figure's name."""
    series: dict[str, list[Point]] = {}
    for figure in book.figures:
        if figure.startswith(before) and figure.endswith(after):
            at = _number(figure.removeprefix(before).removesuffix(after))
            for peer, median in medians(book, figure).items():
                if median > 0:
                    series.setdefault(peer, []).append((at, median))
    return {peer: sorted(points) for peer, points in series.items()}


def bars(title: str, values: Mapping[str, float]) -> str:
    """A bar for each, from zero."""
    longest, room = max(values.values(), default=0.0) or 1.0, _WIDTH - _LEFT - 80
    body = []
    for row, (peer, value) in enumerate(values.items()):
        top, length = 40 + row * _ROW, max(1.0, value / longest * room)
        body.append(_text(_LEFT - 8, top + 15, peer, "end"))
        body.append(
            f'<rect x="{_LEFT}" y="{top + 3}" width="{length:.1f}" height="{_ROW - 7}" '
            f'fill="{_colour(peer, list(values))}"/>'
        )
        body.append(_text(_LEFT + length + 6, top + 15, shown(value)))
    return _picture(title, 50 + len(values) * _ROW, body)


def lines(title: str, series: Mapping[str, Sequence[Point]]) -> str:
    """A line for each, both scales logarithmic."""
    points = [point for line in series.values() for point in line]
    x_low, x_high = _span([x for x, _ in points])
    y_low, y_high = _span([y for _, y in points])
    right, top, bottom = _WIDTH - 180, 40, _LINES_HEIGHT - 40

    def place(x: float, y: float) -> Point:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return 80 + across * (right - 80), bottom - up * (bottom - top)

    body = []
    for value in _ticks(y_low, y_high):
        _, y = place(10**x_low, value)
        body.append(f'<path d="M80 {y:.1f}H{right}" stroke="{_TEXT}" stroke-opacity=".3"/>')
        body.append(_text(72, y + 4, f"{value:,.10g}", "end"))
    written = -math.inf
    for x_value in sorted({x for x, _ in points}):
        x = place(x_value, 10**y_low)[0]
        if x > written + _APART:
            body.append(_text(x, bottom + 18, f"{x_value:,.0f}", "middle"))
            written = x
    for row, (peer, line) in enumerate(series.items()):
        colour, path = _colour(peer, list(series)), [place(x, y) for x, y in line]
        trail = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
        body.append(f'<polyline points="{trail}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in path]
        body.append(f'<rect x="{right + 20}" y="{top + row * 20}" width="12" height="12" fill="{colour}"/>')
        body.append(_text(right + 38, top + row * 20 + 11, peer))
    return _picture(title, _LINES_HEIGHT, body)


def _span(values: Sequence[float]) -> Point:
    """The powers of ten between which all are, a little apart."""
    low, high = math.log10(min(values)), math.log10(max(values))
    return low - 0.1, high + 0.1


def _ticks(low: float, high: float) -> list[float]:
    """Round values between these powers of ten."""
    steps = (1, 2, 5) if high - low < 2 else (1,)
    powers = range(math.floor(low), math.ceil(high))
    values = [step * 10.0**power for power in powers for step in steps]
    return [value for value in values if low <= math.log10(value) <= high]


def _number(size: str) -> float:
    """Of "1 KiB" or "5,000"."""
    digits, _, unit = size.replace(",", "").partition(" ")
    return float(digits) * {"KiB": 1024, "MiB": 1024**2}.get(unit, 1)


def _colour(peer: str, peers: Sequence[str]) -> str:
    if peer == "snowgreen":
        return _OURS
    others = [other for other in peers if other != "snowgreen"]
    return _OTHERS[others.index(peer) % len(_OTHERS)]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _picture(title: str, height: int, body: Sequence[str]) -> str:
    content = "\n".join([_text(10, 20, title), *body])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="12" fill="{_TEXT}">\n{content}\n</svg>\n'
    )

"""Elements of SVG charts with one colour scheme for light pages and one for dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ("element", "line", "nice_ticks", "path", "picture", "rectangle", "text")

_LIGHT = {
    "page": "#ffffff",
    "edge": "#d8dee4",
    "ink": "#1f2328",
    "soft": "#59636e",
    "grid": "#e6eaef",
    "ours": "#d4500f",
    "ours-soft": "#f0a27c",
    "peer": "#6e8296",
    "peer-soft": "#b3c0cc",
    "bad": "#c0152f",
}
_DARK = {
    "page": "#0d1117",
    "edge": "#30363d",
    "ink": "#e6edf3",
    "soft": "#9198a1",
    "grid": "#21262d",
    "ours": "#ff8a4c",
    "ours-soft": "#a8542a",
    "peer": "#7d93aa",
    "peer-soft": "#465768",
    "bad": "#ff7b72",
}
_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"


def picture(width: float, height: float, title: str, body: Sequence[str]) -> str:
    """Return a complete SVG document with a background and a border."""
    style = f"""
    text {{ font: 13px {_FONT}; fill: {_LIGHT["ink"]}; }}
    .small {{ font-size: 11.5px; }} .bold {{ font-weight: 600; }} .end {{ text-anchor: end; }}
    .halo {{ paint-order: stroke; stroke: {_LIGHT["page"]}; stroke-width: 4px; }}
    .middle {{ text-anchor: middle; }} .num {{ font-variant-numeric: tabular-nums; }}
    {_colours(_LIGHT)}
    @media (prefers-color-scheme: dark) {{
    text {{ fill: {_DARK["ink"]}; }} .halo {{ stroke: {_DARK["page"]}; }}
    {_colours(_DARK)}
    }}"""
    page = (
        f'<rect x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="8" '
        'class="f-page s-edge"/>'
    )
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}\n</style>",
            page,
            *body,
            "</svg>\n",
        ]
    )


def _colours(colours: Mapping[str, str]) -> str:
    fills = (f".f-{name} {{ fill: {value}; }}" for name, value in colours.items())
    strokes = (f".s-{name} {{ stroke: {value}; }}" for name, value in colours.items())
    return " ".join([*fills, *strokes])


def element(name: str, classes: str, attributes: Mapping[str, object], body: str = "") -> str:
    """Return one element; an underscore in an attribute name becomes a dash."""
    given = "".join(
        f' {key.replace("_", "-")}="{escape(_number(value))}"' for key, value in attributes.items()
    )
    opened = f'<{name} class="{classes}"{given}'
    return f"{opened}>{body}</{name}>" if body else f"{opened}/>"


def _number(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def text(x: float, y: float, words: str, classes: str = "") -> str:
    """Return text whose baseline starts at a point, or ends there with the class ``end``."""
    return element("text", classes, {"x": float(x), "y": float(y)}, escape(words))


def rectangle(x: float, y: float, width: float, height: float, classes: str) -> str:
    """Return a rectangle, or an empty string if its width is not positive."""
    if width <= 0:
        return ""
    attributes = {"x": float(x), "y": float(y), "width": float(width), "height": float(height)}
    return element("rect", classes, attributes)


def line(x1: float, y1: float, x2: float, y2: float, classes: str, **attributes: object) -> str:
    """Return a straight line."""
    ends = {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}
    return element("line", classes, {**ends, **attributes})


def path(points: Sequence[tuple[float, float]], classes: str, **attributes: object) -> str:
    """Return a polyline through points."""
    drawn = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    return element("path", classes, {"d": drawn, **attributes})


def nice_ticks(largest: float, most: int = 5) -> list[float]:
    """Return evenly spaced round values for an axis, from 0 to at least `largest`.

    Args:
        largest: the largest value to be shown.
        most: maximum number of intervals.

    Raises:
        ValueError: `largest` is not positive.
    """
    if not largest > 0:
        raise ValueError(f"the largest value must be positive, not {largest!r}")
    step = 1e-9
    while True:
        for factor in (1, 2, 5):
            if step * factor * most >= largest:
                count = 1
                while step * factor * count < largest * (1 - 1e-9):
                    count += 1
                return [float(f"{step * factor * i:.6g}") for i in range(count + 1)]
        step *= 10

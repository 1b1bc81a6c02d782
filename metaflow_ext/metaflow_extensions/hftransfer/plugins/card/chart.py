"""The chart of the card: throughput over time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress

# A transfer with fewer windows has no course that could be drawn.
_MIN_WINDOWS = 3


def throughput_chart(transfers: Sequence[TransferProgress]) -> dict[str, Any] | None:
    """Return a Vega-Lite chart of the throughput by the time of day; None without data.

    One step per window: the mean of what came in it. Nothing is smoothed.
    """
    from hftransfer._core.units import MIB

    names = [transfer.what for transfer in transfers]
    values = []
    for number, transfer in enumerate(transfers, 1):
        rates = transfer.rates()
        if len(rates) < _MIN_WINDOWS or not transfer.total:
            continue
        points = [(rate.start, rate.bytes_per_second) for rate in rates]
        points.append((rates[-1].end, rates[-1].bytes_per_second))  # the end of the last step
        name = transfer.what if names.count(transfer.what) == 1 else f"{number}. {transfer.what}"
        values += [
            {
                "transfer": name,
                "time": round((transfer.started_at + seconds) * 1000),
                "rate": round(rate / MIB, 2),
            }
            for seconds, rate in points
        ]
    if not values:
        return None
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": 700,
        "height": 200,
        "data": {"values": values},
        "mark": {"type": "area", "line": True, "opacity": 0.3, "interpolate": "step-after"},
        "encoding": {
            "x": {
                "field": "time",
                "type": "temporal",
                "title": None,
                "axis": {"format": "%H:%M:%S", "labelOverlap": True, "tickCount": 6},
            },
            "y": {"field": "rate", "type": "quantitative", "title": "MiB/s", "stack": None},
            "color": {
                "field": "transfer",
                "type": "nominal",
                "sort": None,
                "title": None,
                "legend": {"orient": "bottom", "columns": 1, "labelLimit": 0},
            },
        },
    }

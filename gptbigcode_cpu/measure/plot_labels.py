"""Labels of points in a plot that cover neither a point nor each other; needs matplotlib (extra ``bench``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

FONT_SIZE: Final = 8.5
_DISTANCES: Final = (5, 12, 20, 30, 42)  # between a point and its label, in points (1/72 inch)
_DIRECTIONS: Final = tuple(math.radians(angle) for angle in (-90, 90, 0, 180, 45, 135, -45, -135))
_MARKER: Final = 4  # half of what a point takes, in points


def place_labels(axes: Any, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write a label below its point, or where there is room near it; farther away, a thin line leads to the point.

    Args:
        axes: Of matplotlib's; everything else must be drawn, and the limits set.
        labels: x and y of the point, the text, and its colour.
    """
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.draw_without_rendering()
    pixels = figure.dpi / 72
    inside = axes.get_window_extent()
    points = axes.transData.transform([(x, y) for x, y, _, _ in labels])
    radius = _MARKER * pixels
    taken = [Bbox.from_bounds(px - radius, py - radius, 2 * radius, 2 * radius) for px, py in points]
    taken += [text.get_window_extent() for text in axes.texts]
    for number, (x, y, text, color) in enumerate(labels):
        label = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", ha="center", va="center", color=color, fontsize=FONT_SIZE
        )
        label.set_in_layout(False)
        extent = label.get_window_extent()
        width, height = extent.width / pixels, extent.height / pixels

        def offset(distance: float, angle: float, width: float = width, height: float = height) -> tuple[float, float]:
            return math.cos(angle) * (distance + width / 2), math.sin(angle) * (distance + height / 2)

        def cost(place: tuple[float, float], extent: Any = extent, number: int = number) -> float:
            box = extent.translated(place[0] * pixels, place[1] * pixels)
            covered = sum(_overlap(box, other) for index, other in enumerate(taken) if index != number)
            end = points[number] + np.array(place) * pixels
            crossed = sum(_distance(point, points[number], end) < radius for point in np.delete(points, number, axis=0))
            return float(covered + crossed * radius**2 + box.width * box.height - _overlap(box, inside))

        places = [(distance, offset(distance, angle)) for distance in _DISTANCES for angle in _DIRECTIONS]
        distance, best = min(places, key=lambda each: cost(each[1]))  # the first of the best
        label.set_position(best)
        taken.append(extent.translated(best[0] * pixels, best[1] * pixels))
        if distance > _DISTANCES[1]:
            axes.annotate(
                "", (x, y), best, textcoords="offset points", arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5}
            ).set_in_layout(False)


def _distance(point: Any, begin: Any, end: Any) -> float:
    """Between a point and a line, in pixels."""
    along = end - begin
    share = np.clip((point - begin) @ along / (along @ along), 0, 1)
    return float(np.hypot(*(begin + share * along - point)))


def _overlap(left: Any, right: Any) -> float:
    """Area that two boxes share, in square pixels."""
    width = min(left.x1, right.x1) - max(left.x0, right.x0)
    height = min(left.y1, right.y1) - max(left.y0, right.y0)
    return float(max(width, 0) * max(height, 0))

"""Plots of `bench`: labels do not overlap, numbers are readable, and points above the measured limits are explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu.hub import paths as hub
from gptbigcode_cpu.measure import benchmark

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from gptbigcode_cpu.measure import plots
from gptbigcode_cpu.measure.plot_labels import place_labels


def test_labels_cover_neither_points_nor_each_other() -> None:
    points = [(7 + 0.08 * (number % 3), 12 + 0.5 * (number // 3)) for number in range(9)]
    figure: Any = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "o", markersize=5)
    axes.set(xlim=(5, 10), ylim=(5, 20))
    place_labels(axes, [(x, y, f"label {number}", "black") for number, (x, y) in enumerate(points)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 9
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)
        assert axes.get_window_extent().count_contains(box.corners()) == 4


def test_thousands() -> None:
    assert [plots._three_digits(value) for value in (3.14159, 38.46, 999.4, 1889.6, 12850)] == [
        *("3.14", "38.5", "999", "1,890", "12,800"),
    ]


@pytest.mark.parametrize("times", [0.5, 1e6])
def test_a_point_above_the_roof_is_explained(tmp_path: Path, times: float) -> None:
    result = benchmark.measure(hub.resolve("demo"), prompt_tokens=40, new_tokens=2, repeat=1, threads=1, limits=True)
    assert result.limits is not None
    fastest = max(call.macs / call.seconds[0] for call in result.calls)
    read = max(call.nbytes / call.seconds[0] for call in result.calls)
    limits = replace(result.limits, int8_macs_per_s=times * fastest, read_bytes_per_s=times * read)
    plots.draw(replace(result, limits=limits), tmp_path / "plot.svg")
    assert ("above the roof" in (tmp_path / "plot.svg").read_text()) == (times < 1)

"""The figure of ``gptbigcode-cpu evaluate --plot``; needs matplotlib (extra ``bench``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptbigcode_cpu.measure.evaluation import layer_names, mean_and_stderr
from gptbigcode_cpu.measure.plots import BLUE, GREY, ORANGE, draw_panels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gptbigcode_cpu.measure.evaluation import Evaluation

_GROUPS = 16  # of positions whose losses are averaged into one point
_SMALLEST_KL = 1e-9  # nats; what is less, 0 included, is drawn there


def draw(result: Evaluation, title: str, path: Path) -> None:
    """Draw what was measured: loss against position and, with a reference, the KL divergences and the error of each layer.

    Args:
        result: The measurement.
        title: The text above the panels.
        path: Written at once or not at all; its ending says in which format.
    """
    panels: list[Callable[[Any], None]] = []
    if result.comparison:
        panels.append(partial(_divergences, values=result.comparison.divergences))
        if result.comparison.layer_errors is not None:
            panels.append(partial(_layer_errors, errors=result.comparison.layer_errors))
    draw_panels([*panels, partial(_loss_by_position, result=result)], title, path)


def _divergences(axes: Any, values: NDArray[np.float64]) -> None:
    drawn = np.maximum(values.ravel(), _SMALLEST_KL)
    low, high = drawn.min() / 1.5, drawn.max() * 1.5
    axes.hist(drawn, bins=np.geomspace(low, high, 60), weights=np.full(drawn.size, 100 / drawn.size), color=BLUE)
    axes.set_axisbelow(True)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    median, p99 = np.quantile(values, (0.5, 0.99))
    for height, (name, value) in zip(
        (0.97, 0.9, 0.83), (("median", median), ("mean", values.mean()), ("99 %", p99)), strict=True
    ):
        at = max(float(value), _SMALLEST_KL)
        axes.axvline(at, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{name} {value:.2g}",
            (at, height),
            (4, 0),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            va="top",
            color=GREY,
            fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )
    axes.set_title("KL divergence from the reference")
    axes.set_xlabel("nats")
    axes.set_ylabel("% of tokens")


def _layer_errors(axes: Any, errors: NDArray[np.float64]) -> None:
    names = layer_names(len(errors))
    axes.plot(range(len(errors)), 100 * errors, "o-", color=BLUE, linewidth=1.8, markersize=5, clip_on=False)
    axes.set_title("Error of the activations")
    axes.set_xlabel("after block")
    axes.set_ylabel("% of the reference's norm")
    shown = sorted({round(index) for index in np.linspace(0, len(names) - 1, min(len(names), 9))})
    axes.set_xticks(shown, [names[index].removeprefix("block ") for index in shown])
    axes.get_xticklabels()[0].set_ha("right")  # the one long name, away from its neighbour
    axes.set_ylim(0, 120 * float(errors.max()) or 1)


def _loss_by_position(axes: Any, result: Evaluation) -> None:
    lines = [("model", result.losses, BLUE)]
    if result.comparison:
        lines.append(("reference", result.comparison.losses, ORANGE))
    positions = np.arange(result.context - result.stride, result.context)
    groups = np.array_split(np.arange(result.stride), min(_GROUPS, result.stride))
    middles = [positions[group].mean() for group in groups]
    for label, losses, color in lines:
        points = [mean_and_stderr(losses[:, group]) for group in groups]
        means = np.array([mean for mean, _ in points])
        axes.plot(middles, means, "o-", color=color, linewidth=1.8, markersize=4, label=label)
        if len(losses) > 1:
            spread = np.array([stderr for _, stderr in points], np.float64)
            axes.fill_between(middles, means - spread, means + spread, color=color, alpha=0.15, linewidth=0)
    axes.set_title("Loss by position in the window")
    axes.set_xlabel("tokens before the predicted one")
    axes.set_ylabel("nats per token")
    if result.comparison:
        axes.legend(frameon=False)

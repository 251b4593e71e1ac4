"""The figures that ``--plot`` draws; they need matplotlib (extra ``bench``). Here: those of ``gptbigcode-cpu bench``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.common.files import replacing
from gptbigcode_cpu.errors import MissingDependencyError
from gptbigcode_cpu.measure.plot_labels import FONT_SIZE, place_labels

if TYPE_CHECKING:
    from gptbigcode_cpu.measure.benchmark import AtDepth, BenchResult, Timing

BLUE, ORANGE, GREEN, GREY, _TEXT = "#1f5fa8", "#c8591a", "#2e7d4f", "#5b6470", "#333a42"
_PANEL_INCHES = (4.8, 3.9)
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#9aa3ad",
    "axes.grid": True,
    "axes.labelcolor": _TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _TEXT,
    "axes.titlesize": 11,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.12,
    "font.size": 9.5,
    "grid.color": "#e6e9ec",
    "svg.fonttype": "none",
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
}


def require_matplotlib() -> None:
    """
    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError('plots need matplotlib: pip install "gptbigcode-cpu[bench]"') from error


def draw(result: BenchResult, path: Path) -> None:
    """Draw what was measured: cost against context, cost of rows, roofline; whichever there is.

    Args:
        result: The measurement.
        path: Written at once or not at all; its ending says in which format.
    """
    panels: list[Callable[..., None]] = []
    if len(result.depths) > 1:
        panels += [_decode_cost, _prefill_cost]
    if result.limits:
        panels += [_rows_cost, _roofline]
    elif result.rows:
        panels += [_rows_cost]
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    if result.prefill_threads != result.threads:
        threads += f", {result.prefill_threads} for prefill"
    title = f"{Path(result.model).name}: {result.dtype}, {result.isa}, {threads}"
    draw_panels([partial(panel, result=result) for panel in panels], title, path)


def draw_panels(
    panels: Sequence[Callable[[Any], None]], title: str, path: Path, inches: tuple[float, float] = _PANEL_INCHES
) -> None:
    """Draw a figure.

    Args:
        panels: Each draws one set of axes of matplotlib's.
        title: The text above them.
        path: Written at once or not at all; its ending says in which format.
        inches: Width and height of one.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        columns = 2 if len(panels) == 4 else len(panels)
        rows = len(panels) // columns
        width, height = inches
        figure: Any = Figure(figsize=(width * columns, height * rows + 0.3), layout="constrained")
        figure.suptitle(title, fontweight="bold", fontsize=12)
        for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=True):
            panel(axes)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=160)


def _decode_cost(axes: Any, result: BenchResult) -> None:
    axes.set_title("Decode")
    axes.set_ylabel("milliseconds per token")
    _against_context(axes, result.depths, [1e3 / at.decode_tokens_per_s for at in result.depths], BLUE)


def _prefill_cost(axes: Any, result: BenchResult) -> None:
    axes.set_title(f"Prefill of {result.prompt_tokens}")
    axes.set_ylabel("milliseconds per token")
    _against_context(axes, result.depths, [1e3 / at.prefill_tokens_per_s for at in result.depths], ORANGE)


def _against_context(axes: Any, depths: tuple[AtDepth, ...], cost_ms: list[float], color: str) -> None:
    points = sorted(zip((at.depth for at in depths), cost_ms, strict=True))
    context = [tokens for tokens, _ in points]
    axes.plot(context, [cost for _, cost in points], "o-", color=color, linewidth=1.8, markersize=5, clip_on=False)
    axes.axhline(points[0][1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlabel("tokens in the cache")
    axes.set_xlim(-0.05 * context[-1], 1.05 * context[-1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_ylim(0, 1.25 * max(cost_ms))
    for tokens, cost in points:
        first = tokens == context[0]  # off the rising line: the first below it, the others above
        _label(
            axes, f"{_three_digits(1e3 / cost)} tokens/s", (tokens, cost), color, below=first, side="left" if first else "right"
        )


def _three_digits(value: float) -> str:
    """``38.5``, ``285`` or ``1,890``."""
    return f"{value:.3g}" if value < 999.5 else f"{float(f'{value:.3g}'):,.0f}"


def _label(axes: Any, text: str, point: tuple[float, float], color: str, *, below: bool = False, side: str = "center") -> None:
    axes.annotate(text, point, (0, -13 if below else 7), textcoords="offset points", ha=side, color=color, fontsize=FONT_SIZE)


def _rows_cost(axes: Any, result: BenchResult) -> None:
    rows = sorted(result.rows, key=lambda row: row.rows)
    counts, costs = [row.rows for row in rows], [row.cost for row in rows]
    top = 1.25 * max(costs)
    axes.set_title("A step of several sequences")
    axes.set_xscale("log", base=2)
    axes.plot(counts, costs, "o-", color=BLUE, linewidth=1.8, markersize=5)
    for count, cost in zip(counts, costs, strict=True):
        first = count == counts[0]
        _label(axes, f"{cost:.2f}", (count, cost), BLUE, below=first, side="center" if first else "right")
    singly = [counts[0] * (counts[-1] / counts[0]) ** (i / 64) for i in range(65)]
    axes.plot(singly, singly, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate("one by one", (top * 0.9, top * 0.9), (-6, 0), textcoords="offset points", ha="right", color=GREY)
    axes.set_xticks(counts, [f"{count}" for count in counts])
    axes.minorticks_off()
    axes.set_xlim(counts[0] / 1.15, counts[-1] * 1.15)
    axes.set_ylim(0, top)
    axes.set_xlabel("sequences, one token each")
    axes.set_ylabel("time (step of one sequence = 1)")


def _roofline(axes: Any, result: BenchResult) -> None:
    assert result.limits is not None
    from matplotlib.ticker import LogLocator

    bandwidth, peak = result.limits.read_bytes_per_s, result.limits.int8_macs_per_s
    quantized = result.calls[0].share_of_int8_peak is not None
    steps = [call for call in result.calls if call.tokens == 1 and call.depth == 0]
    prefills = [call for call in result.calls if call.tokens > 1 and call.depth == 0]
    intensities = [_intensity(call) for call in steps + prefills]
    left, right = min(intensities) / 3, max(intensities) * 2.5

    ridge = peak / bandwidth if quantized else right
    roofs = [min(_intensity(call) * bandwidth, peak if quantized else math.inf) for call in steps + prefills]
    above = any(_rate(call) > 1.02 * roof for call, roof in zip(steps + prefills, roofs, strict=True))
    axes.loglog([left, ridge], [left * bandwidth / 1e9, ridge * bandwidth / 1e9], color=GREY, linewidth=1.6)
    if quantized:
        axes.loglog([ridge, right], [peak / 1e9] * 2, color=GREY, linewidth=1.6)
        axes.annotate(
            f"int8 peak, {_three_digits(peak / 1e9)}",
            (right, peak / 1e9),
            (-2, -14 if above else 5),
            textcoords="offset points",
            ha="right",
            color=GREY,
        )
    labels = []
    for calls, color, label in ((steps, BLUE, "step of N sequences"), (prefills, ORANGE, "prefill of N tokens")):
        points = sorted((_intensity(call), _rate(call) / 1e9, call.sequences * call.tokens) for call in calls)
        if not points:
            continue
        xs, ys, counts = zip(*points, strict=True)
        axes.loglog(xs, ys, "o", color=color, markersize=5, label=label)
        labels += [(x, y, f"{count:,}", color) for x, y, count in zip(xs, ys, counts, strict=True)]

    low = min(_rate(call) for call in steps + prefills) / 1e9 / 3
    highest = max(peak if quantized else max(left, ridge) * bandwidth, *(_rate(call) for call in steps + prefills)) / 1e9
    high = highest * (5 if above else 2.2)  # with room for a note
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_title("Roofline, empty context")
    axes.set_xlabel("multiply-adds per byte of weights and cache")
    axes.set_ylabel("billion multiply-adds per second")
    for axis in (axes.xaxis, axes.yaxis):
        low_end, high_end = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high_end < 300 * low_end else (1, 3)))
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.minorticks_off()
    axes.legend(frameon=False, loc="lower right")
    # Along the slope: its angle on the page follows from the axes' proportions.
    axes.figure.draw_without_rendering()
    middle = math.sqrt(max(left, low * 1e9 / bandwidth) * min(ridge, high * 1e9 / bandwidth))
    (x0, y0), (x1, y1) = axes.transData.transform([(middle, middle * bandwidth), (2 * middle, 2 * middle * bandwidth)])
    axes.annotate(
        f"{'cache' if result.limits.from_cache else 'memory'}, {bandwidth / 1e9:.1f} GB/s",
        (middle, middle * bandwidth / 1e9),
        (5, -5) if above else (-4, 5),
        textcoords="offset points",
        ha="center",
        va="top" if above else "baseline",
        rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
        color=GREY,
    )
    if above:
        note = "above the roof: a part of what is read is in a cache,\nor the machine was faster than when it was measured"
        axes.text(0.02, 0.985, note, transform=axes.transAxes, va="top", color=GREY, fontsize=8)
    place_labels(axes, labels)


def _intensity(call: Timing) -> float:
    return call.macs / call.nbytes


def _rate(call: Timing) -> float:
    return call.macs / statistics.median(call.seconds)

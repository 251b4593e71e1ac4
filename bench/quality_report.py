"""The table and the plot of ``bench/quality.py``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from divergence import Divergence


@dataclass(frozen=True)
class Row(Divergence):
    """One quantisation measured."""

    name: str
    file_bytes: int
    bits_per_weight: float
    convert_s: float
    decode_tokens_per_s: tuple[float, ...]  # one for each round


def draw(rows: Sequence[Row], file: Path) -> None:
    """KL divergence against bits per weight of the whole file."""
    from gptbigcode_cpu.measure import plots

    plots.draw_panels([partial(_divergence_against_bits, rows=rows)], "What quantisation costs", file, inches=(8, 5.2))


def _divergence_against_bits(axes: Any, rows: Sequence[Row]) -> None:
    from gptbigcode_cpu.measure.plot_labels import place_labels
    from gptbigcode_cpu.measure.plots import BLUE, GREEN, ORANGE

    labels = []
    shown = [row for row in rows if row.bits_per_weight < 12]
    for name, color in (("gptbigcode-cpu", BLUE), ("llama.cpp", ORANGE), ("llama.cpp, importance matrix", GREEN)):
        series = [
            row for row in shown if f"{row.name.split()[0]}{', importance matrix' * row.name.endswith('imatrix')}" == name
        ]
        if series:
            axes.plot([row.bits_per_weight for row in series], [row.kl_mean for row in series], "o", color=color, label=name)
        for row in series:
            text = row.name.removesuffix(" imatrix").partition(" ")[2]
            labels.append((row.bits_per_weight, row.kl_mean, text, color))
    axes.set(yscale="log", xlabel="bits per weight of the whole file", ylabel="KL divergence from float32, nats")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(0.08)
    axes.legend(frameon=False)
    place_labels(axes, labels)


def as_markdown(rows: Sequence[Row]) -> str:
    """The table of docs/quantization.md."""
    heads = ["", "bits per weight of the file", "KL mean", "median", "99 %", "same top token", "perplexity"]
    heads += ["seconds to convert", "decode tokens/s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        speeds = row.decode_tokens_per_s
        lines.append(
            f"| {row.name} | {row.bits_per_weight:.2f} | {row.kl_mean:.5f} | {row.kl_median:.5f} | {row.kl_p99:.4f}"
            f" | {100 * row.top1_agreement:.2f} % | {100 * row.perplexity_change:+.2f} % | {row.convert_s:.1f}"
            f" | {statistics.median(speeds):.1f} ({min(speeds):.1f}-{max(speeds):.1f}) |"
        )
    return "\n".join(lines)

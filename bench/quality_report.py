"""The table and the plot of ``bench/quality.py``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    series: dict[str, list[Row]] = {"gptbigcode-cpu": [], "llama.cpp": [], "llama.cpp, importance matrix": []}
    for row in rows:
        if row.bits_per_weight < 12:
            series[f"{row.name.split()[0]}{', importance matrix' * row.name.endswith('imatrix')}"].append(row)
    for name, shown in series.items():
        side, offset = ("right", (-5, -5)) if "importance" in name else ("left", (5, 5))
        if shown:
            axes.scatter([row.bits_per_weight for row in shown], [row.kl_mean for row in shown], label=name, zorder=3)
        for row in shown:
            point = (row.bits_per_weight, row.kl_mean)
            axes.annotate(row.name.split()[1], point, xytext=offset, textcoords="offset points", ha=side, fontsize=8)
    axes.set(yscale="log", xlabel="bits per weight of the whole file", ylabel="KL divergence from float32, nats")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


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

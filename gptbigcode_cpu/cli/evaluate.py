"""``gptbigcode-cpu evaluate``: how good a model is on a text, and what its quantisation costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gptbigcode_cpu.cli.model_name import ModelName
from gptbigcode_cpu.cli.options import (
    debug_option,
    json_option,
    kv_dtype_option,
    load_dtype_option,
    plot_option,
    threads_option,
)
from gptbigcode_cpu.common.dtypes import DTYPES, KV_DTYPES

if TYPE_CHECKING:
    from gptbigcode_cpu import GPTBigCodeForCausalLM, GPTBigCodeTokenizer
    from gptbigcode_cpu.measure.hidden_lines import ExactMatch, Hidden

_FIM_SAMPLES, _FIM_SEED = 100, 0
_TEXT_FILE: Any = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class _Subject:
    """A model of a comparison, with its name and tokenizer."""

    name: str
    model: GPTBigCodeForCausalLM
    tokenizer: GPTBigCodeTokenizer

    @classmethod
    def load(cls, name: str, dtype: str, kv_dtype: str, threads: int | None, fim: bool = False) -> _Subject:
        from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer
        from gptbigcode_cpu.config import read_config
        from gptbigcode_cpu.fim import FimTokens
        from gptbigcode_cpu.hub.paths import resolve

        directory = resolve(name, before_weights=read_config)
        tokenizer = AutoTokenizer.from_pretrained(directory)  # first, because it is what a checkpoint may lack
        if fim:
            FimTokens.find(tokenizer)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, num_threads=threads, kv_dtype=kv_dtype)
        return cls(name, model, tokenizer)

    @classmethod
    def load_reference(cls, name: str, dtype: str, kv_dtype: str, threads: int | None) -> _Subject:
        """The reference. With ``auto``, a plain checkpoint is not quantised: its weights keep their values."""
        from gptbigcode_cpu.config import read_config
        from gptbigcode_cpu.hub.paths import resolve
        from gptbigcode_cpu.store.weights import is_packed

        directory = resolve(name, before_weights=read_config)
        if dtype == "auto" and not is_packed(read_config(directory)):
            from gptbigcode_cpu.convert import exact_dtype

            dtype, kv_dtype = exact_dtype(directory), "float32" if kv_dtype == "auto" else kv_dtype
        return cls.load(name, dtype, kv_dtype, threads)

    def __str__(self) -> str:
        return f"{Path(self.name).name} ({self.model.dtype}, KV cache {self.model.kv_dtype})"


@click.command(options_metavar="", short_help="Measure how well a model predicts a text.")
@click.argument("model", type=ModelName())
@click.argument("more_text", nargs=-1, type=_TEXT_FILE, metavar="--text FILE... [OPTIONS]")
@click.option(
    "--text", required=True, multiple=True, type=_TEXT_FILE, metavar="FILE...", help="The text that MODEL has to predict."
)
@click.option("--reference", type=ModelName(), help="Measure how far MODEL's predictions are from those of this model.")
@load_dtype_option
@kv_dtype_option
@click.option(
    "--reference-dtype",
    type=click.Choice(["auto", *DTYPES]),
    help="How the reference's weights are stored; auto = as in its files: bfloat16, or float32 for any other plain "
    "checkpoint.  [default: auto]",
)
@click.option(
    "--reference-kv-dtype",
    type=click.Choice(["auto", *KV_DTYPES]),
    help="How the reference's KV cache is stored; auto = float32 for a plain checkpoint as it is, otherwise as for MODEL.  "
    "[default: auto]",
)
@click.option(
    "--context",
    type=click.IntRange(min=2),
    metavar="TOKENS",
    help="Tokens per window.  [default: 512, or all that the model has room for]",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="How far the windows advance. Each window scores so many tokens, its last ones.  [default: half of --context]",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="Score at most so many tokens, evenly spread over the text.  [default: all]",
)
@click.option("--fim", is_flag=True, help="Also count hidden lines that MODEL fills in exactly.")
@click.option("--fim-samples", type=click.IntRange(min=1), help=f"How many lines to hide.  [default: {_FIM_SAMPLES}]")
@click.option("--fim-seed", type=click.IntRange(min=0), help=f"Another seed hides other lines.  [default: {_FIM_SEED}]")
@click.option(
    "--fim-hide",
    type=click.Choice(["line", "tail"]),
    help="Hide all of a line but its indentation, or its tail from a random place on.  [default: line]",
)
@plot_option("KL divergences, errors by layer and loss by position")
@threads_option
@json_option
@debug_option
def evaluate(
    model: str,
    more_text: tuple[Path, ...],
    text: tuple[Path, ...],
    reference: str | None,
    dtype: str,
    kv_dtype: str,
    reference_dtype: str | None,
    reference_kv_dtype: str | None,
    context: int | None,
    stride: int | None,
    max_tokens: int | None,
    fim: bool,
    fim_samples: int | None,
    fim_seed: int | None,
    fim_hide: Hidden | None,
    plot: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure how well MODEL predicts a text; with --reference, what quantisation changed.

    The files of --text are plain text, or .jsonl with a "text" per line. An end-of-text token is put before each text. Windows
    of --context tokens advance by --stride, and each scores its last --stride tokens. So no token is scored twice, and each
    has text before it.

    \b
    perplexity        exp of the mean loss. At 8, the next token is as hard to
                      predict as one of 8 equally likely ones. Less is better.
    change            how much higher the perplexity is than the reference's
    KL divergence     how far the next-token distributions are from the
                      reference's, in nats; 0 = the same. It sees every change;
                      in the perplexity, gains and losses cancel.
    top-1 agreement   how often both find the same token the likeliest
    error by layer    how far the hidden states are from the reference's

    The figure after ± is one standard error, with windows as independent samples.

    --fim hides lines of the text one by one, and MODEL fills each gap greedily, from the text before and after it. It counts
    the lines that are exactly right, for both orders of the prompt (PSM: prefix, suffix, middle; SPM: suffix, prefix, middle).
    The text around a line is cut to whole lines that fit into --context.

    --plot needs pip install "gptbigcode-cpu[bench]".

    \b
    Examples:
      gptbigcode-cpu evaluate demo --text src/*.py
      gptbigcode-cpu evaluate ./starcoderbase-1b --dtype int4 --text held_out.jsonl \\
          --reference ./starcoderbase-1b --plot int4.png
      gptbigcode-cpu evaluate starcoder-1b-int4 --kv-dtype int8 --text held_out.jsonl \\
          --reference starcoder-1b-int4 --reference-kv-dtype float32
      gptbigcode-cpu evaluate starcoder-1b-int4 --text held_out.jsonl --fim --context 2048
    """
    if reference is None and (reference_dtype or reference_kv_dtype):
        raise click.UsageError("--reference-dtype and --reference-kv-dtype need --reference MODEL.")
    if not fim and (fim_samples, fim_seed, fim_hide) != (None, None, None):
        raise click.UsageError("--fim-samples, --fim-seed and --fim-hide need --fim.")
    from gptbigcode_cpu.common.corpus import read_texts
    from gptbigcode_cpu.common.progress import progress_bar
    from gptbigcode_cpu.measure import evaluation
    from gptbigcode_cpu.measure import hidden_lines as match

    if plot:
        from gptbigcode_cpu.measure import plots

        plots.require_matplotlib()
    files = [*text, *more_text]
    texts = read_texts(files)
    hide = fim_hide or "line"
    seed = _FIM_SEED if fim_seed is None else fim_seed
    gaps = match.choose_gaps(texts, fim_samples or _FIM_SAMPLES, seed, hide) if fim else []

    subject = _Subject.load(model, dtype, kv_dtype, threads, fim)
    other = None
    if reference:
        other = _Subject.load_reference(reference, reference_dtype or "auto", reference_kv_dtype or "auto", threads)
    with progress_bar() as progress:
        result = evaluation.evaluate(
            subject.model,
            subject.tokenizer,
            texts,
            reference=other.model if other else None,
            reference_tokenizer=other.tokenizer if other else None,
            context=context,
            stride=stride,
            max_tokens=max_tokens,
            origin=", ".join(map(str, files)),
            progress=progress,
        )
    filled: tuple[ExactMatch, ...] = ()
    if fim:
        with progress_bar() as progress:
            filled = match.exact_match(subject.model, subject.tokenizer, gaps, context=result.context, progress=progress)
    if plot:
        from gptbigcode_cpu.measure import evaluation_plots

        evaluation_plots.draw(result, f"{subject} against {other}" if other else str(subject), plot)
    found: dict[str, Any] = {
        "model": model,
        "dtype": subject.model.dtype,
        "kv_dtype": subject.model.kv_dtype,
        "reference": reference,
        "reference_dtype": other.model.dtype if other else None,
        "reference_kv_dtype": other.model.kv_dtype if other else None,
        "isa": subject.model.core.isa,
        "threads": subject.model.num_threads,
        "text": [str(file) for file in files],
        **result.to_dict(),
        "fim": {"hide": hide, "seed": seed, **{each.order: each.to_dict() for each in filled}} if fim else None,
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    for line in _lines(found, subject, other, filled):
        click.echo(line)


def _lines(found: dict[str, Any], subject: _Subject, other: _Subject | None, filled: tuple[ExactMatch, ...]) -> Iterator[str]:
    rows: list[tuple[str, str]] = [("model", str(subject))]
    if other:
        rows.append(("reference", str(other)))
    least, most = found["tokens_before"]
    windows = f"{found['windows']} window{'s' if found['windows'] > 1 else ''}"
    rows += [
        ("kernels, threads", f"{found['isa']}, {found['threads']}"),
        ("scored", f"{found['tokens']} tokens, each with {least} to {most} before it"),
        ("", f"(context {found['context']}, stride {found['stride']}, {windows})"),
        ("perplexity", _with_error(found["perplexity"], found["perplexity_stderr"], ".4f")),
    ]
    if other:
        rows += [
            ("  of the reference", _with_error(found["reference_perplexity"], found["reference_perplexity_stderr"], ".4f")),
            ("  change", _with_error(found["perplexity_change"], found["perplexity_change_stderr"], "+.2f", " %")),
            ("KL divergence, mean", _with_error(found["kl_mean"], found["kl_mean_stderr"], ".3g", " nats")),
            ("  median", f"{found['kl_median']:.3g} nats"),
            ("  99th percentile", f"{found['kl_p99']:.3g} nats"),
            ("top-1 agreement", f"{found['top1_agreement']:.2%}".replace("%", " %")),
        ]
        for number, layer in enumerate(found["layers"] or ()):
            error = f"{100 * layer['relative_error']:.3g} %"
            rows.append(("error by layer" if number == 0 else "", f"{error:>9}  after {layer['after']}"))
    for number, each in enumerate(filled):
        low, high = each.interval
        rows.append(
            (
                f"hidden {found['fim']['hide']}s filled" if number == 0 else "",
                f"{each.order.upper()} {100 * each.rate:5.1f} %  ({each.matches} of {each.samples}; "
                f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)",
            )
        )
    for label, value in rows:
        yield f"{label:21}{value}"


def _with_error(value: float, stderr: float | None, form: str, unit: str = "") -> str:
    scale = 100 if unit == " %" else 1
    return f"{scale * value:{form}}" + ("" if stderr is None else f" ± {scale * stderr:{form.lstrip('+')}}") + unit

"""``gptbigcode-cpu convert``: quantise a checkpoint into a directory that loads in milliseconds."""

from __future__ import annotations

import shlex
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gptbigcode_cpu.cli.model_name import ModelName
from gptbigcode_cpu.cli.options import debug_option, hub_options, threads_option
from gptbigcode_cpu.common.dtypes import DTYPES
from gptbigcode_cpu.common.sizes import human_bytes, parse_bytes

if TYPE_CHECKING:
    from gptbigcode_cpu.convert import Calibrate


def _patterns(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.rpartition("=") for value in values]
    for pattern, _, dtype in pairs:
        if not pattern or dtype not in DTYPES:
            raise click.BadParameter(f"{pattern + '=' + dtype!r} is not PATTERN=DTYPE with a DTYPE of {', '.join(DTYPES)}.")
    return {pattern: dtype for pattern, _, dtype in pairs}


def _sample_text(files: tuple[str, ...], more: tuple[str, ...]) -> Calibrate | None:
    if not files:
        if more:
            raise click.UsageError(f"Got unexpected extra arguments ({' '.join(more)})")
        return None
    if "builtin" in files:
        if len(files) + len(more) > 1:
            raise click.UsageError("--calibrate takes 'builtin' or FILES.")
        return "builtin"
    for name in (*files, *more):
        if not Path(name).is_file():
            raise click.BadParameter(f"{name!r} is no file; name files with text, or 'builtin'.", param_hint="--calibrate")
    return [*files, *more]


def _size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


@click.command(options_metavar="", short_help="Quantise a checkpoint and keep the result.")
@click.argument("source", metavar="SRC", type=ModelName())
@click.argument("out", type=click.Path(file_okay=False))
@click.argument("more_text", nargs=-1, metavar="[OPTIONS]")
@click.option("--dtype", type=click.Choice(DTYPES), help="How the weights are stored.  [default: int8]")
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN=DTYPE",
    callback=_patterns,
    help="Store tensors whose names match PATTERN in another dtype, such as '*.mlp.c_proj.weight=int8'; may be "
    "given several times.",
)
@click.option(
    "--target-size",
    metavar="SIZE",
    callback=_size,
    help="Choose int4, int6 or int8 for each part of the model, so that the weights file has at most this size (620MB, 1.2GB) "
    "and as little as possible is lost. This is measured on sample text.",
)
@click.option(
    "--target-kld",
    type=click.FloatRange(min=0, min_open=True),
    metavar="NATS",
    help="Choose int4, int6 or int8 for each part of the model, so that the file is as small as possible and the KL divergence "
    "from int8 is at most NATS. This is measured on sample text.",
)
@click.option(
    "--calibrate",
    multiple=True,
    metavar="FILE...|builtin",
    help="Choose the codes of int4 and int6 so that the layers' outputs change least on this text (plain, or .jsonl with a "
    "text per line); builtin = code that comes with this package.",
)
@click.option(
    "--calibration-tokens",
    type=click.IntRange(min=1),
    default=8192,
    show_default=True,
    help="How many tokens of the text are used.",
)
@click.option(
    "--adapter",
    multiple=True,
    metavar="ADAPTER",
    help="Merge a LoRA adapter of PEFT into the weights: a directory or Hub id; may be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Check SRC (from the Hub: download it) and print the bytes needed; write no OUT.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists; it stays intact until the new one is complete.")
@threads_option
@hub_options
@debug_option
def convert(
    source: str,
    out: str,
    dtype: str | None,
    keep: dict[str, str],
    more_text: tuple[str, ...],
    calibrate: tuple[str, ...],
    calibration_tokens: int,
    adapter: tuple[str, ...],
    target_size: int | None,
    target_kld: float | None,
    dry_run: bool,
    overwrite: bool,
    threads: int | None,
    revision: str | None,
    token: str | None,
    cache_dir: str | None,
    offline: bool,
) -> None:
    """Quantise the checkpoint SRC into the directory OUT.

    SRC is a GPTBigCode or GPT-2 checkpoint: a directory or a Hub id with safetensors or pytorch_model.bin, which may be
    quantised with GPTQ or AWQ (they are dequantised first), or a GGUF file of the starcoder or gpt2 architecture, whose
    tokenizer is converted too. --adapter merges LoRA adapters into it.

    \b
    int8      8.1 bits per weight; perplexity of an 8M model +0.0 %
    int6      6.3 bits per weight; +0.5 %
    int4      4.1 bits per weight, the fastest to generate with; +1.4 %
    bfloat16  as most checkpoints are stored
    float32   for comparisons

    --calibrate chooses the codes of int4 and int6 such that the layers' outputs change least on a sample text (GPTQ). It
    removes about 40 % of what int4 loses, and takes some minutes. If it is stopped, the same command goes on where it was.
    Until it is complete, the finished layers are in .OUT.calibration beside OUT.

    \b
    Examples:
      gptbigcode-cpu convert bigcode/starcoderbase-1b starcoder-1b-int4 --dtype int4
      gptbigcode-cpu convert bigcode/starcoderbase-1b starcoder-1b-int4 --dtype int4 --calibrate src/*.py
      gptbigcode-cpu convert bigcode/starcoderbase-1b starcoder-1b-650mb --target-size 650MB
      gptbigcode-cpu convert ./my-finetune ./my-finetune-int8
      gptbigcode-cpu convert starcoder.Q8_0.gguf starcoder-int8
      gptbigcode-cpu convert bigcode/starcoderbase-1b my-int8 --adapter ./my-lora
      gptbigcode-cpu convert ./my-finetune out --dtype int4 --dry-run
    """
    from gptbigcode_cpu.common.file_names import SAFETENSORS, TOKENIZER
    from gptbigcode_cpu.common.progress import progress_bar
    from gptbigcode_cpu.convert import convert as convert_checkpoint

    run = partial(
        convert_checkpoint,
        source,
        out,
        dtype=dtype,
        keep=keep,
        calibrate=_sample_text(calibrate, more_text),
        calibration_tokens=calibration_tokens,
        adapter=adapter,
        target_size=target_size,
        target_kld=target_kld,
        overwrite=overwrite,
        num_threads=threads or 0,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=offline,
    )
    plan = run(dry_run=True)
    for note in plan.notes:
        click.echo(f"note: {note}", err=True)
    aims = target_size is not None or target_kld is not None
    types = f"{plan.scheme.dtype} or finer" if aims else plan.scheme.dtype
    click.echo(
        f"{plan.n_parameters / 1e6:,.1f} million parameters as {types}: needs {human_bytes(plan.output_bytes)}"
        f" ({plan.output_bytes:,} bytes), {human_bytes(plan.available_bytes)} free at {plan.out}"
    )
    if dry_run:
        return
    if aims:
        click.echo(f"first measuring what each part of the model loses in {plan.scheme.dtype}", err=True)
    start = time.perf_counter()
    try:
        with progress_bar() as progress:
            report = run(progress=progress)
    except KeyboardInterrupt:
        if calibrate:
            click.echo("stopped; the same command goes on after the last block that was finished", err=True)
        raise
    seconds = time.perf_counter() - start
    for note in report.notes[len(plan.notes) :]:
        click.echo(f"note: {note}", err=True)
    size = (report.out / SAFETENSORS).stat().st_size
    bits = f"{8 * size / report.n_parameters:.2f} bits per weight ({report.linear_bits:.2f} in the linear layers)"
    click.echo(f"wrote {report.out}: {human_bytes(size)}, {bits}, in {seconds:.1f} s")
    if (report.out / TOKENIZER).is_file():
        click.echo(f"next: gptbigcode-cpu generate -m {shlex.quote(out)} 'def fibonacci(n):'")

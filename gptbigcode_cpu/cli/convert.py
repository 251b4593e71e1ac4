"""``gptbigcode-cpu convert``: quantise a checkpoint into a directory that loads in milliseconds."""

from __future__ import annotations

import time
from functools import partial

import click

from gptbigcode_cpu.cli.options import DTYPES, debug_option, hub_options, human_bytes, threads_option


def _patterns(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.rpartition("=") for value in values]
    for pattern, _, dtype in pairs:
        if not pattern or dtype not in DTYPES:
            raise click.BadParameter(f"{pattern + '=' + dtype!r} is not PATTERN=DTYPE with a DTYPE of {', '.join(DTYPES)}.")
    return {pattern: dtype for pattern, _, dtype in pairs}


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("out", type=click.Path(file_okay=False))
@click.option("--dtype", type=click.Choice(DTYPES), default="int8", show_default=True, help="Storage type of the weights.")
@click.option(
    "--keep",
    multiple=True,
    metavar="PATTERN=DTYPE",
    callback=_patterns,
    help="Store tensors whose name matches in another type, such as '*.mlp.c_proj.weight=int8'; may be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Check SRC (from the Hub: download it) and print the bytes needed; write no OUT.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists; it stays intact until the new one is complete.")
@threads_option
@hub_options
@debug_option
def convert(
    source: str,
    out: str,
    dtype: str,
    keep: dict[str, str],
    dry_run: bool,
    overwrite: bool,
    threads: int | None,
    revision: str | None,
    token: str | None,
    cache_dir: str | None,
    offline: bool,
) -> None:
    """Quantise the checkpoint SRC into the directory OUT.

    SRC is a directory or a Hub id with safetensors or pytorch_model.bin, which may be quantised with GPTQ or AWQ (they are
    dequantised first), or a GGUF file of the starcoder architecture, whose tokenizer is converted too.

    \b
    int8      8.1 bits per weight; perplexity of the 8M demonstration model +0.0 %
    int6      6.3 bits per weight; +0.4 %
    int4      4.1 bits per weight, the fastest to generate with; +1.4 %
    bfloat16  as most checkpoints are stored
    float32   for comparisons

    \b
    Examples:
      gptbigcode-cpu convert bigcode/starcoderbase-1b starcoder-1b-int4 --dtype int4
      gptbigcode-cpu convert ./my-finetune ./my-finetune-int8
      gptbigcode-cpu convert starcoder.Q8_0.gguf starcoder-int8
      gptbigcode-cpu convert ./my-finetune out --dtype int4 --dry-run
    """
    from gptbigcode_cpu.convert import convert as convert_checkpoint
    from gptbigcode_cpu.progress import progress_bar
    from gptbigcode_cpu.weights import WEIGHTS_NAME

    run = partial(
        convert_checkpoint,
        source,
        out,
        dtype=dtype,
        keep=keep,
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
    click.echo(
        f"{plan.n_parameters / 1e6:,.1f} million parameters as {dtype}: needs {human_bytes(plan.output_bytes)}"
        f" ({plan.output_bytes:,} bytes), {human_bytes(plan.available_bytes)} free at {plan.out}"
    )
    if dry_run:
        return
    start = time.perf_counter()
    with progress_bar() as progress:
        report = run(progress=progress)
    seconds = time.perf_counter() - start
    size = (report.out / WEIGHTS_NAME).stat().st_size
    click.echo(
        f"wrote {report.out}: {human_bytes(size)}, {8 * size / report.n_parameters:.2f} bits per weight, in {seconds:.1f} s"
    )

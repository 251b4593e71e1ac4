"""``gptbigcode-cpu generate``: complete a prompt, or fill a gap in a text."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gptbigcode_cpu.cli.model_name import ModelName
from gptbigcode_cpu.cli.options import (
    debug_option,
    json_option,
    kv_dtype_option,
    load_dtype_option,
    prefill_threads_option,
    threads_option,
)
from gptbigcode_cpu.common.regular_files import open_regular
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.hub.names import SHORT_NAMES

if TYPE_CHECKING:
    from gptbigcode_cpu import GPTBigCodeConfig, GPTBigCodeTokenizer

_DEFAULT_NEW_TOKENS = 128
_DEMO_NOTE = (
    "note: this is the demonstration model: it is tiny (8 million parameters) and knows elementary functions, "
    "not much else; --model takes a real one"
)


@dataclass
class _Run:
    """One running generation: the text so far, and the times of its tokens."""

    tokens: list[int] = field(default_factory=list)
    stopped: bool = False
    start: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    end: float = 0.0

    def timings(self, load_s: float, prompt_tokens: int) -> dict[str, float | None]:
        """Seconds and tokens per second; the first token belongs to the prompt's computation, the others to decoding."""
        prefill_s, decode_s = self.first - self.start, self.end - self.first
        steps = len(self.tokens) - 1
        return {
            "load_s": load_s,
            "time_to_first_token_s": load_s + prefill_s,
            "prefill_s": prefill_s,
            "decode_s": decode_s,
            "prefill_tokens_per_s": prompt_tokens / prefill_s,
            "decode_tokens_per_s": steps / decode_s if steps else None,
        }


def _pieces(run: _Run, tokens: Iterator[int], tokenizer: GPTBigCodeTokenizer, end_tokens: Sequence[int]) -> Iterator[str]:
    """The text of new tokens, piece by piece; an end token is the last and not part of the text."""
    from gptbigcode_cpu import IncrementalDecoder

    decoder = IncrementalDecoder(tokenizer)
    for token in tokens:
        run.end = time.perf_counter()
        run.first = run.first or run.end
        run.tokens.append(token)
        if token in end_tokens:
            run.stopped = True
            break
        yield decoder.push(token)
    yield decoder.flush()


def _inside(pieces: Iterator[str], before: str, after: str, run: _Run) -> Iterator[str]:
    """The text as far as it belongs between `before` and `after`, with their line ends."""
    from gptbigcode_cpu import fim

    gap, end = fim.MiddleFilter(before, after), fim.line_end(before, after)
    for piece in pieces:
        yield fim.with_line_end(gap.push(piece), end)
        if gap.done:
            run.stopped = True
            return
    yield fim.with_line_end(gap.flush(), end)
    run.stopped |= gap.done


def until_stop(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Pass text on up to the first stop string; what may be the beginning of one is held back.

    Yields:
        A piece of text, and whether a stop string follows it; that piece is the last.
    """
    held = ""
    keep = max(map(len, stops), default=1) - 1
    for piece in pieces:
        held += piece
        found = [position for stop in stops if (position := held.find(stop)) >= 0]
        if found:
            yield held[: min(found)], True
            return
        ready = len(held) - keep
        if ready > 0:
            yield held[:ready], False
            held = held[ready:]
    if held:
        yield held, False


def _read_prompt(words: tuple[str, ...], fill: bool) -> str:
    """The prompt: the argument, or standard input for ``-`` and where there is none."""
    if len(words) > 1:
        named = words[0] in SHORT_NAMES or _exists(words[0])  # a model, which wants -m
        text = [f"-m {shlex.quote(words[0])}", shlex.quote(" ".join(words[1:]))] if named else [shlex.quote(" ".join(words))]
        command = " ".join(["gptbigcode-cpu generate", *["--fill"] * fill, *text])
        raise click.UsageError(f"The prompt has several words; quote the prompt: {command}")
    terminal = sys.stdin is not None and sys.stdin.isatty()
    if not words and terminal:
        raise click.UsageError('Missing PROMPT: write it in quotes ("def f(x):"), pipe it, or write - to type it.')
    prompt = words[0] if words else "-"
    if words and (prompt in SHORT_NAMES or _exists(prompt)):
        flag = "<" if Path(prompt).is_file() and Path(prompt).suffix != ".gguf" else "-m"
        other = f"to complete what is in that file: {flag}" if flag == "<" else f"a model follows {flag}:"
        click.echo(f"note: {prompt} is taken as the text to complete; {other} {shlex.quote(prompt)}", err=True)
    if prompt == "-" and terminal:
        click.echo("type the prompt; Ctrl-D on a line of its own ends it", err=True)
    try:
        if prompt == "-":
            return _standard_input()
        return os.fsencode(prompt).decode()  # its bytes, whatever the locale took them for
    except UnicodeError as error:
        raise InputError("the prompt is not UTF-8 text") from error


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a long prompt is no name of a file
        return False


def _standard_input() -> str:
    if sys.stdin is None:  # closed by who started this
        return ""
    return sys.stdin.buffer.read().decode()


def _read_file(path: str) -> str:
    try:
        with open_regular(Path(path)) as file:
            return file.read().decode()
    except UnicodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error


def _sampling_options(
    temperature: float | None, top_k: int | None, top_p: float | None, min_p: float | None, seed: int | None
) -> dict[str, Any]:
    """Greedy unless a sampling flag is given; a flag that could have no effect is refused."""
    given = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
    sampling = {name: value for name, value in given.items() if value is not None}
    if temperature == 0 and sampling:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sampling)
        raise click.UsageError(f"--temperature 0 always takes the likeliest token, so {flags} would do nothing.")
    if not temperature and not sampling:
        return {"do_sample": False}
    seed = int.from_bytes(os.urandom(4)) if seed is None else seed
    return {"do_sample": True, **sampling, "temperature": temperature or 1.0, "seed": seed}


def _check_length(config: GPTBigCodeConfig, prompt_tokens: int, new_tokens: int | None) -> None:
    """Refuse a prompt that is too long for the context before the model is opened, which may take minutes the first time."""
    from gptbigcode_cpu.generation import GenerationConfig
    from gptbigcode_cpu.generation.resolving import new_token_limit

    new_token_limit(config, GenerationConfig(max_new_tokens=new_tokens or 1), prompt_tokens, prompt_tokens)


class _WithPrompt(click.Command):
    """A command whose argument may be any text, with a hint for one that looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        texts = [each for each in args if each.startswith("-") and " " in each]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if not texts:
                raise
            hint = f"A prompt that begins with - follows --: {ctx.command_path} -- {shlex.quote(texts[-1])}"
            raise click.UsageError(f"{error.format_message()} {hint}", ctx) from error


@click.command(cls=_WithPrompt, short_help="Complete a prompt, or fill a gap in a text.")
@click.argument("prompt", nargs=-1, metavar="[PROMPT]")
@click.option(
    "-m",
    "--model",
    type=ModelName(),
    default="demo",
    show_default=True,
    help="Directory (converted or not), GGUF file, Hub id, short name, or demo.",
)
@click.option("--fill", is_flag=True, help="Fill a gap: write what belongs in the place of <cursor> in PROMPT.")
@click.option("--cursor", metavar="TEXT", help="With --fill: the mark of the gap, instead of <cursor>.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "psm", "spm"]),
    help="With --fill: the order of prefix (p), suffix (s) and middle (m) in the prompt.  [default: auto, as the model's "
    "config.json says, or else psm]",
)
@click.option(
    "--extra-file",
    "extra_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="With --fill: another file of the project, as context for the model; may be given several times, the most "
    "relevant last.",
)
@click.option("--repo-name", metavar="OWNER/NAME", help="With --extra-file: the name of their repository.")
@click.option("--new-only", is_flag=True, help="Print only the new text, not the prompt around it.")
@click.option(
    "-n", "--max-new-tokens", type=click.IntRange(min=1), help=f"Tokens to write at most.  [default: {_DEFAULT_NEW_TOKENS}]"
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help="0 always takes the likeliest token; higher values draw more freely.  [default: 0, or 1 with --top-k, --top-p, "
    "--min-p or --seed]",
)
@click.option("--top-k", type=click.IntRange(min=0), help="Draw from the k likeliest tokens; 0 = all.  [default: 50]")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    help="Draw from the likeliest tokens whose probabilities add up to p.",
)
@click.option("--min-p", type=click.FloatRange(0, 1), help="Draw from tokens at least p times as likely as the likeliest.")
@click.option("--seed", type=click.IntRange(min=0, max=2**64 - 1), help="The same seed draws the same text.  [default: random]")
@click.option("--repetition-penalty", type=click.FloatRange(min=0, min_open=True), help="Above 1: repeat less.")
@click.option("--stop", "stops", multiple=True, metavar="TEXT", help="Stop before this text; may be given several times.")
@load_dtype_option
@kv_dtype_option
@threads_option
@prefill_threads_option
@click.option("--stats", is_flag=True, help="Print the speed on stderr.")
@json_option
@debug_option
def generate(
    prompt: tuple[str, ...],
    model: str,
    fill: bool,
    cursor: str | None,
    mode: str | None,
    extra_files: tuple[str, ...],
    repo_name: str | None,
    new_only: bool,
    max_new_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int | None,
    repetition_penalty: float | None,
    stops: tuple[str, ...],
    dtype: str,
    kv_dtype: str,
    threads: int | None,
    prefill_threads: int | None,
    stats: bool,
    as_json: bool,
) -> None:
    """Complete PROMPT, or standard input if PROMPT is - or missing. The text appears while it is written.

    A plain checkpoint is quantised on first use, and the result is kept. See also: gptbigcode-cpu convert, gptbigcode-cpu
    cache.

    \b
    Examples:
      gptbigcode-cpu generate "def fibonacci(n):"
      gptbigcode-cpu generate -m ./starcoder-1b-int4 --temperature 0.2 --top-p 0.95 "def quicksort("
      gptbigcode-cpu generate --fill $'def add(a, b):\\n    return <cursor>\\n'
      echo "import os" | gptbigcode-cpu generate
      gptbigcode-cpu generate --fill - < draft.py > complete.py
      gptbigcode-cpu generate --fill --extra-file utils.py - < draft.py
      gptbigcode-cpu generate --json --stop $'\\n\\n' "import numpy as"
    """
    options = _sampling_options(temperature, top_k, top_p, min_p, seed)
    if not fill and (mode or extra_files or cursor is not None):
        raise click.UsageError("--cursor, --mode and --extra-file need --fill.")
    if repo_name and not extra_files:
        raise click.UsageError("--repo-name needs --extra-file.")
    if "" in stops:
        raise click.UsageError("--stop needs a text that is not empty.")
    if repetition_penalty is not None:
        options["repetition_penalty"] = repetition_penalty
    text = _read_prompt(prompt, fill)
    if not text:
        raise InputError("the prompt is empty; give a text to complete")
    files = [(path, _read_file(path)) for path in extra_files]

    from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, fim
    from gptbigcode_cpu.config import read_config
    from gptbigcode_cpu.hub.paths import DEMO, resolve

    before, after = fim.split_at_cursor(text, fim.CURSOR if cursor is None else cursor) if fill else (text, "")
    if model == DEMO:
        click.echo(_DEMO_NOTE, err=True)
    load_start = time.perf_counter()
    directory = resolve(model, before_weights=read_config)
    tokenizer = AutoTokenizer.from_pretrained(directory)  # first, because it is what a checkpoint may lack
    if fill:
        fim.FimTokens.find(tokenizer)
    else:
        _check_length(read_config(directory), len(tokenizer.encode(before)), max_new_tokens)
    loaded = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, num_threads=threads, prefill_threads=prefill_threads, kv_dtype=kv_dtype
    )
    load_s = time.perf_counter() - load_start

    if fill:
        options["max_new_tokens"] = max_new_tokens or _DEFAULT_NEW_TOKENS
        chosen: Any = mode or "auto"
        request = fim.plan_fill(
            loaded, tokenizer, before, after, extra_files=files, repo_name=repo_name, mode=chosen, options=options
        )
        prompt_ids, options, mode = request.prompt_ids, request.options, request.mode
    else:
        prompt_ids = tokenizer.encode(before)
        ends = (*loaded.resolve_options(None, options).eos_token_ids, *tokenizer.end_of_answer_ids())
        options["eos_token_id"] = [*dict.fromkeys(ends)]
        room = loaded.config.n_positions + 1 - len(prompt_ids)
        options["max_new_tokens"] = max_new_tokens or max(1, min(_DEFAULT_NEW_TOKENS, room))

    tokens = loaded.stream(prompt_ids, **options)  # checks everything; computes when it is iterated

    run = _Run()
    echo = not (new_only or as_json)
    written = []
    if echo:
        click.echo(before, nl=False)
    pieces = _pieces(run, tokens, tokenizer, options["eos_token_id"])
    if fill:
        pieces = _inside(pieces, before, after, run)
    for piece, stop_follows in until_stop(pieces, stops):
        run.stopped |= stop_follows
        written.append(piece)
        if not as_json:
            click.echo(piece, nl=False)
    new_text = "".join(written)
    timings = run.timings(load_s, len(prompt_ids))
    if as_json:
        answer = {
            "text": new_text,
            "tokens": run.tokens,
            "finish_reason": "stop" if run.stopped else "length",
            "prompt_tokens": len(prompt_ids),
            "new_tokens": len(run.tokens),
            "seed": options.get("seed"),
            **({"mode": mode} if fill else {}),
            "model": model,
            "dtype": loaded.dtype,
            "kv_dtype": loaded.kv_dtype,
            "isa": loaded.core.isa,
            "threads": loaded.num_threads,
            "prefill_threads": loaded.prefill_threads,
            "timings": timings,
        }
        click.echo(json.dumps(answer))
    else:
        shown = before + new_text + after if echo else new_text
        click.echo(after if echo else "", nl=not shown.endswith(("\n", "\r")))
    if stats:
        rate = timings["decode_tokens_per_s"]
        click.echo(
            f"{len(prompt_ids)} prompt tokens at {timings['prefill_tokens_per_s']:.1f} tokens/s, {len(run.tokens)} new tokens"
            + (f" at {rate:.1f} tokens/s" if rate else "")
            + f"; loaded in {load_s:.3f} s; {loaded.dtype}, {loaded.core.isa}, {loaded.num_threads} threads"
            + (f"; seed {options['seed']}" if "seed" in options else ""),
            err=True,
        )

"""Time the kernels, one by one, inside the core; two builds side by side.

    python bench/kernels.py                                   # every case of the installed build, in about a minute
    python bench/kernels.py --list                            # what there is
    python bench/kernels.py --filter "linear int4 memory"     # cases that have all of these words
    python bench/kernels.py --old OLD/_core.cpython-312-x86_64-linux-gnu.so --dtypes int4,int8 --rows 1,4

"memory": calls walk through copies of the weights, or of keys and values, that are larger than the caches together. "hot": one
that fits the second-level cache, again and again.

GB/s counts weights, or keys and values, or the input where there are neither; GMAC/s counts multiply-adds; cost is the time
relative to the fewest rows. With --old, each build runs in a process of its own. They take turns (old, new, old, new, ...), so
that a change of the machine's speed hits both. With --old-isa, two kernel sets can be compared, of one build or of two. Times
are medians over the rounds; new/old is the median of the ratios within a round, and their spread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import kernel_cases
from kernel_cases import DTYPES, KV_DTYPES, Case, Sizes, all_cases, filtered, request_of
from peers import Table, as_markdown, as_text, last_line, processor

from gptbigcode_cpu import _core

Measured = dict[str, dict[Case, list[float]]]  # "new" and "old" -> the seconds of a call, one per round


class BenchError(Exception):
    """A build cannot be measured; the text is one line."""


class Worker:
    """A process that times the kernels of one build."""

    def __init__(self, label: str, path: Path) -> None:
        self.label = label
        # In a process group of its own, which a Ctrl-C in the terminal does not reach.
        self.process = subprocess.Popen(
            [sys.executable, kernel_cases.__file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        with contextlib.suppress(BrokenPipeError), self.process:
            pass  # closes its pipes and waits

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request (see kernel_cases.work).

        Raises:
            BenchError: It cannot do this, or it has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            _, complaint = self.process.communicate()
            status = self.process.returncode
            ended = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise BenchError(f"the process of the {self.label} build ended: {last_line(complaint, ended)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(f"the {self.label} build: {answer['error']}")
        return answer


def measure(workers: Sequence[Worker], cases: Sequence[Case], arguments: argparse.Namespace) -> Measured:
    """Measure group after group; within one, round after round, case after case, the builds in turn."""
    measured: Measured = {worker.label: {case: [] for case in cases} for worker in workers}
    done = 0
    for name, members in groupby(cases, lambda case: case.group):
        group = [*members]
        progress(f"preparing {name}")
        for worker in workers:
            worker.ask(request_of(group, arguments.isas[worker.label], arguments.threads))
        for number in range(arguments.rounds):
            for index, case in enumerate(group):
                progress(f"[{done + index + 1}/{len(cases)}] round {number + 1} of {arguments.rounds}: {case.name}")
                for worker in workers:
                    answer = worker.ask({"measure": index, "seconds": arguments.seconds})
                    measured[worker.label][case].append(answer["seconds"])
        done += len(group)
    progress("")
    return measured


def progress(text: str) -> None:
    """Say on a terminal what is going on, in place of what was said before."""
    if sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        print(f"\r\x1b[K{text[: width - 1]}", end="", file=sys.stderr, flush=True)


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Ratios within rounds."""
    return [value / other for value, other in zip(values, others, strict=True)]


def results(measured: Measured, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """For each case its fields, what it must do, the seconds of every round, and what follows from them."""
    found = []
    for _, members in groupby(cases, lambda case: case.group):
        group = [*members]
        for case in group:
            new = measured["new"][case]
            seconds, nbytes = statistics.median(new), case.nbytes(_core)
            found.append(
                {
                    **asdict(case),
                    "name": case.name,
                    "group": case.group,
                    "macs": case.macs,
                    "nbytes": nbytes,
                    "seconds": {label: values[case] for label, values in measured.items()},
                    "gb_per_s": nbytes / seconds / 1e9,
                    "gmac_per_s": case.macs / seconds / 1e9 if case.macs else None,
                    "cost": statistics.median(ratios(new, measured["new"][group[0]])) if len(group) > 1 else None,
                    "new_to_old": ratios(new, measured["old"][case]) if "old" in measured else None,
                }
            )
    return found


def in_units(seconds: float) -> str:
    """Three digits of a time."""
    unit, name = next((unit, name) for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (0.0, "ns")) if seconds >= unit)
    return f"{seconds / (unit or 1e-9):.3g} {name}"


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.{1 if value >= 1 else 2}f}"


def table_of(found: Sequence[dict[str, Any]]) -> Table:
    """A line for each result."""
    old = found[0]["new_to_old"] is not None
    lines = [["case", "rows", "time", "GB/s", "GMAC/s", "cost", *(["old time", "new/old"] if old else [])]]
    for result in found:
        line = [result["group"], str(result["rows"]), in_units(statistics.median(result["seconds"]["new"]))]
        line += [_digits(result["gb_per_s"]), _digits(result["gmac_per_s"])]
        line.append(f"{result['cost']:.2f}" if result["cost"] else "")
        if old:
            spread = result["new_to_old"]
            line.append(in_units(statistics.median(result["seconds"]["old"])))
            line.append(f"{statistics.median(spread):.2f} ({min(spread):.2f}-{max(spread):.2f})")
        lines.append(line)
    return lines


# ---------------------------------------------------------------- the command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the list of all options."""
        self.exit(2, f"error: {message} (--help explains the options)\n")


def _list_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(text.split(",")))
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return found

    return parse


def _number(least: float, most: float, kind: type[int] | type[float] = int) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = kind(-1)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
        return value

    return parse


def _rows(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(_number(1, 4096), text.split(","))))


def _shape(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 8192x2048: output by input features")
    return int(match[1]), int(match[2])


def _build(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise argparse.ArgumentTypeError(
            f"{text} {what}; name a build's file, such as .../gptbigcode_cpu/{Path(_core.__file__).name}"
        )
    return path.resolve()


def _arguments() -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("what is measured").add_argument
    add("--old", type=_build, metavar="FILE", help="another build's _core*.so, to compare with")
    add("--new", type=_build, metavar="FILE", default=_core.__file__, help="the build that is measured [the installed one]")
    add("--isa", default="", help=f"kernel set: {', '.join(_core.supported_kernel_names())} [the first]")
    add("--old-isa", default="", metavar="ISA", help="kernel set of the old build [--isa, if given, or else its first]")
    add("--threads", type=_number(1, 1024), default=1, help="for linear layers and attention; other kernels run on one [1]")
    add("--filter", default="", metavar="WORDS", help="only cases whose name, as --list shows it, has all of the words")
    add("--dtypes", type=_list_of(DTYPES), default=DTYPES, metavar="A,B", help=f"of weights [{','.join(DTYPES)}]")
    add(
        "--kv-dtypes",
        type=_list_of(KV_DTYPES),
        default=KV_DTYPES,
        metavar="A,B",
        help=f"of keys, values [{','.join(KV_DTYPES)}]",
    )
    add(
        "--rows",
        type=_rows,
        default=(1, 2, 4, 8, 16, 64, 512),
        metavar="N,N",
        help="[1,2,4,8,16,64,512]; the head takes 8 at most",
    )
    add("--list", action="store_true", help="print the names of the cases, and measure nothing")
    add = parser.add_argument_group("sizes").add_argument
    add("--shape", type=_shape, default=(2048, 2048), metavar="NxK", help="output by input features of a layer [2048x2048]")
    add("--vocab", type=_number(1, 999_999), default=49152, help="output features of the head [49152]")
    add("--heads", type=_number(1, 1024), default=16, help="query heads, which share one KV head [16]")
    add("--depth", type=_number(0, 65536), default=4096, help="cached tokens under attention [4096]")
    add("--tokens", type=_number(2, 4096), default=512, help="of a prefill [512]")
    add("--memory", type=_number(1, 65536), default=512, metavar="MB", help="what is walked through, per build [512]")
    add = parser.add_argument_group("how often, and how it is shown").add_argument
    add("--rounds", type=_number(1, 1000), default=5, help="[5]")
    add("--seconds", type=_number(0, 60, float), default=0.05, help="of one measurement; at least one call is made [0.05]")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object with the seconds of every round")
    output.add_argument("--markdown", action="store_true", help="print the table for a document")
    arguments = parser.parse_args()
    n, k = arguments.shape
    given = {field.name: getattr(arguments, field.name) for field in fields(Sizes) if hasattr(arguments, field.name)}
    arguments.sizes = Sizes(**given, n=n, k=k, nbytes=arguments.memory << 20)
    try:
        cases = all_cases(_core, arguments.sizes, arguments.dtypes, arguments.kv_dtypes, arguments.rows)
        arguments.cases = filtered(cases, arguments.filter.split())
        arguments.isas = {"old": arguments.old_isa or arguments.isa, "new": _core.select_kernel(arguments.isa)}
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main() -> None:
    """Measure in turns, print."""
    arguments = _arguments()
    if arguments.list:
        print("\n".join(case.name for case in arguments.cases))
        return
    builds = {"old": arguments.old, "new": arguments.new}
    with contextlib.ExitStack() as stack:
        workers = []
        for label, path in builds.items():
            if path:
                workers.append(Worker(label, path))
                stack.callback(workers[-1].close)
        for worker in workers:
            arguments.isas[worker.label] = worker.ask({"isa": arguments.isas[worker.label]})["isa"]
        found = results(measure(workers, arguments.cases, arguments), arguments.cases)
    setting = {"processor": processor(), "isa": arguments.isas["new"], "threads": arguments.threads, "rounds": arguments.rounds}
    setting |= {label: str(path) for label, path in builds.items() if path}
    if arguments.old:
        setting["old isa"] = arguments.isas["old"]
    if arguments.json:
        print(json.dumps({**setting, "cases": found}))
        return
    print(", ".join(f"{key} {value}" for key, value in setting.items()), end="\n\n")
    print((as_markdown if arguments.markdown else as_text)(table_of(found)))


if __name__ == "__main__":
    try:
        main()
    except BenchError as problem:
        progress("")
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        progress("")
        sys.exit(130)

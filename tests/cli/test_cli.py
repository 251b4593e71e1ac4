"""The command line as a user meets it: real processes, their output and exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu import errors
from gptbigcode_cpu.cli import exit_codes, run
from gptbigcode_cpu.cli.generate import until_stop
from gptbigcode_cpu.common.sizes import human_bytes
from gptbigcode_cpu.hub.names import SHORT_NAMES

PROGRAM = [sys.executable, "-m", "gptbigcode_cpu"]
PROMPT = "def fibonacci(n):"


def cli(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    command = [*PROGRAM, *map(str, arguments)]
    process = subprocess.run(
        command, input=stdin, capture_output=True, timeout=240, env={**os.environ, **environment}, check=False
    )
    return subprocess.CompletedProcess(command, process.returncode, process.stdout.decode(), process.stderr.decode())


@pytest.fixture(scope="module")
def model(converted: Callable[..., Path]) -> Path:
    return converted("int8")


def test_help_teaches_every_command() -> None:
    top = cli("--help")
    assert top.returncode == 0
    for command in ("convert", "generate", "info", "cache", "bench", "evaluate", "completion"):
        assert f"\n  {command} " in top.stdout
        shown = cli(command, "--help")
        assert shown.returncode == 0
        assert f"\n    gptbigcode-cpu {command} " in shown.stdout, "no example"


def test_nothing_to_do_is_answered_with_help() -> None:
    shown = cli()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == cli("--help").stdout
    for name in SHORT_NAMES:
        assert re.search(rf"\b{name}[,.\n]", shown.stdout)


def test_version() -> None:
    shown = cli("--version")
    assert shown.returncode == 0
    assert shown.stdout.startswith("gptbigcode-cpu ")


def test_help_does_not_load_numpy() -> None:
    code = (
        "import sys; from gptbigcode_cpu.cli import run; code = run(['generate', '--help']);"
        "sys.exit(code or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_generate_prints_prompt_and_new_text(model: Path) -> None:
    shown = cli("generate", "-m", model, PROMPT, "-n", "16")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(PROMPT)
    assert len(shown.stdout) > len(PROMPT) + 10
    assert shown.stdout.endswith("\n")
    assert shown.stderr == ""
    assert "\x1b" not in shown.stdout

    only_new = cli("generate", "-m", model, PROMPT, "-n", "16", "--new-only")
    assert (PROMPT + only_new.stdout).rstrip("\n") == shown.stdout.rstrip("\n")

    for dash in (["-"], []):
        from_stdin = cli("generate", "-m", model, *dash, "-n", "16", stdin=PROMPT.encode())
        assert from_stdin.stdout == shown.stdout


def test_a_prompt_is_typed_on_a_terminal_that_says_how_to_end_it(model: Path) -> None:
    parent, child = pty.openpty()
    command = [*PROGRAM, "generate", "-m", str(model), "-n", "1", "-"]
    with subprocess.Popen(command, stdin=child, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.close(child)
        assert process.stdout and process.stderr
        assert "Ctrl-D" in process.stderr.readline().decode()
        os.write(parent, f"{PROMPT}\n\x04".encode())
        assert process.stdout.read().decode().startswith(PROMPT)
        assert process.wait(60) == 0
        os.close(parent)
    parent, child = pty.openpty()
    shown = subprocess.run([*PROGRAM, "generate"], stdin=child, capture_output=True, text=True, check=False)
    os.close(child)
    os.close(parent)
    assert (shown.returncode, shown.stderr.count("\n")) == (2, 1)
    assert "PROMPT" in shown.stderr


def test_generate_json(model: Path) -> None:
    shown = cli("generate", "-m", model, PROMPT, "-n", "16", "--json", "--threads", "1", "--prefill-threads", "2")
    answer = json.loads(shown.stdout)
    assert answer["new_tokens"] == len(answer["tokens"]) == 16
    assert answer["finish_reason"] == "length"
    assert answer["dtype"] == "int8"
    assert (answer["threads"], answer["prefill_threads"]) == (1, 2)
    assert answer["timings"]["decode_tokens_per_s"] > 0
    assert answer["timings"]["time_to_first_token_s"] > answer["timings"]["load_s"] > 0
    text = cli("generate", "-m", model, PROMPT, "-n", "16", "--new-only").stdout
    assert text.rstrip("\n") == answer["text"].rstrip("\n")

    single = json.loads(cli("generate", "-m", model, PROMPT, "-n", "1", "--json").stdout)
    assert single["timings"]["decode_tokens_per_s"] is None


def test_generate_stats_are_on_stderr(model: Path) -> None:
    shown = cli("generate", "-m", model, PROMPT, "-n", "8", "--stats")
    assert "tokens/s" in shown.stderr
    assert "tokens/s" not in shown.stdout


def test_sampling_flags_choose_the_text(model: Path) -> None:
    def text(*flags: str) -> str:
        shown = cli("generate", "-m", model, PROMPT, "-n", "24", *flags)
        assert shown.returncode == 0, shown.stderr
        return shown.stdout

    greedy = text()
    assert text("--temperature", "0") == greedy
    assert text("--top-k", "1") == greedy
    seeded = text("--seed", "1")
    assert seeded != greedy
    assert text("--temperature", "1", "--seed", "1") == seeded
    assert text("--seed", "2") != seeded
    drawn = json.loads(cli("generate", "-m", model, PROMPT, "-n", "24", "--top-p", "0.9", "--json").stdout)
    repeated = cli("generate", "-m", model, PROMPT, "-n", "24", "--top-p", "0.9", "--json", "--seed", str(drawn["seed"]))
    assert json.loads(repeated.stdout)["tokens"] == drawn["tokens"]


def test_stop_text_ends_the_output(model: Path) -> None:
    whole = json.loads(cli("generate", "-m", model, PROMPT, "-n", "24", "--json").stdout)
    stop = whole["text"][10:14]
    cut = json.loads(cli("generate", "-m", model, PROMPT, "-n", "24", "--json", "--stop", stop).stdout)
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]
    assert cut["finish_reason"] == "stop"
    assert cut["new_tokens"] < whole["new_tokens"]


@pytest.mark.parametrize("size", range(1, 8))
def test_until_stop_finds_what_is_spread_over_pieces(size: int) -> None:
    text = "one two three"
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert "".join(piece for piece, _ in until_stop(iter(pieces), ["thr", "wo t"])) == "one t"
    assert [*until_stop(iter(pieces), ["thr", "wo t"])][-1][1]
    assert "".join(piece for piece, _ in until_stop(iter(pieces), ["threefold"])) == text
    assert not any(stopped for _, stopped in until_stop(iter(pieces), ["threefold"]))
    assert [piece for piece, _ in until_stop(iter(pieces), [])] == pieces, "text without stop strings must not be held back"


def test_fill_writes_between_prefix_and_suffix(model: Path) -> None:
    source = "def add(a, b):\n    return <cursor>\n\nprint(add(1, 2))\n"
    before, after = source.split("<cursor>")
    shown = cli("generate", "-m", model, "--fill", source, "-n", "12")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(before)
    assert shown.stdout.endswith(after)
    middle = cli("generate", "-m", model, "--fill", "-", "-n", "12", "--json", stdin=source.encode())
    assert shown.stdout == before + json.loads(middle.stdout)["text"] + after


def test_fill_orders_and_other_files(model: Path, tmp_path: Path) -> None:
    from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "shapes.py").write_text("def area(width, height):\n    return width * height\n")
    extra = str(tmp_path / "shapes.py")
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    files = [(extra, (tmp_path / "shapes.py").read_text())]
    lengths = set()
    for mode in ("psm", "spm"):
        for given, flags in (([], []), (files, ["--extra-file", extra])):
            shown = cli("generate", "-m", model, "--fill", "x = <cursor>\n", "-n", "8", "--json", "--mode", mode, *flags)
            answer = json.loads(shown.stdout)
            expected = loaded.fill("x = ", "\n", tokenizer=tokenizer, mode=mode, extra_files=given, max_new_tokens=8)
            assert (answer["text"], answer["mode"]) == (expected, mode)
            lengths.add(answer["prompt_tokens"])
    assert len(lengths) == 2


def test_fill_of_a_file_longer_than_the_context(model: Path) -> None:
    source = "".join(f"value_{i} = {i}\n" for i in range(3000))
    shown = cli("generate", "-m", model, "--fill", "-", "-n", "4", "--json", stdin=f"{source}x = <cursor>\n{source}".encode())
    assert shown.returncode == 0, shown.stderr
    assert 1000 < json.loads(shown.stdout)["prompt_tokens"] <= 2044


def test_text_is_streamed_and_ctrl_c_ends_it(model: Path) -> None:
    prompt = "class Stack:"  # after which the model writes more than twice what the pipe holds
    process = subprocess.Popen(
        [*PROGRAM, "generate", "-m", str(model), "-n", "1900", prompt], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)  # a process that nobody reads from waits, however fast it is
    seen = os.read(process.stdout.fileno(), 64)
    while len(seen) < len(prompt) + 40:
        seen += os.read(process.stdout.fileno(), 64)
    assert process.poll() is None, "the first text came only at the end"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.decode().strip() == "", "Ctrl-C is no error"


@pytest.mark.parametrize("arguments", [["generate", "-n", "400"], ["info"]], ids=["generate", "info"])
def test_reader_that_goes_away_is_no_error(model: Path, arguments: list[str]) -> None:
    target = ["-m", str(model), "a\n" * 20] if arguments[0] == "generate" else [str(model)]
    process = subprocess.Popen([*PROGRAM, *arguments, *target], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = subprocess.run(["head", "-n", "1"], stdin=process.stdout, capture_output=True, timeout=60, check=True)
    assert process.stdout is not None
    process.stdout.close()
    _, stderr = process.communicate(timeout=60)
    assert head.stdout.count(b"\n") == 1
    assert process.returncode in (0, exit_codes.BROKEN_PIPE)
    assert stderr == b""
    if arguments[0] == "generate":
        assert process.returncode == exit_codes.BROKEN_PIPE


def test_exit_codes_tell_the_classes_apart() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GPTBigCodeError)]
    kinds.remove(errors.GPTBigCodeError)
    codes = {kind: exit_codes.exit_code(kind("x")) for kind in kinds}
    assert len({*codes.values()}) == len(kinds)
    assert not {*codes.values()} & {0, 1, 2, 130, 141}
    assert exit_codes.exit_code(PermissionError(13, "Permission denied", "file")) == 13
    assert exit_codes.exit_code(RuntimeError("bug")) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["generate"], 9, "the prompt is empty"),
        (["generate", "a", "small", "function"], 2, "quote the prompt: gptbigcode-cpu generate 'a small function'"),
        (["generate", "TESTS", "def f(x):"], 2, "generate -m "),
        (["info", "CONFIG"], 3, "did you mean "),
        (["def f(x):"], 2, "gptbigcode-cpu generate 'def f(x):'"),
        (["-m", "MODEL", "generate", "x"], 2, "-m is an option of generate, and such options follow its name"),
        (["--verison"], 2, "Did you mean '--version'?"),
        (["MODEL"], 2, "to use it as a model: gptbigcode-cpu generate -m "),
        (["starcoder"], 2, "to use it as a model: gptbigcode-cpu generate -m starcoder PROMPT"),
        (["hello"], 2, "'hello' is no command; there are generate, convert, info"),
        (["convrt"], 2, "did you mean 'convert'?"),
        (["help", "convrt"], 2, "did you mean 'convert'?"),
        (["generate", "-1 + 2"], 2, "A prompt that begins with - follows --: gptbigcode-cpu generate -- '-1 + 2'"),
        (["generate", "--fill", "<cursor> <cursor>"], 9, "choose another mark with --cursor"),
        (["genrate", "x"], 2, "generate"),
        (
            ["generate", "-m", "starcodr", "x"],
            3,
            "no such file or directory: starcodr; for the Hub write owner/name, such as bigcode/",
        ),
        (["info", "starcodr"], 3, "did you mean 'starcoder'?"),
        (["info", "TESTS"], 3, "holds no model"),
        (["generate", "x", "--bogus"], 2, "--bogus"),
        (["generate", "x", "--max-new-tokens", "0"], 2, "0"),
        (["generate", "x", "--top-p", "0"], 2, "top-p"),
        (["generate", "x", "--temperature", "0", "--top-k", "4"], 2, "--top-k would do nothing"),
        (["generate", "x", "--stop", ""], 2, "--stop"),
        (["generate", "x", "--threads", "0"], 2, "threads"),
        (["generate", "x", "--prefill-threads", "5000"], 9, "--prefill-threads must be"),
        (["generate", "x", "--mode", "psm"], 2, "--fill"),
        (["generate", "x", "--cursor", "|"], 2, "--fill"),
        (["generate", "x", "--extra-file", "pyproject.toml"], 2, "--fill"),
        (["generate", "--fill", "x<cursor>", "--repo-name", "a/b"], 2, "--extra-file"),
        (["generate", "--fill", "x<cursor>", "--extra-file", "/no/such/file"], 2, "/no/such/file"),
        (["generate", "-m", "MODEL", "--fill", "x<cursor>", "-n", "2047"], 8, "2047"),
        (["frobnicate"], 2, "frobnicate"),
        (["info", "--context", "5"], 2, "MODEL"),
        (["generate", "-m", "/no/such/model", "x"], 3, "/no/such/model"),
        (["info", "/no/such/model"], 3, "/no/such/model"),
        (["convert", "/no/such/model", "out"], 3, "/no/such/model"),
        (["convert", "MODEL", "out", "--threads", "5000"], 9, "--threads"),
        (["convert", "CHECKPOINT", "MODEL"], 9, "pass --overwrite"),
        (["convert", "CHECKPOINT", "out", "--target-size", "1MB", "--dtype", "int8"], 9, "leave out --dtype int8"),
        (["convert", "owner/none", "out", "--offline"], 3, "--offline forbids to download it"),
        (["bench", "/no/such/model"], 3, "/no/such/model"),
        (["generate", "-m", "MODEL", ""], 9, "empty"),
        (["generate", "-m", "MODEL", "--fill", "no mark"], 9, "<cursor>"),
        (["generate", "-m", "MODEL", "--dtype", "int4", "x"], 9, "int8"),
        (["generate", "-m", "MODEL", "x", "-n", "2049"], 8, "2049"),
        (["info", "MODEL", "--context", "2049"], 8, "2049"),
        (["bench", "MODEL", "--depths", "2000"], 8, "2048"),
    ],
)
def test_wrong_input_is_one_line_and_its_own_code(
    model: Path, checkpoint_dir: Path, arguments: list[str], code: int, says: str
) -> None:
    places = {
        "MODEL": str(model),
        "CHECKPOINT": str(checkpoint_dir),
        "TESTS": str(Path(__file__).parents[1]),
        "CONFIG": str(model / "config.json"),
    }
    shown = cli(*(places.get(argument, argument) for argument in arguments))
    assert shown.returncode == code, shown.stderr
    lines = [line for line in shown.stderr.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert shown.stdout == ""


def test_text_in_a_locale_that_knows_ascii_only(model: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for variables in ({}, plain):
        shown = cli("generate", "-m", model, "# añadir, 加", "-n", "1", **variables)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.startswith("# añadir, 加")


def test_prompt_that_is_not_text(model: Path) -> None:
    shown = cli("generate", "-m", model, "-", stdin=b"\xff\xfe")
    assert shown.returncode == 9
    assert "UTF-8" in shown.stderr


def test_a_missing_tokenizer_shows_before_the_conversion(checkpoint_dir: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoint_dir / name, bare)
    shown = cli("generate", "-m", bare, "x", GPTBIGCODE_CPU_CACHE=str(tmp_path / "cache"))
    assert shown.returncode == 7
    assert "tokenizer.json" in shown.stderr
    assert not (tmp_path / "cache").exists()


def test_damaged_model_and_unknown_kernels(model: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert cli("generate", "-m", damaged, "x").returncode == 6
    forced = cli("generate", "-m", model, "x", GPTBIGCODE_CPU_ISA="abacus")
    assert forced.returncode == 10
    assert "abacus" in forced.stderr
    assert cli("info", GPTBIGCODE_CPU_ISA="abacus").returncode == 10


def test_options_are_named_as_the_shell_names_them() -> None:
    for message, shown in {
        "pass dtype='int4', or overwrite=True": "pass --dtype int4, or --overwrite",
        "num_threads must be positive": "--threads must be positive",
        "local_files_only=True forbids it": "--offline forbids it",
        "pass either target_size or target_kld": "pass either --target-size or --target-kld",
        "/data/dtype/num_threads.json is no seed": "/data/dtype/num_threads.json is no seed",
    }.items():
        assert exit_codes.in_words_of_the_shell(message) == shown
    assert exit_codes.describe(errors.ConfigError("one\ntwo")) == "one two"


def test_traceback_only_with_debug() -> None:
    assert "Traceback" in cli("info", "/no/such/model", GPTBIGCODE_CPU_DEBUG="1").stderr
    assert "Traceback" not in cli("info", "/no/such/model").stderr
    assert "Traceback" in cli("info", "/no/such/model", "--debug").stderr


def test_unexpected_error_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr("gptbigcode_cpu.hub.paths.resolve", fail)
    assert run(["info", "demo"]) == exit_codes.UNEXPECTED
    assert capsys.readouterr().err == "error: RuntimeError: bug (--debug shows where)\n"


def test_convert(checkpoint_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = cli("convert", checkpoint_dir, out, "--dtype", "int4", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "needs" in plan.stdout
    assert not out.exists()

    done = cli("convert", checkpoint_dir, out, "--dtype", "int4")
    assert done.returncode == 0, done.stderr
    free = re.compile(r"[\d.]+ .?B free")  # others write to the same disk
    assert free.sub("", done.stdout).startswith(free.sub("", plan.stdout))
    assert re.search(r"5\.05 bits per weight \(4\.28 in the linear layers\)", done.stdout)
    assert done.stdout.endswith(f"next: gptbigcode-cpu generate -m {out} 'def fibonacci(n):'\n")
    assert done.stderr == "", "a progress bar belongs on a terminal only"
    assert json.loads(cli("info", out, "--json").stdout)["model"]["dtype"] == "int4"

    assert cli("convert", checkpoint_dir, out).returncode == 9
    assert cli("convert", checkpoint_dir, out, "--overwrite").returncode == 0
    assert json.loads(cli("info", out, "--json").stdout)["model"]["dtype"] == "int8"


def test_convert_shows_progress_on_a_terminal(checkpoint_dir: Path, tmp_path: Path) -> None:
    parent, child = pty.openpty()
    command = [*PROGRAM, "convert", str(checkpoint_dir), str(tmp_path / "out")]
    termios.tcsetwinsize(child, (24, 100))
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=child, env=environment)
    os.close(child)
    shown = b""
    try:
        while piece := os.read(parent, 1 << 16):
            shown += piece
    except OSError:  # how Linux says that the other end of a terminal is closed
        pass
    finally:
        os.close(parent)
    assert process.wait(60) == 0
    assert b"quantising block 8 of 8 [" in shown
    assert shown.endswith(b"\r\x1b[K"), "the line is cleared"


def test_info_about_the_machine() -> None:
    cpu = json.loads(cli("info", "--json").stdout)["cpu"]
    assert cpu["kernels"][-1] == "scalar"
    assert cpu["isa"] == cpu["supported_kernels"][0]
    assert cpu["threads"] >= 1
    forced = json.loads(cli("info", "--json", GPTBIGCODE_CPU_ISA="scalar", GPTBIGCODE_CPU_NUM_THREADS="3").stdout)["cpu"]
    assert (forced["isa"], forced["threads"]) == ("scalar", 3)
    assert cli("info", GPTBIGCODE_CPU_NUM_THREADS="none").returncode == 9
    assert "scalar" in cli("info").stdout


def test_info_about_a_model(model: Path, checkpoint_dir: Path, core_model: Callable[..., Any]) -> None:
    found = json.loads(cli("info", model, "--json", "--context", "100").stdout)["model"]
    assert found["converted"]
    assert (found["n_layer"], found["n_embd"], found["vocab_size"]) == (8, 256, 8192)
    assert found["kv_bytes"] == 128 * found["kv_bytes_per_token"], "the cache grows in blocks of 64"
    assert found["memory_bytes"] == found["bytes"] + found["kv_bytes"]
    assert found["kv_bytes_per_token"] == core_model(model).kv_bytes_per_token
    shown = cli("info", model).stdout
    assert re.search(rf"^model +{model}$", shown, re.MULTILINE)
    assert "converted: it opens at once" in shown
    assert "for weights and KV cache at 2,048 tokens of context\nthis machine" in shown

    plain = json.loads(cli("info", checkpoint_dir, "--json", "--context", "100").stdout)["model"]
    assert not plain["converted"]
    assert plain["bytes_if_converted"]["int8"] == found["bytes"]
    assert plain["memory_bytes_if_converted"]["int8"] == found["memory_bytes"]
    shown = cli("info", checkpoint_dir, "--context", "100").stdout
    assert "a plain checkpoint, not converted: it is quantised when it is first used" in shown
    assert re.search(r"^memory +int8 .* at 100 tokens of context$", shown, re.MULTILINE)
    assert f"gptbigcode-cpu generate -m {checkpoint_dir} " in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str, tmp_path: Path) -> None:
    script = cli("completion", shell).stdout
    assert "_GPTBIGCODE_CPU_COMPLETE" in script
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    installed = cli("completion", "--install", SHELL=f"/usr/bin/{shell}", **home)
    assert installed.returncode == 0, installed.stderr
    assert any(path.read_text() + "\n" == script for path in tmp_path.rglob("*gptbigcode-cpu*"))
    checker = shutil.which(shell)
    if checker:
        assert subprocess.run([checker, "-n"], input=script.encode(), check=False).returncode == 0
    assert cli("completion", SHELL="/bin/tcsh").returncode == 2


def test_completion_answers_a_tab() -> None:
    offered = cli("completion", _GPTBIGCODE_CPU_COMPLETE="bash_complete", COMP_WORDS="gptbigcode-cpu con", COMP_CWORD="1")
    assert offered.stdout.split() == ["plain,convert"]


def test_demo_is_the_default_and_says_what_it_is() -> None:
    shown = cli("generate", PROMPT, "-n", "8")
    assert shown.returncode == 0, shown.stderr
    assert "tiny" in shown.stderr
    assert shown.stdout.startswith(PROMPT)


def test_human_bytes() -> None:
    assert human_bytes(999) == "999 bytes"
    assert human_bytes(1234) == "1.23 kB"
    assert human_bytes(2_300_000_000) == "2.3 GB"
    assert human_bytes(999_700) == "1 MB"


def test_help_is_a_command_too() -> None:
    assert cli("help").stdout == cli("--help").stdout == cli("-h").stdout
    assert cli("help", "convert").stdout == cli("convert", "--help").stdout
    assert cli("-V").stdout == cli("--version").stdout


def test_a_prompt_that_is_a_path_is_noted(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "code.py"
    text.write_text("x")
    for path, says in ((text, f"to complete what is in that file: < {text}"), (model, f"a model follows -m: {model}")):
        shown = cli("generate", "-m", str(model), "-n", "1", str(path))
        assert (shown.returncode, says in shown.stderr) == (0, True), shown.stderr
    assert "taken as" not in cli("generate", "-m", str(model), "-n", "1", "def f(x):" + "x" * 300).stderr

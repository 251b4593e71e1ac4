"""From names to directories: the Hub client against an endpoint on this machine, and the cache of conversions."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import gptbigcode_cpu
from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer
from gptbigcode_cpu.config import read_config
from gptbigcode_cpu.errors import InputError, ModelNotFoundError
from gptbigcode_cpu.hub import paths as hub
from gptbigcode_cpu.hub.names import SHORT_NAMES
from gptbigcode_cpu.hub.paths import resolve
from gptbigcode_cpu.models import conversions
from gptbigcode_cpu.models.converted import packed_dir
from gptbigcode_cpu.store.weights import open_packed

MakeCheckpoint = Callable[..., Path]
COMMITS = {"main": "a" * 40, "v1": "b" * 40}
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 1}


class Hub:
    """As much of the Hub's API as downloading a snapshot needs.

    Attributes:
        repositories: Repository id -> revision -> directory.
        gated: Repositories that answer only to the token ``letmein``.
        requests: What was asked for, as ``GET /path``.
        sizes: File names -> bytes that a repository is said to need for them.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Path]] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.sizes: dict[str, int] = {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.requests.append(f"{request.command} {path}")
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(?:revision|tree)/([^/]+)", path)
        match = match or re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if match is None:
            return self.send(request, 404, b"{}", {})
        name, revision = match[1], match[2]
        if name not in self.repositories:
            return self.send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if name in self.gated and request.headers.get("Authorization") != "Bearer letmein":
            return self.send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"})
        by_commit = {COMMITS[branch]: directory for branch, directory in self.repositories[name].items()}
        directory = (self.repositories[name] | by_commit).get(revision)
        if directory is None:
            return self.send(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        commit = next(commit for commit, candidate in by_commit.items() if candidate == directory)
        if "/resolve/" in path:
            content = (directory / match[3]).read_bytes()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            return self.send(request, 200, content, headers)
        files = sorted(directory.iterdir())
        if "/tree/" in path:
            listing: Any = [
                {
                    "type": "file",
                    "path": file.name,
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
        else:
            listing = {
                "id": name,
                "sha": commit,
                "siblings": [
                    {"rfilename": file.name, "size": self.sizes.get(file.name, file.stat().st_size)} for file in files
                ],
            }
        return self.send(request, 200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def send(self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)

    def downloaded(self) -> set[str]:
        """Names of the files that were sent."""
        return {request.rpartition("/")[2] for request in self.requests if request.startswith("GET") and "/resolve/" in request}


@pytest.fixture
def server(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Iterator[Hub]:
    """A Hub with ``owner/tiny`` in two revisions, and things in it that nobody needs."""
    hub_server = Hub()
    main = make_checkpoint(tmp_path / "remote" / "main", **SMALL)
    for name in ("README.md", "trainer_state.json", "model.gguf", "pytorch_model.bin", "optimizer.pt"):
        (main / name).write_bytes(b"unneeded")
    old = make_checkpoint(tmp_path / "remote" / "v1", seed=1, shards=2, **SMALL)
    hub_server.repositories["owner/tiny"] = {"main": main, "v1": old}
    thread = threading.Thread(target=hub_server.server.serve_forever)
    thread.start()
    yield hub_server
    hub_server.server.shutdown()
    hub_server.server.server_close()
    thread.join()


CLIENT = """
    import json, sys
    from gptbigcode_cpu.config import read_config
    from gptbigcode_cpu.errors import GPTBigCodeError
    from gptbigcode_cpu.hub.paths import resolve, resolve_adapter
    from gptbigcode_cpu.hub.source import Source
    source, options = Source.taken_from(json.loads(sys.argv[2]))
    try:
        if sys.argv[3] == "resolve":
            print(resolve(sys.argv[1], source, before_weights=read_config, **options))
        else:
            print(resolve_adapter(sys.argv[1], source))
    except GPTBigCodeError as error:
        print(f"{type(error).__name__}:", error)
"""


def ask(
    server: Hub,
    home: Path,
    name: str,
    environment: dict[str, str] | None = None,
    *,
    function: str = "resolve",
    **options: Any,
) -> str:
    """What a fresh process prints that resolves `name`; the Hub client reads its settings once, when it is imported."""
    settings = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"} | (environment or {})
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CLIENT), name, json.dumps(options), function],
        env=inherited | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def same_content(left: Path, right: Path, names: set[str]) -> bool:
    return all((left / name).read_bytes() == (right / name).read_bytes() for name in names)


def test_a_repository_is_downloaded_once_and_only_what_is_needed(server: Hub, tmp_path: Path) -> None:
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    directory = Path(ask(server, tmp_path, "owner/tiny"))
    assert server.downloaded() == wanted
    assert same_content(directory, server.repositories["owner/tiny"]["main"], wanted)

    server.requests.clear()
    assert Path(ask(server, tmp_path, "owner/tiny")) == directory
    assert server.downloaded() == set()
    # And without any connection, asked for in either way.
    server.requests.clear()
    assert Path(ask(server, tmp_path, "owner/tiny", local_files_only=True)) == directory
    assert Path(ask(server, tmp_path, "owner/tiny", {"HF_HUB_OFFLINE": "1"})) == directory
    assert server.requests == []
    # And where the Hub cannot be reached.
    assert Path(ask(server, tmp_path, "owner/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"})) == directory


def test_a_download_draws_bars_once_and_on_a_terminal_only(server: Hub, tmp_path: Path) -> None:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = inherited | {"HF_ENDPOINT": server.endpoint, "HF_HUB_DISABLE_XET": "1", "TERM": "xterm"}
    command = [sys.executable, "-c", "from gptbigcode_cpu.hub.paths import resolve; resolve('owner/tiny')"]

    def seen_by_a_terminal(home: str) -> bytes:
        parent, child = pty.openpty()
        termios.tcsetwinsize(child, (24, 100))
        subprocess.run(command, stderr=child, env=environment | {"HF_HOME": str(tmp_path / home)}, check=True)
        os.write(child, b"end")
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(parent, 1 << 16)
        os.close(child)
        os.close(parent)
        return shown

    assert b"Fetching" in seen_by_a_terminal("one")
    assert seen_by_a_terminal("one") == b"end", "everything is there"
    plain = subprocess.run(command, capture_output=True, env=environment | {"HF_HOME": str(tmp_path / "two")}, check=True)
    assert (plain.stdout, plain.stderr) == (b"", b"")


def test_what_cannot_be_used_is_refused_before_the_weights(server: Hub, tmp_path: Path) -> None:
    main = server.repositories["owner/tiny"]["main"]
    config = json.loads((main / "config.json").read_text())
    (main / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert "llama" in ask(server, tmp_path, "owner/tiny")
    assert "model.safetensors" not in server.downloaded()


def test_a_download_that_the_disk_has_no_room_for(server: Hub, tmp_path: Path) -> None:
    server.sizes["model.safetensors"] = 10**15
    refused = ask(server, tmp_path, "owner/tiny")
    assert refused.startswith("DiskSpaceError: the weights of 'owner/tiny' have 1e+03 TB, but the file system of ")
    assert "HF_HOME names another place" in refused
    assert "model.safetensors" not in server.downloaded()


def test_files_of_autogptq_are_downloaded(server: Hub, tmp_path: Path) -> None:
    main = server.repositories["owner/tiny"]["main"]
    (main / "model.safetensors").rename(main / "gptq_model-4bit-128g.safetensors")
    (main / "quantize_config.json").write_text("{}")
    directory = Path(ask(server, tmp_path, "owner/tiny"))
    weights = {"quantize_config.json", "gptq_model-4bit-128g.safetensors"}
    assert weights <= server.downloaded()
    assert "pytorch_model.bin" not in server.downloaded()
    assert same_content(directory, main, weights)


def test_a_tokenizer_is_downloaded_without_the_weights(server: Hub, tmp_path: Path) -> None:
    directory = Path(ask(server, tmp_path, "owner/tiny", weights=False))
    assert server.downloaded() == {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert Path(ask(server, tmp_path, "owner/tiny")) == directory
    assert (directory / "model.safetensors").is_file()


def test_only_who_needs_weights_asks_for_them(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def download(*arguments: Any) -> Path:
        asked.append(arguments[2])
        return source

    monkeypatch.setattr(hub, "_download", download)
    AutoTokenizer.from_pretrained("owner/tiny")
    assert asked == [False]
    AutoModelForCausalLM.from_pretrained("owner/tiny")
    assert asked == [False, True]


def test_a_revision_and_a_cache_directory(server: Hub, tmp_path: Path) -> None:
    directory = Path(ask(server, tmp_path, "owner/tiny", revision="v1", cache_dir=str(tmp_path / "elsewhere")))
    assert tmp_path / "elsewhere" in directory.parents
    names = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}
    assert same_content(directory, server.repositories["owner/tiny"]["v1"], names)


def test_a_gguf_file_is_downloaded_by_its_name(server: Hub, tmp_path: Path) -> None:
    repository = server.repositories["owner/tiny"]["main"]
    for name in ("one.gguf", "two.gguf", "split-00001-of-00002.gguf", "split-00002-of-00002.gguf"):
        (repository / name).write_bytes(name.encode())  # the Hub's client stores equal files once
    path = Path(ask(server, tmp_path, "owner/tiny", gguf_file="two.gguf"))
    assert (path.name, path.read_bytes(), server.downloaded()) == ("two.gguf", b"two.gguf", {"two.gguf"})
    server.requests.clear()
    path = Path(ask(server, tmp_path, "owner/tiny", gguf_file="split-00001-of-00002.gguf"))
    assert path.name == "split-00001-of-00002.gguf"
    assert server.downloaded() == {"split-00001-of-00002.gguf", "split-00002-of-00002.gguf"}
    answer = ask(server, tmp_path, "owner/tiny", gguf_file="three.gguf")
    assert "ModelNotFoundError" in answer and "no GGUF file 'three.gguf'" in answer


def test_bin_files_are_fetched_where_there_is_nothing_else(server: Hub, tmp_path: Path) -> None:
    (server.repositories["owner/tiny"]["main"] / "model.safetensors").unlink()
    directory = Path(ask(server, tmp_path, "owner/tiny"))
    assert (directory / "pytorch_model.bin").read_bytes() == b"unneeded"


def test_an_adapter_is_downloaded_and_is_no_model(server: Hub, tmp_path: Path) -> None:
    files = {"adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "owner/tiny"}', "README.md": b"unneeded"}
    for name, weights in (("owner/lora", "adapter_model.safetensors"), ("owner/old-lora", "adapter_model.bin")):
        repository = tmp_path / name
        repository.mkdir(parents=True)
        for file, content in (files | {weights: b"weights", "tokenizer.json": b"{}"}).items():
            (repository / file).write_bytes(content)
        server.repositories[name] = {"main": repository}
        directory = Path(ask(server, tmp_path, name, function="resolve_adapter"))
        assert {path.name for path in directory.iterdir()} == {"adapter_config.json", "tokenizer.json", weights}
        message = f"ModelNotFoundError: {name} is not a model but a LoRA adapter of 'owner/tiny'"
        assert ask(server, tmp_path, name).startswith(message)
    assert "is not a LoRA adapter" in ask(server, tmp_path, "owner/tiny", function="resolve_adapter")


def test_a_gated_repository_needs_the_token(server: Hub, tmp_path: Path) -> None:
    server.gated.add("owner/tiny")
    assert "gated" in ask(server, tmp_path, "owner/tiny")
    refused = ask(server, tmp_path, "owner/tiny", token="wrong-secret")
    assert refused.startswith("ModelNotFoundError")
    assert "wrong-secret" not in refused
    assert Path(ask(server, tmp_path, "owner/tiny", token="letmein")).is_dir()


def test_what_does_not_exist_is_named(server: Hub, tmp_path: Path) -> None:
    assert "no such branch, tag or commit" in ask(server, tmp_path, "owner/tiny", revision="v9")
    assert "'owner/none' is neither a directory here nor a repository on the Hub" in ask(server, tmp_path, "owner/none")
    (server.repositories["owner/tiny"]["main"] / "config.json").unlink()
    assert "no config.json" in ask(server, tmp_path, "owner/tiny")


def test_offline_without_a_copy(server: Hub, tmp_path: Path) -> None:
    for answer in (
        ask(server, tmp_path, "owner/tiny", local_files_only=True),
        ask(server, tmp_path, "owner/tiny", {"HF_HUB_OFFLINE": "1"}),
        ask(server, tmp_path, "owner/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}),
    ):
        assert "not in the local cache" in answer
    assert server.requests == []


def test_directories_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/model") == Path("owner/model")
    assert resolve(tmp_path) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/owner") == tmp_path / "owner"


def test_demo_is_the_packaged_model_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("demo") == Path(str(gptbigcode_cpu.__file__)).parent / "demo"
    assert resolve("./demo") == Path("demo")


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/path",
        "./none",
        "../none",
        "~/none",
        "a/b/c",
        "starcode",
        "bert-base",
        "",
        "spaces in it",
        "a..b/c",
        "x" * 200,
        "x" * 5000,
        "\0",
        "~nobody-of-that-name/x",
    ],
)
def test_names_that_lead_nowhere_are_refused_without_asking_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"^no such file or directory: ") as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_short_names_of_well_known_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, *_: Any) -> Path:
        asked.append(name)
        return tmp_path

    monkeypatch.setattr(hub, "_download", download)
    monkeypatch.chdir(tmp_path)
    for name in ("starcoderbase-1b", "santacoder", "starchat-beta"):
        resolve(name)
    assert asked == ["bigcode/starcoderbase-1b", "bigcode/gpt_bigcode-santacoder", "HuggingFaceH4/starchat-beta"]
    assert all(re.fullmatch(r"[\w-]+/[\w.-]+", name) for name in SHORT_NAMES.values())
    (tmp_path / "starcoder").mkdir()
    assert resolve("starcoder") == Path("starcoder"), "a directory of that name comes first"
    with pytest.raises(ModelNotFoundError):
        resolve(Path("santacoder"))  # no name, a path


def test_a_directory_without_a_model_says_where_models_are(source: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"holds no model.*did you mean {source}"):
        read_config(resolve(source.parent))


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match="is a file"):
        resolve(tmp_path / "model.safetensors")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(tmp_path / "source", **SMALL)


def test_a_checkpoint_is_converted_on_first_use_only(source: Path, cache: Path) -> None:
    calls: list[str] = []
    first = packed_dir(source, progress=lambda name, *_: calls.append(name))
    assert calls
    assert cache in first.parents
    assert open_packed(first).dtype == "int8"
    calls.clear()
    assert packed_dir(source, "int8", progress=lambda name, *_: calls.append(name)) == first
    assert calls == []
    second = packed_dir(source, "int4")
    assert second != first
    assert open_packed(second).dtype == "int4"


def test_the_cache_is_keyed_by_content(source: Path, cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    first = packed_dir(source)
    assert packed_dir(shutil.copytree(source, tmp_path / "copy")) == first
    assert packed_dir(make_checkpoint(tmp_path / "other", seed=1, **SMALL)) != first
    # The same path with other weights of the same size, and with another tokenizer.
    make_checkpoint(source, seed=2, **SMALL)
    changed = packed_dir(source)
    assert changed != first
    (source / "tokenizer_config.json").write_text("{}")
    assert packed_dir(source) not in (first, changed)


def test_a_file_is_hashed_once(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packed_dir(source)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert packed_dir(source) == first


def test_a_cache_that_cannot_be_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(NotADirectoryError, match="GPTBIGCODE_CPU_CACHE names another directory"):
        packed_dir(source)


def test_a_read_only_cache_serves_what_it_holds(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packed_dir(source)
    (cache / "digests").rename(cache / "other")
    (cache / "digests").touch()  # digests can neither be read nor written, not even by root
    monkeypatch.setattr(conversions, "making", None)  # locking would write
    assert packed_dir(source) == first


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_conversion_is_made_again(source: Path, cache: Path, damage: str) -> None:
    weights = packed_dir(source) / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if damage == "truncate":
        weights.write_bytes(content[:-1])
    assert (packed_dir(source) / "model.safetensors").read_bytes() == content


def test_two_processes_convert_once(source: Path, cache: Path) -> None:
    script = """
        import sys
        from gptbigcode_cpu.models.converted import packed_dir
        from gptbigcode_cpu.store.weights import open_packed
        calls = []
        path = packed_dir(sys.argv[1], progress=lambda *call: calls.append(call))
        open_packed(path)
        print(path, bool(calls))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(source)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [child.communicate(timeout=120)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len({path for path, _ in answers}) == 1
    assert sorted(converted for _, converted in answers) == ["False", "False", "True"]
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_a_converted_model_is_used_as_it_is(source: Path, cache: Path) -> None:
    packed = packed_dir(source, "int4")
    for dtype in ("auto", "int4"):
        assert packed_dir(packed, dtype) == packed
    with pytest.raises(InputError, match="stored as int4"):
        packed_dir(packed, "int8")


def test_unknown_dtypes(source: Path) -> None:
    with pytest.raises(InputError, match="choose one of auto, int8"):
        packed_dir(source, "int5")


def test_the_place_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPTBIGCODE_CPU_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert conversions.cache_directory() == tmp_path / ".cache" / "gptbigcode-cpu"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert conversions.cache_directory() == tmp_path / "xdg" / "gptbigcode-cpu"
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", "~/here")
    assert conversions.cache_directory() == tmp_path / "here"

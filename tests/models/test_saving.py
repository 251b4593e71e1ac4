"""Opening, saving and uploading models of every class."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from oracle.arrays import assert_same_bits

import gptbigcode_cpu
from gptbigcode_cpu import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    ConfigError,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
    GPTBigCodeForSequenceClassification,
    GPTBigCodeForTokenClassification,
    GPTBigCodeModel,
    InputError,
    UnsupportedError,
)

SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 17, "vocab_size": 61, "n_layer": 1}
CLASSES: dict[Any, Any] = {
    AutoModel: GPTBigCodeModel,
    AutoModelForCausalLM: GPTBigCodeForCausalLM,
    AutoModelForSequenceClassification: GPTBigCodeForSequenceClassification,
    AutoModelForTokenClassification: GPTBigCodeForTokenClassification,
}
IDS = [[7, 8, 9, 30]]
Source = Callable[..., Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Any) -> Source:
    """``source(architecture, **config)``: a small random checkpoint."""

    def make(architecture: str = "GPTBigCodeForCausalLM", **config: Any) -> Path:
        options = SMALL | {"architectures": [architecture], "num_labels": 3} | config
        path: Path = make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", **options)
        return path

    return make


@pytest.fixture(scope="module", autouse=True)
def cache_of_conversions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(source: Source) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(source(), dtype="float32", num_threads=1)


class TestOpening:
    @pytest.mark.parametrize(("auto", "model_class"), CLASSES.items())
    def test_auto_classes_open_their_class_of_model(self, source: Source, auto: Any, model_class: Any) -> None:
        name = model_class.__name__.replace("GPTBigCodeModel", "GPTBigCodeForCausalLM")
        model = auto.from_pretrained(source(name), num_threads=1)
        assert type(model) is model_class
        assert isinstance(model.config, GPTBigCodeConfig)
        assert model(IDS)[0].shape[0] == 1
        with pytest.raises(UnsupportedError, match=rf"use {auto.__name__}\.from_pretrained"):
            auto()
        for make in (auto.from_config, model_class):
            with pytest.raises(UnsupportedError, match=r"no.* with random weights"):
                make(model.config)

    def test_the_model_without_head_is_part_of_all(self, source: Source) -> None:
        for auto, model_class in CLASSES.items():
            name = model_class.__name__.replace("GPTBigCodeModel", "GPTBigCodeForCausalLM")
            path = source(name)
            bare = AutoModel.from_pretrained(path)
            model = auto.from_pretrained(path)
            base = model.base_model
            assert base is (model if auto is AutoModel else model.transformer)
            assert base.config is model.config
            assert_same_bits(base(IDS).last_hidden_state, bare(IDS).last_hidden_state)

    def test_a_checkpoint_of_the_model_without_head(self, source: Source) -> None:
        path = source("GPTBigCodeModel", prefix="")
        assert AutoModel.from_pretrained(path)(IDS).last_hidden_state.shape == (1, 4, 36)
        assert AutoModelForCausalLM.from_pretrained(path)(IDS).logits.shape == (1, 4, 61)  # its head is the embedding
        untied = source("GPTBigCodeModel", prefix="", tie_word_embeddings=False)
        config = json.loads((untied / "config.json").read_text())
        with pytest.raises(ConfigError, match="no LM head"):
            AutoModelForCausalLM.from_pretrained(untied)
        assert config["tie_word_embeddings"] is False

    @pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
    def test_an_untrained_head_is_refused(self, source: Source, auto: Any, tmp_path: Path) -> None:
        head = "score" if auto is AutoModelForSequenceClassification else "classifier"
        with pytest.raises(ConfigError, match=f"is a GPTBigCodeForCausalLM, which has no trained {head} head"):
            auto.from_pretrained(source())

    def test_auto_config(self, source: Source) -> None:
        path = source(custom=5)
        config = AutoConfig.from_pretrained(path, pad_token_id=3, trust_remote_code=True)
        assert (config.n_embd, config.custom, config.pad_token_id, config.name_or_path) == (36, 5, 3, str(path))
        assert AutoConfig.from_pretrained("demo").n_layer == 8
        with pytest.raises(UnsupportedError):
            AutoConfig()


class TestArguments:
    def test_arguments_change_the_configuration_of_the_model(self, source: Source) -> None:
        path = source("GPTBigCodeForSequenceClassification")
        labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
        options = {"pad_token_id": 7, "num_labels": 3, "use_cache": False} | labels
        model = AutoModelForSequenceClassification.from_pretrained(path, **options)
        assert model.config.id2label[2] == "c"
        assert model([*IDS, *IDS]).past_key_values is None
        config = AutoConfig.from_pretrained(path)
        config.output_hidden_states = True
        assert len(AutoModelForSequenceClassification.from_pretrained(path, config=config)(IDS).hidden_states) == 2
        config.n_positions = 18
        with pytest.raises(InputError, match=r"n_positions is 17 in the checkpoint.*cannot be 18"):
            AutoModelForSequenceClassification.from_pretrained(path, config=config)

    def test_arguments_of_transformers_that_change_nothing(self, source: Source) -> None:
        options = {"device_map": "auto", "low_cpu_mem_usage": True, "trust_remote_code": True, "attn_implementation": "sdpa"}
        model = AutoModelForCausalLM.from_pretrained(source(), torch_dtype="float32", load_in_8bit=False, **options)
        assert model.dtype == "float32"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_labels": 4}, "num_labels is 2 in the checkpoint and fixed by its weights; it cannot be 4"),
            ({"n_layer": 1}, "n_layer is fixed by the checkpoint's weights"),
            ({"hidden_size": 36}, "hidden_size is fixed"),
            ({"pad_token": 4}, "unknown argument 'pad_token'; did you mean 'pad_token_id'"),
            ({"dtpe": "int8"}, "did you mean 'dtype'"),
            ({"pad_token_id": "x"}, "pad_token_id must be a token id"),
            ({"device_map": "cuda"}, "device_map='cuda' is not supported: this package computes on the CPU"),
            ({"attn_implementation": "my_attention"}, "my_attention"),
            ({"dtype": "int8", "torch_dtype": "float32"}, "dtype is 'int8', but its older name torch_dtype says 'float32'"),
            ({"config": {"n_layer": 1}}, "config must be a GPTBigCodeConfig"),
        ],
    )
    def test_bad_arguments_are_refused(self, source: Source, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            AutoModelForCausalLM.from_pretrained(source(num_labels=2), **options)
        assert isinstance(caught.value, gptbigcode_cpu.GPTBigCodeError)


class TestWhatScriptsCall:
    def test_harmless_calls_return_the_model(self, model: GPTBigCodeForCausalLM) -> None:
        for same in (
            model.eval(),
            model.train(False),
            model.requires_grad_(False),
            model.to("cpu"),
            model.to(model.device),
            model.to(device="cpu", dtype="float32"),
            model.to("float32"),
            model.cpu(),
            model.float(),
        ):
            assert same is model
        assert (model.training, model.can_generate(), model.transformer.can_generate()) == (False, True, False)
        assert (model.device, model.device.type) == ("cpu", "cpu")
        assert model.get_memory_footprint() == sum(array.nbytes for array in model._packed.tensors.values())

    def test_torch_takes_the_device(self, model: GPTBigCodeForCausalLM) -> None:
        torch = pytest.importorskip("torch")
        assert torch.zeros(1).to(model.device).device.type == "cpu"
        assert model.to(torch.device("cpu"), torch.float32) is model

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda model: model.train(), "not trained here"),
            (lambda model: model.requires_grad_(), "not trained here"),
            (lambda model: model.to("cuda:0"), "computes on the CPU, not on 'cuda:0'"),
            (lambda model: model.to("int8"), "stored as float32; for int8 pass dtype="),
            (lambda model: model.half(), "stored as float32; for bfloat16"),
            (lambda model: model.bfloat16(), "for bfloat16"),
            (lambda model: model.cuda(), "no cuda: this package computes on the CPU"),
            (lambda model: model.state_dict(), "no state_dict: the weights are packed"),
            (lambda model: model.resize_token_embeddings(3), "read-only"),
            (lambda model: model.gradient_checkpointing_enable(), "not trained"),
        ],
    )
    def test_unsupported_calls_say_why(self, model: GPTBigCodeForCausalLM, call: Callable[[Any], Any], message: str) -> None:
        with pytest.raises(UnsupportedError, match=message):
            call(model)
        assert not hasattr(model, "state_dict")
        with pytest.raises(AttributeError, match="'GPTBigCodeForCausalLM' object has no attribute 'nothing'"):
            model.nothing  # noqa: B018

    def test_number_of_parameters(self, source: Source) -> None:
        embeddings, inner = 61 * 36 + 17 * 36, 36 * 60 + 60 + 36 * 36 + 36 + 2 * 36 * 50 + 50 + 36 + 3 * 2 * 36
        for architecture, head, untied in (
            ("GPTBigCodeForCausalLM", 0, False),
            ("GPTBigCodeForCausalLM", 61 * 36, True),
            ("GPTBigCodeForSequenceClassification", 3 * 36, False),
            ("GPTBigCodeForTokenClassification", 3 * 36 + 3, False),
        ):
            path = source(architecture, tie_word_embeddings=not untied)
            model = getattr(gptbigcode_cpu, architecture).from_pretrained(path)
            assert model.num_parameters() == embeddings + inner + head
            assert model.num_parameters(exclude_embeddings=True) == inner + head
            assert model.num_parameters(only_trainable=True) == 0
            assert AutoModel.from_pretrained(path).num_parameters() == embeddings + inner

    def test_input_embeddings(self, model: GPTBigCodeForCausalLM) -> None:
        embedding = model.get_input_embeddings()
        assert (embedding.num_embeddings, embedding.embedding_dim) == (61, 36)
        assert_same_bits(embedding([[3, 60], [0, 3]]), embedding.weight[[[3, 60], [0, 3]]])
        assert embedding(5).shape == (36,)
        with pytest.raises(InputError, match="token id 61"):
            embedding([61])


class TestSaving:
    @pytest.mark.parametrize(("auto", "model_class"), CLASSES.items())
    def test_the_copy_answers_alike(self, source: Source, tmp_path: Path, auto: Any, model_class: Any) -> None:
        name = model_class.__name__.replace("GPTBigCodeModel", "GPTBigCodeForCausalLM")
        model = auto.from_pretrained(source(name))
        model.config.pad_token_id = 9
        model.config.use_cache = False
        model.save_pretrained(tmp_path / "new" / "model")
        again = auto.from_pretrained(tmp_path / "new" / "model")
        assert again.config == model.config
        assert again(IDS).keys() == model(IDS).keys()
        assert_same_bits(again(IDS)[0], model(IDS)[0])
        files = {path.name for path in (tmp_path / "new" / "model").iterdir()}
        generation = {"generation_config.json"} if auto is AutoModelForCausalLM else set()
        assert files == {"config.json", "model.safetensors"} | generation

    def test_generation_options_are_saved(self, source: Source, tmp_path: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(source(eos_token_id=3))
        model.save_pretrained(tmp_path)
        assert AutoModelForCausalLM.from_pretrained(tmp_path).generation_config == model.generation_config

    def test_weights_are_linked_or_copied(
        self, model: GPTBigCodeForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = model._packed.path / "model.safetensors"
        model.save_pretrained(tmp_path / "linked")
        assert (tmp_path / "linked" / "model.safetensors").samefile(original)

        def refuse(*_: Any) -> None:
            raise OSError("no links here")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
        model.save_pretrained(tmp_path / "copied")
        copied = tmp_path / "copied" / "model.safetensors"
        assert not copied.samefile(original)
        assert copied.read_bytes() == original.read_bytes()

    def test_saving_over_an_older_copy_and_onto_itself(
        self, model: GPTBigCodeForCausalLM, source: Source, tmp_path: Path
    ) -> None:
        other = AutoModelForCausalLM.from_pretrained(source(seed=9), dtype="int8")
        other.save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text("{}")
        expected = other(IDS).logits
        model.save_pretrained(tmp_path)
        assert_same_bits(other(IDS).logits, expected)  # its file lives on
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert_same_bits(again(IDS).logits, model(IDS).logits)
        again.config.pad_token_id = 4
        again.save_pretrained(tmp_path)
        assert AutoModelForCausalLM.from_pretrained(tmp_path).config.pad_token_id == 4
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        ]  # fmt: skip

    def test_a_failed_save_leaves_nothing_half_done(
        self, model: GPTBigCodeForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any) -> None:
            raise OSError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "hardlink_to", fail)
            patch.setattr(shutil, "copyfile", fail)
            with pytest.raises(OSError, match="the disk is full"):
                model.save_pretrained(tmp_path / "model")
        assert list((tmp_path / "model").iterdir()) == []
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="is a file"):
            model.save_pretrained(tmp_path / "file")
        with pytest.raises(InputError, match="unknown argument 'repo'; did you mean 'repo_id'"):
            model.save_pretrained(tmp_path / "model", repo="x/y")
        with pytest.raises(InputError, match="safe_serialization"):
            model.save_pretrained(tmp_path / "model", safe_serialization=False)


class UploadHub:
    """As much of the Hub's API as an upload needs.

    Attributes:
        files: Path -> content, of the repository ``owner/new``.
        commits: The heads of the commits.
        requests: What was asked for, as ``POST /path``.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commits: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.created: list[dict[str, Any]] = []
        self._blobs: dict[str, bytes] = {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.answer(self)

            do_PUT = do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        body = self._body(request)
        self.requests.append(f"{request.command} {request.path}")
        authorised = request.headers.get("Authorization") == "Bearer letmein" or path.startswith("/upload/")
        status, answer = (200, self._result(request, path, body)) if authorised else (401, {"error": "Invalid token"})
        content = json.dumps(answer).encode()
        request.send_response(status if answer is not None else 404)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _body(self, request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(request.rfile.readline(), 16):
                body += request.rfile.read(size)
                request.rfile.readline()
            request.rfile.readline()
            return body
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))

    def _result(self, request: BaseHTTPRequestHandler, path: str, body: bytes) -> Any:
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"{self.endpoint}/owner/new", "name": "owner/new"}
        if path.startswith("/api/models/owner/new/preupload/"):
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return {"files": modes}
        if path == "/owner/new.git/info/lfs/objects/batch":
            objects = [
                entry | {"actions": {"upload": {"href": f"{self.endpoint}/upload/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return {"transfer": "basic", "objects": objects}
        if path.startswith("/upload/"):
            assert hashlib.sha256(body).hexdigest() == path.rpartition("/")[2]
            self._blobs[path.rpartition("/")[2]] = body
            return {}
        if path.startswith("/api/models/owner/new/commit/"):
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "header":
                    self.commits.append(value)
                elif entry["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    self.files[value["path"]] = self._blobs[value["oid"]]
            number = f"{len(self.commits):040x}"
            return {"success": True, "commitOid": number, "commitUrl": f"{self.endpoint}/owner/new/commit/{number}"}
        if path.startswith(("/api/models/owner/new/branch/", "/api/validate-yaml")):
            return {}
        if path.startswith("/api/models/owner/new"):
            return {"id": "owner/new", "sha": "0" * 40, "siblings": []}
        return None


@pytest.fixture
def upload_hub() -> Iterator[UploadHub]:
    hub = UploadHub()
    thread = threading.Thread(target=hub.server.serve_forever)
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


CLIENT = """
    import json, sys
    from gptbigcode_cpu import AutoModelForCausalLM, InputError
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
    model.config.pad_token_id = 11
    try:
        print(eval(sys.argv[2]))
    except InputError as error:
        print(f"InputError: {error}")
"""


def upload(hub: UploadHub, model: Path, call: str, token: str = "letmein") -> str:
    """What a process prints that opens a model and calls its `push_to_hub` or `save_pretrained`."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(model), call]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestUploading:
    def test_the_repository_holds_the_model(self, upload_hub: UploadHub, model: GPTBigCodeForCausalLM, tmp_path: Path) -> None:
        address = upload(upload_hub, model._packed.path, "model.push_to_hub('owner/new', private=True)")
        assert address == f"{upload_hub.endpoint}/owner/new/commit/{1:040x}"
        assert upload_hub.commits[0]["summary"] == "Upload model"
        (creation,) = upload_hub.created
        assert creation.get("visibility") == "private" or creation.get("private") is True
        assert upload_hub.files.keys() == {"config.json", "generation_config.json", "model.safetensors"}
        for name, content in upload_hub.files.items():
            (tmp_path / name).write_bytes(content)
        downloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert downloaded.config.pad_token_id == 11
        assert_same_bits(downloaded(IDS).logits, model(IDS).logits)

    def test_branch_message_and_saving_at_once(
        self, upload_hub: UploadHub, model: GPTBigCodeForCausalLM, tmp_path: Path
    ) -> None:
        where = str(tmp_path / "copy")
        options = "push_to_hub=True, repo_id='owner/new', commit_message='Hello', revision='dev'"
        call = f"model.save_pretrained({where!r}, {options})"
        assert upload(upload_hub, model._packed.path, call) == "None"
        assert (tmp_path / "copy" / "model.safetensors").is_file()
        assert upload_hub.commits[0]["summary"] == "Hello"
        assert any("/branch/dev" in request for request in upload_hub.requests)
        assert any(request.startswith("POST /api/models/owner/new/commit/dev") for request in upload_hub.requests)

    def test_a_refusal_is_an_error_that_says_why(self, upload_hub: UploadHub, model: GPTBigCodeForCausalLM) -> None:
        answer = upload(upload_hub, model._packed.path, "model.push_to_hub('owner/new')", token="wrong")
        assert answer.startswith("InputError: 'owner/new' could not be uploaded: ")
        assert "401" in answer
        assert not upload_hub.files
        answer = upload(upload_hub, model._packed.path, "model.push_to_hub('no/such/name')")
        assert answer.startswith("InputError: 'no/such/name' could not be uploaded: ")

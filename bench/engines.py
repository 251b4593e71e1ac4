"""The engines that ``bench/peers.py`` compares, behind one interface.

Each can make its model from a GPTBigCode checkpoint and run it. Only the engine that is used is imported, so that each can live
in an environment of its own.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 512  # tokens per call while the cache is filled


@dataclass(frozen=True)
class Workload:
    """What every engine is asked to do."""

    threads: int
    prompt_tokens: int
    new_tokens: int
    depths: tuple[int, ...]
    rows: tuple[int, ...]

    @property
    def context(self) -> int:
        """Tokens that a sequence holds at most."""
        return max(self.depths) + max(self.prompt_tokens, self.new_tokens, CHUNK)


class Engine(ABC):
    """A loaded model with a cache of keys and values."""

    build: str
    """Version, and what it was built for where the engine can tell."""

    steps_of_many = False
    """Whether `step` is there."""

    @abstractmethod
    def forward(self, tokens: list[int]) -> None:
        """Append tokens to the sequence and compute the logits of the last."""

    @abstractmethod
    def keep(self, count: int) -> None:
        """Forget the sequence from position `count` on."""

    @abstractmethod
    def next_token(self) -> int:
        """The likeliest token after the last `forward`."""

    def step(self, tokens: list[int]) -> None:
        """One token for each of as many sequences; they are new after `keep`."""
        raise NotImplementedError


# gptbigcode-cpu


def prepare_gptbigcode_cpu(dtype: str, checkpoint: Path, work: Path) -> None:
    """Convert with this package."""
    from gptbigcode_cpu.convert import convert

    out = work / f"gptbigcode-cpu-{dtype}"
    if not out.exists():
        convert(checkpoint, out, dtype=dtype)


class GPTBigCodeCPU(Engine):
    """This package's core."""

    steps_of_many = True

    def __init__(self, dtype: str, checkpoint: Path, work: Path, workload: Workload) -> None:
        import numpy as np

        from gptbigcode_cpu._core import KVCache, Sampler
        from gptbigcode_cpu.store.weights import load_core, open_packed

        self.model = load_core(open_packed(work / f"gptbigcode-cpu-{dtype}"), workload.threads)
        self.np, self.sampler, self.build = np, Sampler(), self.model.isa
        self.cache = KVCache(self.model)
        self.many = [KVCache(self.model) for _ in range(max(workload.rows, default=0))]

    def forward(self, tokens: list[int]) -> None:
        self.logits = self.model.forward([self.cache], [self.np.asarray(tokens, self.np.int32)], [1])

    def keep(self, count: int) -> None:
        self.cache.truncate(count)
        for cache in self.many:
            cache.truncate(0)

    def next_token(self) -> int:
        return self.sampler.sample(self.logits[0], self.np.zeros(0, self.np.int32))

    def step(self, tokens: list[int]) -> None:
        rows = len(tokens)
        self.model.forward(self.many[:rows], [*self.np.asarray(tokens, self.np.int32).reshape(rows, 1)], [1] * rows)


# llama.cpp

_LLAMA_FTYPES = {
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_m": 17,
    "q6_k": 18,
    "iq4_nl": 25,
    "iq4_xs": 30,
}


def prepare_gguf(_variant: str, checkpoint: Path, work: Path) -> None:
    """Write the checkpoint as GGUF; needs ``gguf`` and numpy, not llama.cpp."""
    from gguf_file import write_gguf

    out = work / "model-bf16.gguf"
    if not out.exists():
        write_gguf(checkpoint, out)


def _quiet_llama() -> Any:
    import ctypes

    import llama_cpp

    ignore = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(ignore, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    return llama_cpp, ignore  # the callback must outlive its use


def prepare_llama_cpp(variant: str, checkpoint: Path, work: Path) -> None:
    """Quantise the GGUF file with llama.cpp's own quantiser; ``q4_0-imatrix`` with the importance matrix in ``imatrix.npz``."""
    import ctypes

    import numpy as np

    out = work / f"model-{variant}.gguf"
    if out.exists():
        return
    llama, _keep = _quiet_llama()
    params = llama.llama_model_quantize_default_params()
    ftype, _, weighted = variant.partition("-")
    params.ftype = _LLAMA_FTYPES[ftype]
    if weighted:
        means = dict(np.load(work / "imatrix.npz"))
        entries = (llama.llama_model_imatrix_data * (len(means) + 1))()  # one without a name is the end
        for i, (name, values) in enumerate(means.items()):
            pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entries[i] = llama.llama_model_imatrix_data(name.encode(), pointer, values.size)
        params.imatrix = entries
    temporary = out.with_suffix(".partial")
    if llama.llama_model_quantize(bytes(work / "model-bf16.gguf"), bytes(temporary), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp could not quantise to {variant}")
    temporary.rename(out)


class LlamaCpp(Engine):
    """llama.cpp through ``llama_decode``, as its own ``llama-bench`` calls it, with its own cache (float16)."""

    steps_of_many = True

    def __init__(self, variant: str, checkpoint: Path, work: Path, workload: Workload, observer: Any = None) -> None:
        self.llama, self._keep = _quiet_llama()
        llama, rows = self.llama, max(workload.rows, default=1)
        model = llama.llama_model_load_from_file(bytes(work / f"model-{variant}.gguf"), llama.llama_model_default_params())
        params = llama.llama_context_default_params()
        params.n_ctx = workload.context + rows * workload.new_tokens
        params.n_batch = max(workload.prompt_tokens, CHUNK, rows)
        params.n_seq_max = rows
        params.kv_unified = True  # one pool of cells: sequences of any length, as long as all fit
        params.n_threads = params.n_threads_batch = workload.threads
        if observer:  # of the tensors that a forward pass computes
            params.cb_eval = observer
        self.context = llama.llama_init_from_model(model, params)
        if not self.context:
            raise SystemExit("llama.cpp could not load the model")
        self.batch = llama.llama_batch_init(params.n_batch, 0, 1)
        self.held, self.steps = 0, 0
        flags = llama.llama_print_system_info().decode().partition("CPU :")[2]
        wanted = [flag.split(" =")[0].strip() for flag in flags.split("|") if flag.strip().endswith("= 1")]
        vectors = (flag for flag in wanted if flag.startswith(("AVX", "AMX")))
        self.build = " ".join([f"llama-cpp-python {llama.__version__}", *vectors])

    def decode(self, cells: list[tuple[int, int, int, bool]]) -> None:
        """Token, position, sequence and whether its logits are wanted, for each."""
        batch = self.batch
        batch.n_tokens = len(cells)
        for i, (token, position, sequence, wanted) in enumerate(cells):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence
        if self.llama.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        self.llama.llama_synchronize(self.context)

    def forward(self, tokens: list[int]) -> None:
        self.decode([(token, self.held + i, 0, i == len(tokens) - 1) for i, token in enumerate(tokens)])
        self.held += len(tokens)

    def keep(self, count: int) -> None:
        memory = self.llama.llama_get_memory(self.context)
        self.llama.llama_memory_seq_rm(memory, 0, count, -1)
        if self.steps:
            self.llama.llama_memory_seq_rm(memory, -1, 0, -1)
        self.held, self.steps = count, 0

    def next_token(self) -> int:
        sampler = self.llama.llama_sampler_init_greedy()
        token: int = self.llama.llama_sampler_sample(sampler, self.context, -1)
        return token

    def step(self, tokens: list[int]) -> None:
        self.decode([(token, self.steps, sequence, True) for sequence, token in enumerate(tokens)])
        self.steps += 1


# CTranslate2


def prepare_ctranslate2(variant: str, checkpoint: Path, work: Path) -> None:
    """Convert with CTranslate2's transformers converter."""
    from ctranslate2.converters import TransformersConverter

    out = work / f"ctranslate2-{variant}"
    if not out.exists():
        TransformersConverter(str(checkpoint), low_cpu_mem_usage=True).convert(str(out), quantization=variant)


class CTranslate2(Engine):
    """CTranslate2 has no call for a step and keeps no cache between calls: it is asked for texts, see `measure_texts`."""

    def __init__(self, variant: str, checkpoint: Path, work: Path, workload: Workload) -> None:
        import ctranslate2

        path = work / f"ctranslate2-{variant}"
        self.vocabulary: list[str] = json.loads((path / "vocabulary.json").read_text())
        self.generator = ctranslate2.Generator(str(path), compute_type=variant, intra_threads=workload.threads, inter_threads=1)
        self.build = f"ctranslate2 {ctranslate2.__version__}"

    def generate(self, tokens: list[int], count: int) -> int:
        """Write `count` tokens; returns the last."""
        prompt = [self.vocabulary[token] for token in tokens]
        (found,) = self.generator.generate_batch(
            [prompt], max_length=count, min_length=count, sampling_topk=1, include_prompt_in_result=False
        )
        last: int = found.sequences_ids[0][-1]
        return last

    def forward(self, tokens: list[int]) -> None:
        self.token = self.generate(tokens, 1)

    def keep(self, count: int) -> None:
        assert count == 0

    def next_token(self) -> int:
        return self.token


# transformers


def prepare_transformers(_variant: str, _checkpoint: Path, _work: Path) -> None:
    """transformers reads the checkpoint itself."""


class Transformers(Engine):
    """transformers' own forward pass with a key/value cache."""

    def __init__(self, variant: str, checkpoint: Path, work: Path, workload: Workload) -> None:
        import torch
        import transformers

        torch.set_num_threads(workload.threads)
        self.torch, self.new_cache = torch, transformers.DynamicCache
        self.model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, variant))
        self.cache = self.new_cache()
        self.build = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def forward(self, tokens: list[int]) -> None:
        with self.torch.inference_mode():
            ids = self.torch.tensor([tokens])
            self.logits = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits

    def keep(self, count: int) -> None:
        if count:
            self.cache.crop(count - self.cache.get_seq_length())  # a negative number: so many from the end
        else:
            self.cache = self.new_cache()

    def next_token(self) -> int:
        return int(self.logits[0, -1].argmax())


# OpenVINO


def prepare_openvino(variant: str, checkpoint: Path, work: Path) -> None:
    """Export with optimum-intel, weights in groups of 64."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    out = work / f"openvino-{variant}"
    if not out.exists():
        groups = OVWeightQuantizationConfig(bits=4, group_size=64)
        model = OVModelForCausalLM.from_pretrained(checkpoint, export=True, compile=False, quantization_config=groups)
        model.save_pretrained(out)


class OpenVINO(Engine):
    """OpenVINO's CPU plugin on the exported model, with the head for the last token only, as OpenVINO GenAI has it."""

    def __init__(self, variant: str, checkpoint: Path, work: Path, workload: Workload) -> None:
        import numpy as np
        import openvino
        from openvino import opset13

        core = openvino.Core()
        model = core.read_model(work / f"openvino-{variant}" / "openvino_model.xml")
        head = model.output("logits").node
        while head.get_type_name() != "MatMul":
            head = head.input_value(0).node
        last, end, one = np.array([-1]), np.array([np.iinfo(np.int32).max]), np.array([1])
        head.input(0).replace_source_output(opset13.slice(head.input_value(0), last, end, one, one).output(0))
        model.validate_nodes_and_infer_types()
        options = {"INFERENCE_NUM_THREADS": workload.threads, "PERFORMANCE_HINT": "LATENCY"}
        self.request = core.compile_model(model, "CPU", options).create_infer_request()
        self.np, self.tensor, self.held = np, openvino.Tensor, 0
        self.build = f"openvino {openvino.__version__}"

    def forward(self, tokens: list[int]) -> None:
        np, past, self.held = self.np, self.held, self.held + len(tokens)
        found = self.request.infer(
            {
                "input_ids": np.array([tokens]),
                "attention_mask": np.ones((1, self.held), np.int64),
                "position_ids": np.arange(past, self.held)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        self.logits = found["logits"]

    def keep(self, count: int) -> None:
        if count == 0:
            self.request.reset_state()
        else:
            for state in self.request.query_state():
                cached = state.state.data
                shorter = self.np.take(cached, range(count), cached.shape.index(self.held))
                state.state = self.tensor(self.np.ascontiguousarray(shorter))
        self.held = count

    def next_token(self) -> int:
        return int(self.logits[0, -1].argmax())


PREPARE: dict[str, Callable[[str, Path, Path], None]] = {
    "gptbigcode-cpu": prepare_gptbigcode_cpu,
    "gguf": prepare_gguf,
    "llama-cpp": prepare_llama_cpp,
    "ctranslate2": prepare_ctranslate2,
    "openvino": prepare_openvino,
    "transformers": prepare_transformers,
}
LOAD: dict[str, Callable[[str, Path, Path, Workload], Engine]] = {
    "gptbigcode-cpu": GPTBigCodeCPU,
    "llama-cpp": LlamaCpp,
    "ctranslate2": CTranslate2,
    "openvino": OpenVINO,
    "transformers": Transformers,
}

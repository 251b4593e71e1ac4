"""Model files as strangers bring them: damaged, mistaken, made to do harm. And a process that opens them under limits.

``python hostile.py WORK SEED START COUNT SECONDS SOURCE...`` damages copies of the models SOURCE in WORK, opens, converts and
runs each, and prints what was neither done nor refused by an error of the package: a line of JSON for each kind.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Choose = random.Random

# Text of JSON values, some of which no writer of JSON would write.
FRAGMENTS = [
    *("null", "true", "false", "0", "-1", "1", "2", "7", "1.5", "-0.0", "1e-400", "1e999", "NaN", "Infinity", "-Infinity"),
    *(str(2**power + delta) for power in (16, 24, 31, 32, 53, 63, 64) for delta in (-1, 0)),
    *(str(-(2**31)), str(-(2**63)), str(10**30), str(10**400), "1" * 5000, "0.1e1"),
    *('""', '" "', r'"\n"', r'"\u0000"', r'"a\u0000b"', r'"\ud800"', r'"\udfffx"', '"\u00e9\U0001f600"', r'"\u001b[31m"'),
    *(f'"{"x" * length}"' for length in (255, 256, 5000, 200_000)),
    *('"../model.safetensors"', '"/dev/zero"', '"."', '"config.json"', '"~nobody/x"', '"{{ 1 // 0 }}"', '"{% for %}"'),
    *('"<|endoftext|>"', '"int4"', '"gptq"', '"float32"', '"torch.float16"', '"auto"', '"left"', '"1"', '"NaN"'),
    *(
        "[]",
        "{}",
        "[[]]",
        "[null]",
        '{"": null}',
        '{"a": 1, "a": 2}',
        "[1, 2, 3]",
        '["a", "a"]',
        "[[1], [2, 3]]",
        '["a", 1, null]',
    ),
    *('{"0": "a"}', '{"-1": {"content": "x"}}', '{"4294967296": {"content": "x"}}', '{"x": {"content": "x"}}', '{"1": []}'),
    *('{"content": "x"}', '{"content": null}', '{"content": 1, "special": "yes"}', '{"content": "x", "special": 1}'),
    *("[" * depth + "]" * depth for depth in (90, 500, 100_000)),
    '{"a":' * 500 + "1" + "}" * 500,
    "[" + "0," * 200_000 + "0]",
    "",
    "}",
    "'a'",
]
# Names that mean something in one of the files.
_WORDS = """
attention_head_type scale_attn_by_inverse_layer_idx
add_bos_token add_cross_attention add_eos_token add_prefix_space added_tokens added_tokens_decoder
additional_special_tokens activation_function architectures attention_softmax_in_fp32 auto_map bad_words_ids
begin_suppress_tokens bits bnb_4bit_quant_type bos_token bos_token_id chat_template clean_up_tokenization_spaces content
decoder desc_act do_sample dtype early_stopping eos_token eos_token_id exponential_decay_length_penalty
extra_special_tokens forced_bos_token_id forced_eos_token_id generation_config group_size id id2label label2id
layer_norm_epsilon length_penalty max_length max_new_tokens merges metadata min_length model model_input_names
model_max_length model_type multi_query n_embd n_head n_inner n_layer n_positions no_repeat_ngram_size normalizer
num_beam_groups num_beams num_labels num_return_sequences pad_token pad_token_id padding padding_side post_processor
pre_tokenizer problem_type pruned_heads quant_method quantization_config repetition_penalty scale_attn_weights
sequence_bias special_tokens_map stop_strings suppress_tokens temperature tie_word_embeddings tokenizer_class top_k
top_p torch_dtype transformers_version truncation truncation_side type unk_token use_cache vocab vocab_size weight_map
__metadata__ name_or_path _name_or_path attribute_map head_dim to_dict __class__ __init__ is_encoder_decoder backend
format_version overrides calibrated
"""
NAMES = _WORDS.split()


def damaged_bytes(content: bytes, choose: Choose) -> bytes:
    """Bytes changed, cut, put together otherwise, or in another encoding."""
    data = bytearray(content)
    at, other = choose.randrange(len(data) + 1), choose.randrange(len(data) + 1)
    match choose.randrange(9):
        case 0 | 1 if data:
            for _ in range(choose.randrange(1, 8)):
                data[choose.randrange(min(len(data), choose.choice([64, 1024, len(data)])))] = choose.randrange(256)
        case 2:
            del data[at:]
        case 3:
            del data[min(at, other) : max(at, other)]
        case 4:
            data[at:at] = data[other : other + choose.randrange(1, 200)]
        case 5:
            data += choose.randbytes(choose.randrange(1, 100))
        case 6:
            data = bytearray(
                choose.choice([b"", b"\0", b"\xef\xbb\xbf", b"\xef\xbb\xbf" + content, content + content, b"\xff\xfe"])
            )
        case 7:
            text = content[: 1 << 16].decode(errors="replace")
            data = bytearray(text.encode(choose.choice(["utf-16", "utf-32", "utf-16-be", "utf-7"])))
        case _:
            data[at:at] = choose.choice(FRAGMENTS[:40]).encode()
    return bytes(data)


def damaged_json(content: bytes, choose: Choose) -> bytes:
    """A JSON text with values and names replaced, swapped, removed, added or there twice."""
    tree = json.loads(content)
    raw: dict[str, str] = {}

    def fragment() -> str:
        mark = f"@{len(raw)}@"
        raw[json.dumps(mark)] = choose.choice(FRAGMENTS)
        return mark

    for _ in range(choose.choice([1, 1, 1, 2, 4])):
        places = list(_places(tree))
        if not places:
            break
        # Rarely inside of vocabularies, which have most of the places.
        shallow = [place for place in places if len(place[0]) < 200] if choose.random() < 0.9 else places
        parent, key = choose.choice(shallow or places)
        match choose.randrange(8):
            case 0 | 1 | 2:
                parent[key] = fragment()
            case 3:
                del parent[key]
            case 4:
                there, name = choose.choice(places)
                parent[key], there[name] = there[name], parent[key]
            case 5 if isinstance(parent, dict):
                parent[choose.choice(NAMES)] = fragment()
            case 6 if isinstance(parent, dict):
                parent[choose.choice(["", "\0", "a" * 300, "-1", "1e5", "4294967296", *NAMES])] = parent.pop(key)
            case _:
                parent[key] = [parent[key]] if choose.random() < 0.5 else {"a": parent[key]}
    try:
        text = json.dumps(tree, ensure_ascii=False)
    except (ValueError, RecursionError):  # what was swapped is a part of itself
        return content
    for mark, value in raw.items():
        text = text.replace(mark, value)
    if choose.random() < 0.05:
        text = text.replace("{", '{"model_type": 1, ', 1)
    return text.encode(errors="surrogatepass")


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list) and value:
            yield from _places(value)


def damaged(path: Path, content: bytes, choose: Choose) -> bytes:
    """The content of a file of a model, damaged in a way that suits it."""
    try:
        if path.suffix == ".json" and choose.random() < 0.85:
            return damaged_json(content, choose)
        if path.suffix == ".safetensors" and choose.random() < 0.7:
            end = 8 + int.from_bytes(content[:8], "little")
            header = damaged_json(content[8:end], choose)
            return len(header).to_bytes(8, "little") + header + content[end:]
        if path.suffix == ".gguf" and choose.random() < 0.7:
            return _damaged_gguf(content, choose)
    except (ValueError, AttributeError):
        pass
    return damaged_bytes(content, choose)


def _damaged_gguf(content: bytes, choose: Choose) -> bytes:
    data = bytearray(content)
    for _ in range(choose.choice([1, 1, 2, 4])):
        at = choose.randrange(min(len(data) - 8, choose.choice([64, 1500, 12_000])))
        size = choose.choice([1, 4, 8])
        value = choose.choice([0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1, choose.randrange(64), choose.randrange(2**64)])
        data[at : at + size] = (value % 256**size).to_bytes(size, "little")
    return bytes(data)


def damage(directory: Path, choose: Choose) -> None:
    """Damage one or two files of a model."""
    paths = sorted(path for path in directory.iterdir())
    for path in choose.sample(paths, min(len(paths), choose.choice([1, 1, 1, 2]))):
        content = path.read_bytes()
        path.unlink()
        match choose.randrange(40):
            case 0:
                os.mkfifo(path)
            case 1:
                path.mkdir()
            case 2:
                path.symlink_to(choose.choice(["/dev/zero", "/dev/tty", path.name, "/nothing", str(directory)]))
            case 3:
                pass  # it is missing
            case _:
                path.write_bytes(damaged(path, content, choose))


def uses(model: Path, out: Path) -> Iterator[Callable[[], Any]]:
    """What a user does with a model, step by step; each may be refused."""
    from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPTBigCodeConfig, pipeline
    from gptbigcode_cpu.convert import convert
    from gptbigcode_cpu.store.weights import is_packed

    def tokenizer() -> Any:
        loaded = AutoTokenizer.from_pretrained(model)
        ids = loaded("def f(x):\n    return x", max_length=16, truncation=True)["input_ids"]
        loaded.decode(ids, skip_special_tokens=True)
        loaded(["a", "b c"], padding=loaded.pad_token is not None)
        repr(loaded), len(loaded), loaded.all_special_ids, loaded.get_vocab()
        if loaded.chat_template is not None:
            loaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        loaded.save_pretrained(out / "tokenizer")
        AutoTokenizer.from_pretrained(out / "tokenizer")

    def config() -> None:
        read = GPTBigCodeConfig.from_pretrained(model)
        repr(read), read.to_dict(), read.to_diff_dict()
        read.save_pretrained(out / "config")
        GPTBigCodeConfig.from_pretrained(out / "config")

    def converted() -> None:
        directory = model
        if model.is_file() or not (model / "config.json").is_file() or not packed():
            before = set(out.iterdir())
            try:
                adapter = [model] if (model / "adapter_config.json").exists() else []
                directory = convert(model, out / "converted", dtype="int4", adapter=adapter).out
            except BaseException:
                assert set(out.iterdir()) == before, "something was left behind"
                raise
        run(directory)

    def packed() -> bool:
        return is_packed(GPTBigCodeConfig.from_json_file(model / "config.json"))

    def run(directory: Path) -> None:
        loaded = AutoModelForCausalLM.from_pretrained(directory, num_threads=1)
        one = {"max_new_tokens": 2, "num_beams": 1, "num_return_sequences": 1}  # a file may ask for 65,536, which takes minutes
        loaded.generate([[1, 2, 3]], **one)
        loaded.save_pretrained(out / "saved")
        pipeline("text-generation", model=str(directory))("a", **one)

    yield config
    if model.is_dir():
        yield lambda: repr(GenerationConfig.from_pretrained(model))
    yield tokenizer
    yield converted


def problem(use: Callable[[], Any]) -> dict[str, str] | None:
    """What is wrong with how a use ended, or None: it was done, or refused in one readable line."""
    from gptbigcode_cpu import GPTBigCodeError

    try:
        use()
    except BaseException as error:
        message = str(error)
        kind = f"message of {type(error).__name__}"
        if isinstance(error, GPTBigCodeError):
            if message.isprintable() and 0 < len(message) < 1200:
                return None
        else:
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
        return {"kind": kind, "message": message[:1000], "trace": traceback.format_exc()[-3000:]}
    return None


def prepared(source: Path, work: Path, change: Callable[[Path], None]) -> Iterator[Callable[[], Any]]:
    """The uses of a copy of a model in `work` that `change` has changed."""
    out, model = work / "out", work / "model"
    for directory in (out, model):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copyfile(path, model / path.name)
    change(model)
    return uses(next(model.glob("*.gguf"), model), out)


def replace_by_pipe(path: Path) -> None:
    """Put a named pipe without a writer where a file was."""
    path.unlink()
    os.mkfifo(path)


def attempt(source: Path, work: Path, choose: Choose | None) -> Iterator[dict[str, str]]:
    """Use a copy of a model, damaged if there is something that chooses how; the problems that come up."""
    for use in prepared(source, work, lambda model: damage(model, choose) if choose else None):
        if found := problem(use):
            yield {"source": source.name, **found}


def main() -> None:
    work, seed, start, count, seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    sources = [Path(name) for name in sys.argv[6:]]
    for source in sources:  # loads what a right model needs
        for found in attempt(source, work, None):
            print(json.dumps({"case": "undamaged", **found}), flush=True)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
    end = time.monotonic() + seconds
    for i in range(start, start + count):
        if time.monotonic() > end:
            break
        print(i, file=sys.stderr, flush=True)
        signal.alarm(60)  # ends this process: something waits for ever
        for found in attempt(sources[i % len(sources)], work, random.Random(f"{seed} {i}")):
            print(json.dumps({"case": i, **found}), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()

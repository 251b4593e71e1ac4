"""The calls of a tokenizer whose answers from transformers are committed (tokenizer.json)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

SPECIAL = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<filename>"]
TEXTS = [
    "",
    " ",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "x = 1234567890  # trailing spaces   \n\n\n\ty",
    "naïve 🙂 日本語 \u0301 👩‍👩‍👧 \ufffd \u200b\u00a0",
    "a<|endoftext|>b <fim_middle>\n<fim_middl",
    "import numpy as np; print(np.zeros((3, 4)).shape)",
]


def random_text(seed: int) -> str:
    """Pieces of code, of any script, of white space and of special tokens."""
    source = random.Random(seed)
    kinds = [
        lambda: "".join(chr(source.randint(32, 126)) for _ in range(source.randint(1, 12))),
        lambda: "".join(chr(source.choice([source.randint(1, 0xD7FF), source.randint(0xE000, 0x10FFFF)])) for _ in range(4)),
        lambda: "".join(source.choice(" \t\n\r\u00a0\u2003") for _ in range(source.randint(1, 9))),
        lambda: source.choice(SPECIAL),
        lambda: source.choice(["self.", "return ", "def ", "    ", "::", "1234", "'\"\\"]),
    ]
    return "".join(source.choice(kinds)() for _ in range(source.randint(1, 14)))


BATCH = [*TEXTS, *(random_text(seed) for seed in range(25))]
PAIRS = [random_text(seed) for seed in range(100, 100 + len(BATCH))]
WORDS = [["def", " f", "(a)", "", "日本"], ["x"], ["two words", "\n"]]
EVERYTHING = {
    "return_token_type_ids": True,
    "return_special_tokens_mask": True,
    "return_offsets_mapping": True,
    "return_length": True,
}
# Arguments of a call; every text list is BATCH unless the case says otherwise.
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": EVERYTHING,
    "no mask": {"return_attention_mask": False},
    "padding": {"padding": True, **EVERYTHING},
    "padding left to a multiple": {"padding": "longest", "padding_side": "left", "pad_to_multiple_of": 8, **EVERYTHING},
    "padding to a length": {"padding": "max_length", "max_length": 20, "truncation": True, "return_tensors": "np"},
    "only max_length": {"max_length": 7},
    "truncation": {"truncation": True, "max_length": 5, **EVERYTHING},
    "overflow": {"truncation": True, "max_length": 8, "stride": 3, "return_overflowing_tokens": True, **EVERYTHING},
    "padded overflow": {
        "truncation": True, "max_length": 8, "stride": 2, "return_overflowing_tokens": True, "padding": True,
        "return_tensors": "np",
    },
    "names as text": {"split_special_tokens": True, "return_offsets_mapping": True},
    "pairs": {"text_pair": PAIRS, **EVERYTHING},
    "pairs cut at the longer": {"text_pair": PAIRS, "truncation": "longest_first", "max_length": 9, **EVERYTHING},
    "words": {"text": WORDS, "is_split_into_words": True, **EVERYTHING},
    "one text": {"text": BATCH[2], **EVERYTHING},
    "one empty text": {"text": ""},
    "one text as a tensor": {"text": BATCH[3], "return_tensors": "np", **EVERYTHING},
    "one pair": {"text": BATCH[2], "text_pair": BATCH[4], **EVERYTHING},
    "one pair, first cut": {"text": BATCH[2], "text_pair": "x = 1", "truncation": "only_first", "max_length": 12},
    "one pair, second cut": {"text": "x = 1", "text_pair": BATCH[2], "truncation": "only_second", "max_length": 12},
    "one text overflowing": {"text": BATCH[2], "truncation": True, "max_length": 6, "return_overflowing_tokens": True},
    "words of one text": {"text": WORDS[0], "is_split_into_words": True, **EVERYTHING},
}  # fmt: skip
CHATS = [
    [{"role": "user", "content": "Reverse a list."}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Reverse a list."},
        {"role": "assistant", "content": "l[::-1] "},
        {"role": "user", "content": " And <|endoftext|> a string? "},
    ],
    [{"role": "user", "content": "Hi", "name": None}, {"role": "assistant", "content": "Hello, I "}],
]
# Templates that use what transformers offers to them.
CHAT_TEMPLATES = [
    "{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}{{ eos_token }}",
    "{%- set ns = namespace(n=0) -%}\n{%- for m in messages %}\n    {%- set ns.n = ns.n + 1 %}\n"
    "    {{- ns.n ~ m | tojson }}\n    {%- if ns.n > 1 %}{% break %}{% endif %}\n{%- endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}[{{ m.content }}]{% endif %}{% endfor %}",
]


def plain(value: Any) -> Any:
    """An answer as JSON has it."""
    if hasattr(value, "items"):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def answers(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer, with a pad token, answers to everything."""
    results: dict[str, Any] = {}
    for name, arguments in CALLS.items():
        given = {"text": BATCH, **arguments}
        results[name] = plain(tokenizer(given.pop("text"), given.pop("text_pair", None), **given))
    tokenizer.truncation_side = "left"
    results["cut on the left"] = plain(tokenizer(BATCH, truncation=True, max_length=6, stride=1, **EVERYTHING))
    tokenizer.truncation_side = "right"
    ids = results["plain"]["input_ids"]
    without = tokenizer.batch_decode(ids, skip_special_tokens=True)
    results["decode"] = [tokenizer.decode(ids), without, tokenizer.decode(ids[2][0])]
    results["tokenize"] = [tokenizer.tokenize(text) for text in BATCH]
    tokens = tokenizer.convert_ids_to_tokens(ids[4])
    known = tokenizer.convert_tokens_to_ids([*tokens, "no token"])
    results["tokens"] = [tokens, tokenizer.convert_tokens_to_string(tokens), known]
    results["encode"] = tokenizer.encode(BATCH[2], truncation=True, max_length=4)
    results["pad"] = [
        plain(tokenizer.pad({"input_ids": ids[1:6]})),
        plain(tokenizer.pad([{"input_ids": row} for row in ids[1:6]], padding_side="left", pad_to_multiple_of=4)),
        plain(tokenizer.pad(tokenizer(BATCH[2:5], return_token_type_ids=True), padding="max_length", max_length=90)),
        plain(tokenizer.pad({"input_ids": ids[2]}, padding="max_length", max_length=70, return_attention_mask=False)),
    ]
    encoding = tokenizer("def f(a1):\n    return 'é'", "x y")
    results["maps"] = plain(
        [
            encoding.tokens(),
            encoding.word_ids(),
            encoding.sequence_ids(),
            [encoding.char_to_token(i) for i in range(26)],
            [encoding.char_to_token(0, i, 1) for i in range(3)],
            [encoding.token_to_chars(i) for i in range(len(encoding.input_ids))],
            [encoding.token_to_word(i) for i in range(6)],
            [encoding.token_to_sequence(i) for i in range(6)],
            [encoding.char_to_word(i) for i in range(10)],
            [encoding.word_to_tokens(i) for i in range(4)],
            [encoding.word_to_chars(i) for i in range(4)],
        ]
    )
    names = ("all_special_tokens", "all_special_ids", "special_tokens_map", "extra_special_tokens", "model_max_length")
    results["attributes"] = {name: getattr(tokenizer, name) for name in names}
    results["sizes"] = [len(tokenizer), tokenizer.vocab_size, len(tokenizer.get_vocab()), tokenizer.num_special_tokens_to_add()]
    results["chats"] = [
        tokenizer.apply_chat_template(
            chat,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=chat[-1]["role"] == "user",
            continue_final_message=chat[-1]["role"] != "user" and "tojson" not in template,
        )
        for chat in CHATS
        for template in CHAT_TEMPLATES
    ]
    results["chat tokens"] = plain(
        tokenizer.apply_chat_template(
            CHATS[1], chat_template=CHAT_TEMPLATES[2], return_assistant_tokens_mask=True, add_generation_prompt=True
        )
    )
    return results

"""The packaged model does what its card says: it writes elementary functions that work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def written() -> Callable[[str, str], Any]:
    """``written(head, name)``: the function `name` that the model writes after `head`, greedily."""
    tokenizer = AutoTokenizer.from_pretrained("demo")
    model = AutoModelForCausalLM.from_pretrained("demo", num_threads=1)

    def write(head: str, name: str) -> Any:
        inputs = tokenizer(head, return_tensors="np")
        output = model.generate(**inputs, max_new_tokens=120, do_sample=False, stop_strings="\n\n\n", tokenizer=tokenizer)
        found: dict[str, Any] = {}
        exec(tokenizer.decode(output[0], skip_special_tokens=True), found)
        return found[name]

    return write


@pytest.mark.parametrize(
    ("head", "name", "answers"),
    [
        ("def fibonacci(n):", "fibonacci", {(0,): 0, (1,): 1, (2,): 1, (10,): 55}),
        ("def factorial(n):", "factorial", {(0,): 1, (1,): 1, (5,): 120}),
        ("def is_prime(n):", "is_prime", {(0,): False, (2,): True, (9,): False, (31,): True}),
        ("def gcd(a, b):", "gcd", {(12, 18): 6, (7, 3): 1, (5, 0): 5}),
        ("def reverse_string(text):", "reverse_string", {("abc",): "cba", ("",): ""}),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_functions_work(head: str, name: str, answers: dict[Any, Any], written: Callable[[str, str], Any]) -> None:
    function = written(head, name)
    assert {arguments: function(*arguments) for arguments in answers} == answers


def test_fills_a_line_of_a_method() -> None:
    tokenizer = AutoTokenizer.from_pretrained("demo")
    model = AutoModelForCausalLM.from_pretrained("demo", num_threads=1)
    before = "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):"
    after = "\n\n    def pop(self):\n        return self.items.pop()\n"
    found: dict[str, Any] = {}
    exec(before + model.fill(before, after, tokenizer=tokenizer, max_new_tokens=24) + after, found)
    stack = found["Stack"]()
    stack.push(3)
    assert stack.items == [3]

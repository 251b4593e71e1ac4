"""Reads the content of a ``config.json`` as leniently as transformers does. The same values as arguments of a call are
refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptbigcode_cpu.config.checks import PROBLEM_TYPES

# Values that say the same as no key.
_SAYS_NOTHING: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("use_cache", "output_hidden_states", "output_attentions", "return_dict"), (None,)),
    "id2label": ({},),
    "num_labels": (0,),
}


def as_read(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the file without the keys that change nothing.

    Of ``dtype`` and ``torch_dtype`` the first counts, of ``id2label`` and ``num_labels`` the second. A ``problem_type`` counts
    if the model classifies.
    """
    given = {key: value for key, value in content.items() if value not in _SAYS_NOTHING.get(key, ())}
    if given.get("dtype") is not None:
        given.pop("torch_dtype", None)
    names = given.get("architectures")
    if isinstance(names, str):
        names = given["architectures"] = [names]
    labels, count = given.get("id2label"), given.get("num_labels")
    if isinstance(labels, Mapping) and type(count) is int and count != len(labels):
        given = {key: value for key, value in given.items() if key not in ("id2label", "label2id")}
    classifies = isinstance(names, list) and any("Classification" in str(name) for name in names)
    if not classifies and given.get("problem_type") not in PROBLEM_TYPES:
        given.pop("problem_type", None)
    return given

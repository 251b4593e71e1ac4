"""Refusal of unknown names, with the known name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.errors import InputError


def nearest(name: str, known: Iterable[str]) -> str:
    """A half-sentence with the known name nearest to `name`; empty if none is near."""
    from difflib import get_close_matches  # a few milliseconds that only a mistake costs

    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def refuse_unknown(unknown: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    """Do nothing if `unknown` is empty.

    Raises:
        InputError: It is not empty: `what` has no argument of that name. The message has the nearest of the `known` names.
    """
    for name in unknown:
        raise InputError(f"{what} has no argument {name!r}{nearest(name, known)}")


def check_choice(what: str, value: object, choices: Iterable[Any]) -> None:
    """Raises:
    InputError: `value` is none of the `choices`; the message calls it `what`.
    """
    choices = list(choices)
    if (value is None or isinstance(value, (str, int))) and value in choices:
        return
    near = nearest(value, [choice for choice in choices if isinstance(choice, str)]) if isinstance(value, str) else ""
    raise InputError(f"{what} must be one of {', '.join(map(repr, choices))}, not {shown(value)}{near}")

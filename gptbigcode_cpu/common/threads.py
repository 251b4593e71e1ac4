"""How many threads compute: the check of a number, and the environment variable."""

from __future__ import annotations

import os

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.errors import InputError

MAX_THREADS = 1024  # the core's bound
THREADS_VARIABLE = "GPTBIGCODE_CPU_NUM_THREADS"


def checked_threads(value: object, name: str = "num_threads", *, least: int = 1) -> int:
    """A number of threads.

    Args:
        value: The number.
        name: Its name in the message.
        least: 1, or 0 where that stands for the default.

    Raises:
        InputError: It is no integer from `least` to `MAX_THREADS`.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= MAX_THREADS:
        default = "" if least else ", or 0 for the default"
        raise InputError(f"{name} must be an integer from 1 to {MAX_THREADS}{default}, not {shown(value)}")
    return number


def given_threads(argument: int | None) -> int:
    """The number that a caller or the environment variable asks for; 0 = the core decides.

    Raises:
        InputError: It is no number of threads.
    """
    if argument is not None:
        return checked_threads(argument)
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if not text:
        return 0
    return checked_threads(int(text) if text.isdecimal() and len(text) < 10 else text, THREADS_VARIABLE)


def default_num_threads() -> int:
    """Threads that a model computes with if its opener does not say: GPTBIGCODE_CPU_NUM_THREADS, or what suits the machine.

    Raises:
        InputError: The variable is no number of threads.
    """
    from gptbigcode_cpu import _core

    return given_threads(None) or _core.default_num_threads()

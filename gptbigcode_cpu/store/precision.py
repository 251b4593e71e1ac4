"""In which type a model's weights are to be stored, by the many names that callers have for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptbigcode_cpu.common.dtypes import DTYPES
from gptbigcode_cpu.common.suggest import refuse_unknown
from gptbigcode_cpu.errors import InputError

logger = logging.getLogger(__name__)

# Arguments of `from_pretrained` that speak of the type of the weights, besides `dtype`.
OTHER_NAMES = ("torch_dtype", "load_in_8bit", "load_in_4bit", "quantization_config")


class BitsAndBytesConfig:
    """A wish for weights of 8 or 4 bits, as transformers' `quantization_config` says it.

    ``load_in_8bit=True`` means ``dtype="int8"`` and ``load_in_4bit=True`` means ``dtype="int4"``. The weights are stored in
    this package's own types. The other arguments describe how the bitsandbytes library computes on a GPU; they are kept as
    attributes and change nothing here.

    Args:
        load_in_8bit: Store the weights in 8 bits.
        load_in_4bit: Store the weights in 4 bits.
        **options: The other arguments of transformers' class, such as ``bnb_4bit_quant_type``.

    Raises:
        InputError: Both are asked for, one is neither True nor False, or an unknown argument.
    """

    quant_method = "bitsandbytes"

    def __init__(self, load_in_8bit: bool = False, load_in_4bit: bool = False, **options: Any) -> None:
        known = (
            "llm_int8_threshold", "llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight",
            "bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage",
        )  # fmt: skip
        unknown = {name: value for name, value in options.items() if name not in known}
        refuse_unknown(unknown, ("load_in_8bit", "load_in_4bit", *known), "BitsAndBytesConfig")
        self.load_in_8bit, self.load_in_4bit = load_in_8bit, load_in_4bit
        vars(self).update(options)
        _bits(load_in_8bit, load_in_4bit)


def plain_name(dtype: Any) -> str:
    """The name of a dtype: a string, or one of torch or numpy. None is ``"auto"``."""
    if dtype is None:
        return "auto"
    if isinstance(dtype, type) and issubclass(dtype, np.generic):
        return dtype.__name__
    return str(dtype).removeprefix("torch.")


def storage_dtype(dtype: Any, others: Mapping[str, Any]) -> str:
    """The storage type that the arguments of `from_pretrained` ask for.

    Args:
        dtype: ``"auto"``, a name of `DTYPES`, the torch dtype of that name, or float16, in place of which bfloat16 is used.
        others: Values of `OTHER_NAMES`.

    Raises:
        InputError: An unknown type, or arguments that contradict each other.
    """
    older, config = others.get("torch_dtype"), others.get("quantization_config")
    if older is not None:
        if plain_name(dtype) not in ("auto", plain_name(older)):
            raise InputError(f"dtype is {plain_name(dtype)!r}, but its older name torch_dtype says {plain_name(older)!r}")
        dtype = older
    name = plain_name(dtype)
    eight, four = others.get("load_in_8bit"), others.get("load_in_4bit")
    if config is not None:
        if eight or four:
            raise InputError("load_in_8bit and load_in_4bit say what quantization_config says; pass one of them")
        eight, four = _wish(config)
    if (asked := _bits(eight, four)) is not None:
        # What transformers' dtype says beside them is the type that the rest computes in, here always float32.
        if name not in ("auto", asked, "float16", "bfloat16", "float32"):
            raise InputError(f"dtype is {name!r}, but load_in_8bit or load_in_4bit asks for {asked!r}; pass dtype only")
        return asked
    if name == "float16":
        logger.warning(
            "weights cannot be stored as float16; bfloat16 is used, which has the same size "
            "(dtype='float32' is exact, 'int8' is half as large)"
        )
        return "bfloat16"
    if name not in ("auto", *DTYPES):
        raise InputError(f"dtype must be one of auto, {', '.join(DTYPES)}, not {name!r}")
    return name


def _wish(config: Any) -> tuple[Any, Any]:
    """Whether a `quantization_config`, also one of transformers, asks for 8 or for 4 bits."""
    content = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    # transformers' class keeps the two in attributes with an underscore.
    wish = tuple(content.get(name, content.get(f"_{name}")) for name in ("load_in_8bit", "load_in_4bit"))
    if wish == (None, None):
        raise InputError(f"quantization_config={type(config).__name__}(...) is not supported; pass dtype='int8' or 'int4'")
    return wish


def _bits(eight: Any, four: Any) -> str | None:
    for name, value in (("load_in_8bit", eight), ("load_in_4bit", four)):
        if value not in (None, True, False):
            raise InputError(f"{name} must be True or False, not {value!r}")
    if eight and four:
        raise InputError("load_in_8bit and load_in_4bit exclude each other")
    return "int8" if eight else "int4" if four else None

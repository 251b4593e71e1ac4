"""The names of the types that weights, keys and values are stored in."""

from __future__ import annotations

from typing import Final

DTYPES: Final = ("int8", "int6", "int4", "bfloat16", "float32")
"""Of weights."""
DEFAULT_DTYPE: Final = "int8"
"""Of a plain checkpoint whose user asks for nothing."""
KV_DTYPES: Final = ("int8", "bfloat16", "float16", "float32")
"""Of keys and values."""

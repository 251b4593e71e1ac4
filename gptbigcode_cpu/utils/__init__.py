"""Where scripts look for `logging`, as in transformers."""

from __future__ import annotations

from gptbigcode_cpu.utils import logging

__all__ = ["logging"]

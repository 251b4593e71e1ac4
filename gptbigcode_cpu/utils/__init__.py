"""Contains `logging`, where scripts for transformers expect it."""

from __future__ import annotations

from gptbigcode_cpu.utils import logging

__all__ = ["logging"]

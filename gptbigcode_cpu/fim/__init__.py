"""Fill-in-the-middle: the model reads the text before and after the cursor, and writes the text in between."""

from __future__ import annotations

from gptbigcode_cpu.fim.fill import Fill, FillMixin, plan_fill, preferred_mode
from gptbigcode_cpu.fim.hygiene import MiddleFilter
from gptbigcode_cpu.fim.line_ends import line_end, with_line_end
from gptbigcode_cpu.fim.prompt import CURSOR, ExtraFiles, build_prompt, split_at_cursor
from gptbigcode_cpu.fim.tokens import FimTokens, Mode, stop_token_ids

__all__ = [
    "CURSOR",
    "ExtraFiles",
    "Fill",
    "FillMixin",
    "FimTokens",
    "MiddleFilter",
    "Mode",
    "build_prompt",
    "line_end",
    "plan_fill",
    "preferred_mode",
    "split_at_cursor",
    "stop_token_ids",
    "with_line_end",
]

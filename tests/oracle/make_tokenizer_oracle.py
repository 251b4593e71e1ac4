"""Compute the committed answers of transformers' tokenizer.

Usage: python tests/oracle/make_tokenizer_oracle.py
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from oracle import data, tokenizer_cases  # noqa: E402


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(data.CHECKPOINT, pad_token="<fim_pad>")
    answers = tokenizer_cases.answers(tokenizer)
    packed = gzip.compress(json.dumps(answers, separators=(",", ":")).encode(), mtime=0)
    (HERE / "tokenizer.json.gz").write_bytes(packed)


if __name__ == "__main__":
    main()

"""Compute the committed results of transformers' pipelines.

Usage: python tests/oracle/make_pipeline_oracle.py
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GPTBigCodeConfig,
    GPTBigCodeForSequenceClassification,
    GPTBigCodeForTokenClassification,
    GPTBigCodeModel,
    pipeline,
)
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput, TokenClassifierOutput

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from oracle import data  # noqa: E402
from oracle import pipeline_cases as cases  # noqa: E402


class Tokens(GPTBigCodeForTokenClassification):
    def forward(self, input_ids: Any = None, **_: Any) -> Any:
        return TokenClassifierOutput(logits=torch.from_numpy(cases.token_logits(input_ids.numpy())))


class Texts(GPTBigCodeForSequenceClassification):
    def forward(self, input_ids: Any = None, attention_mask: Any = None, **_: Any) -> Any:
        logits = cases.text_logits(input_ids.numpy(), attention_mask.numpy(), self.config.num_labels)
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))


class Features(GPTBigCodeModel):
    def forward(self, input_ids: Any = None, **_: Any) -> Any:
        return BaseModelOutput(last_hidden_state=torch.from_numpy(cases.token_logits(input_ids.numpy())))


def main() -> None:
    warnings.simplefilter("ignore")
    path = data.CHECKPOINT
    tokenizer = AutoTokenizer.from_pretrained(path)
    short = AutoTokenizer.from_pretrained(path, model_max_length=24, pad_token="<fim_pad>")

    def config(**given: Any) -> GPTBigCodeConfig:
        labels = {"id2label": dict(enumerate(cases.LABELS)), **given}
        return GPTBigCodeConfig(n_layer=1, n_embd=8, n_head=1, vocab_size=8192, **labels)

    tokens = pipeline("token-classification", model=Tokens(config()), tokenizer=short)
    features = pipeline("feature-extraction", model=Features(config()), tokenizer=tokenizer)
    answers = {
        "token-classification": cases.results(cases.TOKEN_CALLS, tokens),
        "feature-extraction": cases.results(cases.FEATURE_CALLS, features),
    }
    for name, problem in cases.PROBLEMS.items():
        texts = pipeline("text-classification", model=Texts(config(**problem)), tokenizer=tokenizer)
        answers[f"text-classification: {name}"] = cases.results(cases.TEXT_CALLS, texts)
    (HERE / "pipelines.json").write_text(json.dumps(answers, indent=None) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

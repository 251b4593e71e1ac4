"""Calls of every model class, for transformers and for this package, and their comparison.

A case is a list of steps. A step is the arguments of a call; from the second one on, the call gets the cache of the one before.
Three keys are no arguments: ``crop`` and ``select`` change that cache first, and ``theirs`` holds arguments that only
transformers gets: position ids where its `forward`, unlike its `generate`, would count the padding on the left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Steps = list[dict[str, Any]]

# Random models for which answers are committed: arguments of `write_checkpoint`.
SMALL = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 40, "vocab_size": 61, "pad_token_id": 5}
MODELS: dict[str, dict[str, Any]] = {
    "base": {"class": "GPTBigCodeModel"},
    "base-multi-head": {"class": "GPTBigCodeModel", "multi_query": False},
    "causal": {"class": "GPTBigCodeForCausalLM"},
    "causal-multi-head": {"class": "GPTBigCodeForCausalLM", "multi_query": False, "tie_word_embeddings": False},
    "sequence": {"class": "GPTBigCodeForSequenceClassification", "num_labels": 3},
    "sequence-one-label": {"class": "GPTBigCodeForSequenceClassification", "num_labels": 1},
    "sequence-no-padding": {"class": "GPTBigCodeForSequenceClassification", "num_labels": 2, "pad_token_id": None},
    "token": {"class": "GPTBigCodeForTokenClassification", "num_labels": 4},
}


def model_arguments(name: str) -> dict[str, Any]:
    """Arguments of `write_checkpoint` for one of `MODELS`."""
    own = {key: value for key, value in MODELS[name].items() if key != "class"}
    architecture = MODELS[name]["class"].replace("GPTBigCodeModel", "GPTBigCodeForCausalLM")
    return {"seed": 300 + list(MODELS).index(name), "architectures": [architecture]} | SMALL | own


def count_positions(mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position ids that count the tokens, as `generate` makes them."""
    return (mask.cumsum(axis=1) - 1).clip(0)


def common_cases(vocab_size: int, n_embd: int) -> dict[str, Steps]:
    """What every class can do."""
    random = np.random.RandomState(11)

    def ids(*shape: int) -> NDArray[np.int64]:
        return random.randint(6, vocab_size, shape)

    right = np.array([[1] * 7, [1] * 4 + [0] * 3, [1] + [0] * 6])
    left = right[:, ::-1].copy()
    holes = np.array([[1, 1, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1, 1], [1] * 7])
    three = np.where(right == 1, ids(3, 7), 5)
    three_left = np.where(left == 1, ids(3, 7), 5)
    embeds = random.standard_normal((1, 6, n_embd)).astype(np.float32) * 0.2
    everything = {"output_hidden_states": True, "output_attentions": True}
    grown = np.concatenate([left, np.ones((3, 3), np.int64)], axis=1)
    return {
        "plain": [{"input_ids": ids(1, 8)}],
        "everything": [{"input_ids": ids(1, 8)} | everything],
        "padding-right": [{"input_ids": three, "attention_mask": right} | everything],
        "padding-left": [
            {"input_ids": three_left, "attention_mask": left, "theirs": {"position_ids": count_positions(left)}} | everything
        ],
        "padding-left-positions": [{"input_ids": three_left, "attention_mask": left, "position_ids": count_positions(left)}],
        "holes": [{"input_ids": ids(3, 7), "attention_mask": holes, "position_ids": count_positions(holes)} | everything],
        "positions": [{"input_ids": ids(1, 6), "position_ids": np.array([[7, 7, 0, 31, 2, 3]])}],
        "token-types": [{"input_ids": ids(1, 6), "token_type_ids": random.randint(0, 3, (1, 6))} | everything],
        "embeddings": [{"inputs_embeds": embeds, "output_hidden_states": True}],
        "embeddings-token-types": [{"inputs_embeds": embeds, "token_type_ids": random.randint(0, 3, (1, 6))}],
        "tuple": [{"input_ids": ids(1, 5), "return_dict": False, "use_cache": False, "output_hidden_states": True}],
        "going-on": [
            {"input_ids": ids(1, 6)},
            {"input_ids": ids(1, 1)} | everything,
            {"input_ids": ids(1, 3)} | everything,
            {"input_ids": ids(1, 4), "crop": -2} | everything,
        ],
        "going-on-padded": [
            {"input_ids": three_left, "attention_mask": left, "theirs": {"position_ids": count_positions(left)}},
            {
                "input_ids": ids(3, 3),
                "attention_mask": grown,
                "theirs": {"position_ids": count_positions(grown)[:, -3:]},
            }
            | everything,
            {
                "input_ids": ids(2, 1),
                "select": np.array([2, 0]),
                "attention_mask": np.concatenate([grown, np.ones((3, 1), np.int64)], axis=1)[[2, 0]],
                "theirs": {"position_ids": grown[[2, 0]].sum(axis=1, keepdims=True)},
            },
        ],
    }


def causal_cases(vocab_size: int) -> dict[str, Steps]:
    """What a language model can do besides."""
    random = np.random.RandomState(12)
    ids = random.randint(6, vocab_size, (2, 7))
    some = ids.copy()
    some[0, :3] = some[1, 6] = -100
    right = np.array([[1] * 7, [1] * 4 + [0] * 3])
    return {
        "labels": [{"input_ids": ids, "labels": ids}],
        "labels-left-out": [{"input_ids": ids, "labels": some}],
        "labels-padded": [{"input_ids": ids, "attention_mask": right, "labels": np.where(right == 1, ids, -100)}],
        "keep-1": [{"input_ids": ids, "logits_to_keep": 1}],
        "keep-3": [{"input_ids": ids, "logits_to_keep": 3}],
        "keep-many": [{"input_ids": ids, "logits_to_keep": 100}],
        "keep-columns": [{"input_ids": ids, "logits_to_keep": np.array([5, 0, 2])}],
    }


def sequence_cases(vocab_size: int, num_labels: int, pad: int | None) -> dict[str, Steps]:
    """What a classifier of texts can do besides."""
    random = np.random.RandomState(13)
    rows = 1 if pad is None else 3
    ids = random.randint(6, vocab_size, (rows, 7))
    floats = random.standard_normal((rows, num_labels)).astype(np.float32)
    cases: dict[str, Steps] = {
        "labels-floats": [{"input_ids": ids, "labels": floats[:, 0] if num_labels == 1 else (floats > 0).astype(np.float32)}],
        "labels-regression": [{"input_ids": ids, "labels": floats, "problem_type": "regression"}],
    }
    if num_labels > 1:
        cases["labels-classes"] = [{"input_ids": ids, "labels": random.randint(0, num_labels, rows)}]
        cases["labels-several"] = [
            {"input_ids": ids, "labels": (floats > 0).astype(np.float32), "problem_type": "multi_label_classification"}
        ]
    if pad is not None:
        padded = ids.copy()
        padded[1, 4:] = padded[2, 1:] = pad  # without a mask: the padding is seen, but the row is cut there
        cases["padding-without-mask"] = [{"input_ids": padded}]
        inside = ids.copy()
        inside[1, 3] = pad
        cases["pad-token-inside"] = [{"input_ids": inside}]
    return cases


def token_cases(vocab_size: int, num_labels: int) -> dict[str, Steps]:
    """What a classifier of tokens can do besides."""
    random = np.random.RandomState(14)
    ids, labels = random.randint(6, vocab_size, (2, 7)), random.randint(0, num_labels, (2, 7))
    right = np.array([[1] * 7, [1] * 4 + [0] * 3])
    return {
        "labels": [{"input_ids": ids, "labels": labels}],
        "labels-padded": [{"input_ids": ids, "attention_mask": right, "labels": np.where(right == 1, labels, -100)}],
    }


def cases_of(class_name: str, vocab_size: int, n_embd: int, num_labels: int, pad: int | None) -> dict[str, Steps]:
    """All cases of a model class."""
    found = common_cases(vocab_size, n_embd)
    if class_name == "GPTBigCodeForCausalLM":
        return found | causal_cases(vocab_size)
    if class_name == "GPTBigCodeForTokenClassification":
        # Its output has no cache to go on from.
        return {name: steps for name, steps in found.items() if len(steps) == 1} | token_cases(vocab_size, num_labels)
    if class_name == "GPTBigCodeForSequenceClassification":
        if pad is None:
            found = {name: steps for name, steps in found.items() if len(steps[0].get("input_ids", [0])) == 1}
        return found | sequence_cases(vocab_size, num_labels, pad)
    return found


def answers(model: Any, steps: Steps, theirs: bool) -> list[dict[str, NDArray[Any]]]:
    """What a model returns for the steps of a case, as names and arrays."""
    results = []
    cache: Any = None
    for step in steps:
        arguments = {key: value for key, value in step.items() if key not in ("theirs", "crop", "select", "problem_type")}
        if theirs:
            import torch

            arguments |= step.get("theirs", {})
            for key, value in arguments.items():
                arguments[key] = torch.tensor(value) if isinstance(value, np.ndarray) else value
        if "crop" in step:
            cache.crop(step["crop"])
        if "select" in step:
            cache.batch_select_indices(torch.tensor(step["select"]) if theirs else step["select"])
        if cache is not None:
            arguments["past_key_values"] = cache
        before = model.config.problem_type
        model.config.problem_type = step.get("problem_type")
        output = model(**arguments)
        model.config.problem_type = before
        if isinstance(output, tuple):
            results.append(named_arrays({str(i): value for i, value in enumerate(output)}))
            continue
        results.append(named_arrays(output))
        cache = output["past_key_values"] if "past_key_values" in output else output.get("cache", cache)
    return results


def named_arrays(output: Any) -> dict[str, NDArray[Any]]:
    """The arrays of an output by name; those in a tuple have its name and a number."""
    found: dict[str, NDArray[Any]] = {}
    for name, value in output.items():
        if isinstance(value, tuple):
            found |= {f"{name}/{i}": np.asarray(item) for i, item in enumerate(value)}
        elif not hasattr(value, "get_seq_length"):
            found[name] = np.asarray(value)
    return found


def assert_like(
    ours: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]], step: dict[str, Any], tolerance: float
) -> None:
    """Compare what is at tokens; what is at padding must be zero here."""
    assert ours.keys() == expected.keys()
    width = step["input_ids"].shape[1] if "input_ids" in step else step["inputs_embeds"].shape[1]
    for name, actual in ours.items():
        wanted = expected[name]
        assert actual.shape == wanted.shape, name
        assert actual.dtype == wanted.dtype, name
        mask = step.get("attention_mask")
        if mask is not None and actual.ndim >= 3:
            seen = mask[:, -width:].astype(bool)
            if name.startswith("attentions"):
                places = np.broadcast_to((seen[:, :, None] & mask.astype(bool)[:, None])[:, None], actual.shape)
            else:
                places = np.broadcast_to(seen[:, :, None], actual.shape)
            assert not actual[~places].any(), name
            actual, wanted = actual[places], wanted[places]
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance, err_msg=name)

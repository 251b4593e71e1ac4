"""Forward calls of the model classes: padding, caches, masks, losses and errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle.arrays import assert_same_bits

from gptbigcode_cpu import (
    ContextLengthError,
    DynamicCache,
    GPTBigCodeError,
    GPTBigCodeForCausalLM,
    GPTBigCodeForSequenceClassification,
    GPTBigCodeForTokenClassification,
    GPTBigCodeModel,
    InputError,
)

SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 90, "vocab_size": 61, "pad_token_id": 5}
IDS = [7, 8, 9, 30, 60]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Any, converted: Any) -> Open:
    """``opened(model_class, dtype="int8", num_labels=3)``: a random model; each is made once."""
    done: dict[Any, Any] = {}

    def open_once(model_class: Any, dtype: str = "int8", num_labels: int = 3) -> Any:
        key = model_class, dtype, num_labels
        if key not in done:
            name = model_class.__name__.replace("GPTBigCodeModel", "GPTBigCodeForCausalLM")
            options = SMALL | {"architectures": [name], "num_labels": num_labels, "seed": num_labels}
            checkpoint = make_checkpoint(tmp_path_factory.mktemp("model"), **options)
            done[key] = model_class.from_pretrained(converted(dtype, checkpoint), num_threads=1)
        return done[key]

    return open_once


@pytest.fixture(scope="module")
def model(opened: Open) -> GPTBigCodeForCausalLM:
    found: GPTBigCodeForCausalLM = opened(GPTBigCodeForCausalLM)
    return found


@pytest.fixture(autouse=True)
def unchanged_configuration(model: GPTBigCodeForCausalLM, opened: Open) -> Any:
    before = copy.deepcopy(vars(model.config))
    yield
    vars(model.config).update(before)


@st.composite
def padded_batches(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and a mask with padding on both sides of every row."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    mask = np.zeros((rows, columns), np.int64)
    for row in mask:
        begin = draw(st.integers(0, columns - 1))
        row[begin : draw(st.integers(begin + 1, columns))] = 1
    ids = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, 61, mask.shape)
    return ids, mask


class TestLaws:
    @settings(max_examples=40)
    @given(batch=padded_batches(), dtype=st.sampled_from(["int8", "float32"]))
    def test_padding_changes_no_bit_of_a_row(self, opened: Open, batch: Any, dtype: str) -> None:
        model, (ids, mask) = opened(GPTBigCodeForCausalLM, dtype), batch
        everything = {"output_hidden_states": True, "output_attentions": True}
        output = model(ids, attention_mask=mask, **everything)
        for i, row_mask in enumerate(mask.astype(bool)):
            alone = model(ids[i : i + 1, row_mask], **everything)
            assert_same_bits(output.logits[i, row_mask], alone.logits[0])
            for actual, expected in zip(output.hidden_states, alone.hidden_states, strict=True):
                assert_same_bits(actual[i, row_mask], expected[0])
                assert not actual[i, ~row_mask].any()
            for actual, expected in zip(output.attentions, alone.attentions, strict=True):
                assert_same_bits(actual[i][:, row_mask][:, :, row_mask], expected[0])
                assert not actual[i][:, ~row_mask].any()
                assert not actual[i][:, :, ~row_mask].any()

    @settings(max_examples=40)
    @given(batch=padded_batches(), data=st.data())
    def test_going_on_from_a_cache_equals_one_call(self, model: GPTBigCodeForCausalLM, batch: Any, data: st.DataObject) -> None:
        ids, mask = batch
        whole = model(ids, attention_mask=mask, output_hidden_states=True)
        cuts = sorted(data.draw(st.sets(st.integers(1, ids.shape[1]))) | {ids.shape[1]})
        cache, begin = DynamicCache(), 0
        for end in cuts:
            if not mask[:, begin:end].any() or not mask[:, :end].any(axis=1).all():
                continue  # a call needs a token, and every row a token by its first call
            part = model(
                ids[:, begin:end],
                past_key_values=cache,
                attention_mask=mask[:, :end],
                output_hidden_states=True,
            )
            assert part.past_key_values is cache
            assert cache.get_seq_length() == end
            assert_same_bits(part.logits, np.ascontiguousarray(whole.logits[:, begin:end]))
            assert_same_bits(part.hidden_states[1], np.ascontiguousarray(whole.hidden_states[1][:, begin:end]))
            begin = end
        assert np.array_equal(cache.mask[:, :begin], mask[:, :begin].astype(bool))

    @settings(max_examples=20)
    @given(batch=padded_batches())
    def test_the_loss_of_a_batch_is_that_of_its_rows(self, opened: Open, batch: Any) -> None:
        model, (ids, mask) = opened(GPTBigCodeForCausalLM, "float32"), batch
        loss = model(ids, attention_mask=mask, labels=ids).loss
        rows = [row[row_mask] for row, row_mask in zip(ids, mask.astype(bool), strict=True)]
        alone = [(len(row) - 1, model(row, labels=row).loss) for row in rows if len(row) > 1]
        if not alone:
            assert np.isnan(loss)
            return
        assert loss.dtype == np.float32
        np.testing.assert_allclose(loss, np.average([value for _, value in alone], weights=[n for n, _ in alone]), rtol=1e-5)

    @settings(max_examples=20)
    @given(batch=padded_batches())
    def test_classifiers_do_not_see_padding(self, opened: Open, batch: Any) -> None:
        ids, mask = batch
        tokens = opened(GPTBigCodeForTokenClassification)
        output = tokens(ids, attention_mask=mask)
        texts = opened(GPTBigCodeForSequenceClassification)
        ids = np.where(mask == 1, np.maximum(ids, 6), 5)
        whole = texts(ids, attention_mask=mask).logits
        for i, row_mask in enumerate(mask.astype(bool)):
            assert_same_bits(output.logits[i, row_mask], tokens(batch[0][i : i + 1, row_mask]).logits[0])
            assert not output.logits[i, ~row_mask].any()
            assert_same_bits(whole[i], texts(ids[i : i + 1, row_mask]).logits[0])

    def test_embeddings_in_place_of_ids_change_no_bit(self, model: GPTBigCodeForCausalLM) -> None:
        embeddings = model.get_input_embeddings()([IDS])
        mask = [[0, 1, 1, 1, 0]]
        expected = model([IDS], attention_mask=mask).logits
        assert_same_bits(model(inputs_embeds=embeddings, attention_mask=mask).logits, expected)
        assert_same_bits(model(inputs_embeds=embeddings.astype(np.float64), attention_mask=mask).logits, expected)

    def test_positions_that_count_the_tokens_change_no_bit(self, model: GPTBigCodeForCausalLM) -> None:
        expected = model([IDS]).logits
        for positions in ([[0, 1, 2, 3, 4]], [0, 1, 2, 3, 4], np.arange(5, dtype=np.int32)[None]):
            assert_same_bits(model([IDS], position_ids=positions).logits, expected)
        both = model([IDS, IDS], position_ids=[[0, 1, 2, 3, 4]]).logits
        assert_same_bits(both, np.concatenate([expected, expected]))

    def test_token_types_are_added(self, model: GPTBigCodeForCausalLM) -> None:
        wte = model.get_input_embeddings()
        types = [[0, 1, 0, 2, 2]]
        expected = model(inputs_embeds=wte([IDS]) + wte(types)).logits
        assert_same_bits(model([IDS], token_type_ids=types).logits, expected)
        assert not np.array_equal(expected, model([IDS]).logits)

    @pytest.mark.parametrize("keep", [0, 1, 2, 5, 9, [4, 0], [-1], np.array([1, 1])])
    def test_logits_to_keep(self, model: GPTBigCodeForCausalLM, keep: Any) -> None:
        mask = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
        whole = model([IDS, IDS], attention_mask=mask).logits
        expected = whole[:, -keep if keep else 0 :] if isinstance(keep, int) else whole[:, np.asarray(keep)]
        actual = model([IDS, IDS], attention_mask=mask, logits_to_keep=keep).logits
        assert np.array_equal(actual, expected)


class TestCache:
    def test_crop_select_copy(self, model: GPTBigCodeForCausalLM) -> None:
        ids = np.random.default_rng(0).integers(6, 61, (3, 12))
        mask = np.ones_like(ids)
        mask[0, :5] = mask[1, 9:] = 0
        whole = model(ids, attention_mask=mask)
        cache = whole.past_key_values
        assert (cache.batch_size, cache.get_seq_length(), cache.get_seq_length(1), cache.is_initialized) == (3, 12, 12, True)
        assert cache.nbytes > 0
        copies = [cache.copy(), copy.copy(cache), copy.deepcopy(cache)]
        model(ids[:, :2], past_key_values=cache)
        assert cache.get_seq_length() == 14
        cache.crop(-7)
        cache.crop(20)
        assert cache.get_seq_length() == 7
        again = model(ids[:, 7:], past_key_values=cache, attention_mask=mask)
        assert_same_bits(again.logits, np.ascontiguousarray(whole.logits[:, 7:]))
        for other in copies:
            assert other.get_seq_length() == 12
            other.batch_select_indices(np.array([2, 0, 2]))
            other.crop(8)
            chosen = mask[[2, 0, 2]]
            part = model(ids[[2, 0, 2], 8:], past_key_values=other, attention_mask=chosen)
            assert_same_bits(part.logits, np.ascontiguousarray(whole.logits[[2, 0, 2], 8:]))
        cache.reorder_cache([1])
        cache.batch_repeat_interleave(2)
        assert (cache.batch_size, repr(cache)) == (2, "DynamicCache(batch_size=2, seq_length=12)")
        cache.reset()
        assert (cache.batch_size, cache.get_seq_length(), cache.is_initialized) == (0, 0, False)
        assert_same_bits(model(ids[:1], past_key_values=cache).logits, model(ids[:1]).logits)

    def test_a_row_may_pause(self, model: GPTBigCodeForCausalLM) -> None:
        cache = model([IDS, IDS]).past_key_values
        mask = np.ones((2, 6), np.int64)
        mask[1, 5] = 0
        output = model([[3], [3]], past_key_values=cache, attention_mask=mask, output_attentions=True)
        assert_same_bits(output.logits[0], model([[*IDS, 3]]).logits[0, -1:])
        assert not output.logits[1].any()
        assert not output.attentions[0][1].any()
        after = model([[4], [4]], past_key_values=cache).logits
        assert_same_bits(after[1], model([[*IDS, 4]]).logits[0, -1:])
        assert cache.mask.tolist() == [[True] * 7, [True] * 5 + [False, True]]

    def test_an_empty_cache_fits_any_model(self, opened: Open) -> None:
        for model_class in (GPTBigCodeModel, GPTBigCodeForCausalLM, GPTBigCodeForSequenceClassification):
            cache = DynamicCache(config=opened(model_class).config)
            assert opened(model_class)([IDS], cache=cache, use_cache=False).past_key_values is cache
            assert cache.get_seq_length() == 5
        with pytest.raises(InputError, match="another model"):
            opened(GPTBigCodeModel)([IDS], past_key_values=cache)

    def test_use_cache(self, model: GPTBigCodeForCausalLM) -> None:
        assert model([IDS]).past_key_values is not None
        assert model([IDS], use_cache=False).past_key_values is None
        model.config.use_cache = False
        assert model([IDS]).past_key_values is None
        assert model([IDS], use_cache=True).past_key_values is not None

    def test_a_failed_call_leaves_the_cache_unchanged(self, model: GPTBigCodeForCausalLM) -> None:
        cache = model([IDS]).past_key_values
        with pytest.raises(ContextLengthError, match="row 0 has 91 tokens, past ones included, the model has 90 positions"):
            model([[1] * 86], past_key_values=cache)
        with pytest.raises(InputError):
            model([[61]], past_key_values=cache)
        assert_same_bits(model([[3]], past_key_values=cache).logits[0], model([[*IDS, 3]]).logits[0, -1:])

    @pytest.mark.parametrize(
        ("misuse", "message"),
        [
            (lambda cache: cache.crop(0), r"crop\(0\).*reset"),
            (lambda cache: cache.crop(1.5), "whole number"),
            (lambda cache: cache.crop(True), "whole number"),
            (lambda cache: cache.batch_select_indices([2]), "row 2 is not in this cache of 2 rows"),
            (lambda cache: cache.batch_select_indices([-1]), "row -1"),
            (lambda cache: cache.batch_repeat_interleave(0), "positive"),
        ],
    )
    def test_misuse_of_a_cache_is_refused(
        self, model: GPTBigCodeForCausalLM, misuse: Callable[[Any], None], message: str
    ) -> None:
        cache = model([IDS, IDS]).past_key_values
        with pytest.raises(InputError, match=message):
            misuse(cache)
        assert (cache.batch_size, cache.get_seq_length()) == (2, 5)


class TestWhatTheConfigurationDecides:
    def test_outputs(self, model: GPTBigCodeForCausalLM) -> None:
        model.config.output_hidden_states = True
        assert len(model([IDS]).hidden_states) == 3
        assert model([IDS], output_hidden_states=False).hidden_states is None
        model.config.output_attentions = True
        assert len(model([IDS]).attentions) == 2
        model.config.return_dict = False
        assert isinstance(model([IDS]), tuple)
        assert not isinstance(model([IDS], return_dict=True), tuple)

    def test_problem_type(self, opened: Open) -> None:
        texts = opened(GPTBigCodeForSequenceClassification)
        assert texts.config.problem_type is None
        classes = texts([IDS], labels=[2]).loss
        assert texts.config.problem_type == "single_label_classification"
        assert texts([IDS], labels=np.array([[2]])).loss == classes
        texts.config.problem_type = "regression"
        logits = texts([IDS]).logits.astype(np.float64)
        regression = texts([IDS], labels=[[1.0, 0.0, 0.5]]).loss
        np.testing.assert_allclose(regression, np.square(logits - [[1.0, 0.0, 0.5]]).mean(), rtol=1e-6)
        with pytest.raises(InputError, match=r"labels has the shape \[1\], for regression it must have \[1, 3\]"):
            texts([IDS], labels=[1.0])
        texts.config.problem_type = None
        several = texts([IDS], labels=[[1.0, 0.0, 1.0]]).loss
        assert texts.config.problem_type == "multi_label_classification"
        assert texts([IDS], labels=[[True, False, True]]).loss == several
        texts.config.problem_type = None
        assert texts([IDS], labels=[[True, False, True]]).loss == several  # truth values are no classes
        p = 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(several, -np.log([[p[0, 0], 1 - p[0, 1], p[0, 2]]]).mean(), rtol=1e-5)
        texts.config.problem_type = None
        one = opened(GPTBigCodeForSequenceClassification, num_labels=1)
        assert one([IDS, IDS], labels=[3, 4]).loss > 0
        assert one.config.problem_type == "regression"


class TestTorch:
    def test_tensors_in_tensors_out(self, opened: Open) -> None:
        torch = pytest.importorskip("torch")
        ids, mask = torch.tensor([IDS, IDS]), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
        for model_class in (GPTBigCodeForCausalLM, GPTBigCodeForTokenClassification, GPTBigCodeForSequenceClassification):
            model = opened(model_class)
            labels = torch.tensor([1, 2]) if model_class is GPTBigCodeForSequenceClassification else ids.remainder(3)
            everything = {"output_hidden_states": True, "output_attentions": True}
            output = model(ids, attention_mask=mask, labels=labels, **everything)
            plain = model(ids.numpy(), attention_mask=mask.numpy(), labels=labels.numpy(), **everything)
            assert output.keys() == plain.keys()
            assert output.loss.shape == ()
            for name in output:
                if name == "past_key_values":
                    continue
                values, expected = (value if isinstance(value, tuple) else (value,) for value in (output[name], plain[name]))
                for value, wanted in zip(values, expected, strict=True):
                    assert value.dtype == torch.float32
                    assert np.array_equal(value.numpy(), wanted), name
        model.config.problem_type = None

    def test_types_and_devices(self, model: GPTBigCodeForCausalLM, opened: Open) -> None:
        torch = pytest.importorskip("torch")
        embeddings = model.get_input_embeddings()(torch.tensor([IDS]))
        assert isinstance(embeddings, torch.Tensor)
        assert torch.equal(model(inputs_embeds=embeddings).logits, model(torch.tensor([IDS])).logits)
        assert model(inputs_embeds=embeddings.to(torch.bfloat16)).logits.dtype == torch.float32
        kept = model(torch.tensor([IDS]), logits_to_keep=torch.tensor([3])).logits
        assert torch.equal(kept, model(torch.tensor([IDS])).logits[:, 3:4])
        for name in ("input_ids", "attention_mask", "position_ids", "token_type_ids", "labels"):
            arguments = {"input_ids": torch.tensor([IDS])} | {name: torch.zeros(1, 5, dtype=torch.int64, device="meta")}
            with pytest.raises(InputError, match=f"{name} is on the device 'meta'.*pass {name}.cpu"):
                model(**arguments)
        texts = opened(GPTBigCodeForSequenceClassification)
        with pytest.raises(InputError, match="labels is on the device 'meta'"):
            texts(torch.tensor([IDS]), labels=torch.zeros(1, dtype=torch.int64, device="meta"))


FIVE = {"input_ids": [IDS]}
EMBEDDINGS = np.zeros((1, 5, 36), np.float32)


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "exactly one of input_ids or inputs_embeds"),
            (FIVE | {"inputs_embeds": EMBEDDINGS}, "exactly one of input_ids or inputs_embeds"),
            ({"inputs_embeds": EMBEDDINGS[0]}, r"shape \[batch, tokens, 36\], not \[5, 36\]"),
            ({"inputs_embeds": EMBEDDINGS[:, :, :35]}, r"not \[1, 5, 35\]"),
            ({"inputs_embeds": EMBEDDINGS[:, :0]}, r"not \[1, 0, 36\]"),
            ({"inputs_embeds": EMBEDDINGS.astype(np.int64)}, "inputs_embeds must hold floating-point numbers, not int64"),
            ({"inputs_embeds": EMBEDDINGS + np.inf}, "inputs_embeds must hold finite numbers"),
            (FIVE | {"attention_mask": [[1, 1, 1, 1, 2]]}, "1 for tokens and 0 for padding"),
            (FIVE | {"attention_mask": [[0.0, 0.0, -1.0, 0.0, 0.0]]}, "additive masks are not supported"),
            (FIVE | {"attention_mask": [[1.0, 0.5, 1.0, 1.0, 1.0]]}, "whole numbers"),
            (FIVE | {"attention_mask": [["1"] * 5]}, "attention_mask must hold integers"),
            (FIVE | {"attention_mask": [[1] * 4]}, r"has the shape \[1, 4\]; the input has 1 rows and 5 columns"),
            (FIVE | {"attention_mask": np.ones((1, 1, 5, 5))}, "shape"),
            (FIVE | {"attention_mask": [[0] * 5]}, "row 0 of the input is empty"),
            (FIVE | {"attention_mask": [[1, 0, 1, 1, 1]]}, "padding between the tokens of row 0"),
            (FIVE | {"position_ids": [[0, 1, 2, 3, 90]]}, "position id 90 in row 0, column 4 is not in 0..89"),
            (FIVE | {"position_ids": [[-1, 1, 2, 3, 4]]}, "position id -1"),
            (FIVE | {"position_ids": [[0, 1]]}, r"position_ids has the shape \[1, 2\], the input has \[1, 5\]"),
            (FIVE | {"position_ids": [[0.5, 1, 2, 3, 4]]}, "position_ids must hold integers"),
            (FIVE | {"token_type_ids": [[61] * 5]}, "token type 61 in row 0, column 0 is not in 0..60"),
            (FIVE | {"token_type_ids": [[0]]}, "token_type_ids has the shape"),
            (FIVE | {"labels": [[1] * 4]}, r"labels has the shape \[1, 4\]"),
            (FIVE | {"labels": [[1, 2, 61, 1, 1]]}, "label 61 is neither in 0..60 nor -100"),
            (FIVE | {"labels": [[1, -1, 2, 1, 1]]}, "label -1"),
            (FIVE | {"labels": [[1.5] * 5]}, "labels must hold integers"),
            (FIVE | {"labels": [IDS], "logits_to_keep": 2}, "labels need all logits"),
            (FIVE | {"logits_to_keep": -1}, "must not be negative"),
            (FIVE | {"logits_to_keep": [5]}, "names column 5, the input has 5"),
            (FIVE | {"logits_to_keep": []}, "not empty"),
            (FIVE | {"past_key_values": ((1, 2),)}, "must be a DynamicCache of this package, not tuple"),
            (FIVE | {"use_cache": 1}, "use_cache must be True or False, not 1"),
            (FIVE | {"output_attentions": "yes"}, "output_attentions must be True or False"),
            (FIVE | {"atention_mask": [[1] * 5]}, "unknown argument 'atention_mask'; did you mean 'attention_mask'"),
            (FIVE | {"xyz": None}, "unknown argument 'xyz'; known: input_ids, "),
            (FIVE | {"encoder_hidden_states": EMBEDDINGS}, "encoder_hidden_states is not supported: .*cross-attention"),
            (FIVE | {"head_mask": [1]}, "head_mask is not supported"),
            (FIVE | {"cache": DynamicCache(), "past_key_values": DynamicCache()}, "two names of one argument"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_bad_arguments(self, model: GPTBigCodeForCausalLM, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            model(**arguments)

    def test_absent_arguments_may_be_none(self, model: GPTBigCodeForCausalLM) -> None:
        nothing = dict.fromkeys(("encoder_hidden_states", "encoder_attention_mask", "head_mask", "cache_position", "cache"))
        assert_same_bits(model([IDS], **nothing).logits, model([IDS]).logits)

    def test_masks_of_an_earlier_call(self, model: GPTBigCodeForCausalLM) -> None:
        cache = model([IDS, IDS], attention_mask=[[1] * 5, [0, 1, 1, 1, 1]]).past_key_values
        new = {"input_ids": [[1], [1]], "past_key_values": cache}
        with pytest.raises(InputError, match="2 rows and 5 past and 1 new columns"):
            model(attention_mask=[[1], [1]], **new)
        with pytest.raises(InputError, match="row 1, column 0 was padding in an earlier call, but attention_mask now marks it"):
            model(attention_mask=np.ones((2, 6)), **new)
        with pytest.raises(InputError, match="row 0, column 2 was a token in an earlier call, but attention_mask now masks it"):
            model(attention_mask=[[1, 1, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1]], **new)
        with pytest.raises(InputError, match="every new token is padding"):
            model(attention_mask=[[1] * 5 + [0], [0, 1, 1, 1, 1, 0]], **new)
        with pytest.raises(InputError, match="holds 2 rows, the call has 1"):
            model([[1]], past_key_values=cache)
        assert cache.get_seq_length() == 5

    def test_classifiers_of_texts(self, opened: Open) -> None:
        texts = opened(GPTBigCodeForSequenceClassification)
        with pytest.raises(InputError, match="row 1 is classified by its column 4, but attention_mask marks it"):
            texts([IDS, IDS], attention_mask=[[1] * 5, [1, 1, 1, 0, 0]])
        with pytest.raises(InputError, match="labels holds 1 classes, the batch has 2 rows"):
            texts([IDS, IDS], labels=[0])
        with pytest.raises(InputError, match=r"label 3 is neither in 0\.\.2"):
            texts([IDS], labels=[3])
        texts.config.problem_type = None
        texts.config.pad_token_id = None
        try:
            assert texts([IDS]).logits.shape == (1, 3)
            with pytest.raises(InputError, match=r"set model\.config\.pad_token_id"):
                texts([IDS, IDS])
        finally:
            texts.config.pad_token_id = 5

    def test_every_error_is_one_of_ours_and_a_value_error(self, model: GPTBigCodeForCausalLM) -> None:
        with pytest.raises(GPTBigCodeError) as caught:
            model([IDS], attention_mask=[[3] * 5])
        assert isinstance(caught.value, ValueError)


def test_padding_positions_are_documented_zeros(model: GPTBigCodeForCausalLM, tmp_path: Path) -> None:
    output = model([IDS], attention_mask=[[0, 0, 1, 1, 1]], output_hidden_states=True)
    assert not output.logits[0, :2].any()
    assert output.logits[0, 2:].any(axis=1).all()
    assert not np.stack(output.hidden_states)[:, 0, :2].any()

"""The compiled core: packed weights in, logits out.

Callers hand over validated numbers and array views; the core checks shapes once more and raises `InputError`, a ``ValueError``.
Every compute call releases the GIL. One `KVCache` may be used by one call at a time; a `Model` by any number of threads, but
not in a process that was forked after it was made (`ForkError`). Nothing here can be pickled or copied (`PicklingError`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

def cpu_features() -> list[str]:
    """CPU features that both the processor and the operating system offer, lower case (``avx2``, ``fma``, ...)."""

def kernel_names() -> list[str]:
    """Every kernel set in this build, best first; ``scalar`` is always the last."""

def supported_kernel_names() -> list[str]:
    """The kernel sets that this CPU can run, best first."""

def select_kernel(name: str = "") -> str:
    """The kernel set that `name` stands for: empty = ``GPTBIGCODE_CPU_ISA`` or else the best one.

    Raises:
        ValueError: The name is unknown, or this CPU lacks a feature it needs.
    """

def default_num_threads() -> int:
    """Threads used by default: performance cores in the affinity mask, bounded by the `cpu_quota` of the control groups."""

def cpu_quota(root: str = "") -> float:
    """CPUs' worth of time, the least that the control group of this process or one above it allows; ``inf`` = no limit.

    Args:
        root: A directory that takes the place of ``/``, for tests.
    """

def tile_shape(dtype: str, n: int, k: int) -> tuple[int, ...]:
    """Shape of the packed form of an ``[n, k]`` weight, see docs/format.md.

    ``int8``: uint8 ``[ceil(n/16), ceil(k/128), 2080]``; ``int6``: uint8 ``[ceil(n/16), ceil(k/128) * 1600 + 64]``;
    ``int4``: uint8 ``[ceil(n/16), ceil(k/128) * 1040 + 64]``;
    ``bfloat16``: uint16 ``[ceil(n/16), k, 16]``; ``float32``: float32 ``[ceil(n/16), k, 16]``.
    """

def pack_weight(
    weight: NDArray[Any], dtype: str, num_threads: int = 0, isa: str = "", feedback: NDArray[np.float32] | None = None
) -> NDArray[Any]:
    """Quantise and tile a weight matrix.

    Args:
        weight: ``[n, k]``, C-contiguous float32, float16, or uint16 holding the bits of bfloat16.
        dtype: ``int8``, ``int6``, ``int4``, ``bfloat16`` or ``float32``.
        num_threads: 0 = default.
        isa: Kernel set, see `select_kernel`; all give the same bytes.
        feedback: For int4 and int6, what is made of the error in each column, ``[k in whole blocks of 128, span]`` (`span` a
            multiple of 128): in row i, at ``j % span`` for a column j > i of the same span, what the error is multiplied with
            to be added to column j before that is coded, and at ``i % span`` the weight of an error in column i.

    Returns:
        The packed tiles, shape `tile_shape(dtype, n, k)`; rows can be packed in chunks of a multiple of 16 and concatenated.

    Raises:
        ValueError: Wrong type or shape, or a NaN or infinite element (the message gives its row and column).
    """

def unpack_weight(packed: NDArray[Any], dtype: str, n: int, k: int) -> NDArray[np.float32]:
    """The float32 ``[n, k]`` values that a packed weight stands for."""

def linear(
    packed: NDArray[Any],
    dtype: str,
    n: int,
    x: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    isa: str = "",
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """``x [m, k] @ weight[n, k].T + bias`` by one kernel set, for tests and measurements. Returns float32 ``[m, n]``."""

def activate(name: str, x: NDArray[np.float32], isa: str = "") -> NDArray[np.float32]:
    """An activation function by one kernel set, elementwise."""

def layer_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32], epsilon: float, isa: str = ""
) -> NDArray[np.float32]:
    """LayerNorm of the rows of ``x [m, k]`` by one kernel set."""

def attention(
    qkv: NDArray[np.float32],
    n_kv_head: int,
    kv_dtype: str,
    scale: float,
    n_queries: int,
    bias: NDArray[np.float32] | None = None,
    isa: str = "",
    num_threads: int = 1,
) -> NDArray[np.float32]:
    """Causal attention of the last tokens of a sequence by one kernel set, for tests and measurements.

    Args:
        qkv: ``[tokens, n_head + 2 * n_kv_head, head_dim]``: queries, keys, values of every token, as c_attn makes them.
        n_kv_head: Heads of the keys and of the values.
        kv_dtype: Storage type of keys and values: ``int8``, ``bfloat16``, ``float16`` or ``float32``.
        scale: Factor on the scores.
        n_queries: How many of the last tokens attend.
        bias: ``[n_head + 2 * n_kv_head, head_dim]``, what c_attn's bias is in `qkv`; changes the result only by rounding.

    Returns:
        float32 ``[n_queries, n_head, head_dim]``.
    """

class KernelTimer:
    """A call of a kernel that can be repeated, with all that it works on; what `time_linear` and its like return.

    One thread may use it at a time.
    """

    def measure(self, seconds: float) -> list[float]:
        """Repeat the call for so many seconds.

        Returns:
            The seconds of each call; of calls under 20 us the mean of several. The first call, which finds cold caches, counts
            only if it takes all the time.

        Raises:
            ValueError: Not in 0..3600.
        """

def time_linear(
    packed: Sequence[NDArray[Any]],
    dtype: str,
    n: int,
    x: NDArray[np.float32],
    halves: bool = False,
    isa: str = "",
    num_threads: int = 1,
) -> KernelTimer:
    """Time `linear`, without quantising `x`.

    Args:
        packed: Weights of one shape. Each call takes the next one: if they are larger than the caches together, all come from
            memory.
        halves: Add the second half of the rows to the first, as the head does.

    Raises:
        ValueError: As in `linear`; no weights; an odd number of rows with `halves`.
    """

def time_attention(
    qkv: NDArray[np.float32],
    n_kv_head: int,
    kv_dtype: str,
    n_queries: int,
    n_layer: int = 1,
    merge: bool = False,
    isa: str = "",
    num_threads: int = 1,
) -> KernelTimer:
    """Time `attention` of the last tokens, without writing the cache and without merging partial results.

    Args:
        n_layer: So many copies of keys and values, of which each call takes the next one.
        merge: Time the merging of partial results instead, on one thread.

    Raises:
        ValueError: As in `attention`.
    """

def time_rows(kernel: str, x: NDArray[np.float32], isa: str = "") -> KernelTimer:
    """Time a kernel that works on rows, one row after another, on one thread.

    Args:
        kernel: ``layer_norm``, ``quantize`` or ``activate``. The last is gelu_tanh, which works in place: give it values from 8
            on, which it leaves as they are; others shrink to denormal numbers.
        x: ``[m, k]``
    """

def kv_bytes_per_token(kv_dtype: str, n_layer: int, n_kv_head: int, head_dim: int) -> int:
    """Bytes that the keys and values of a token take in a `KVCache`, padding included."""

def activation_names() -> list[str]:
    """Names accepted as ``activation`` by `Model`, the ones transformers uses."""

def read(x: NDArray[np.float32], streams: int, isa: str = "") -> float:
    """The largest element, NaNs aside, found by reading `x` as 1, 2, 4 or 8 streams side by side."""

def measure_read_bandwidth(arrays: Sequence[NDArray[Any]], isa: str = "", num_threads: int = 0) -> float:
    """Bytes per second at which the threads together read the arrays: the limit of a decode step that computes on them.

    Best of several ways to read, one pass each.
    """

def measure_int8_peak(isa: str = "", num_threads: int = 0) -> float:
    """int8 multiply-adds per second that a kernel set's cheapest instructions reach on registers: the limit of a prefill."""

class Model:
    """Mapped weights, a kernel set and a thread pool.

    Args:
        tensors: Name -> array, as stored in a converted model.safetensors (docs/format.md). Not copied; kept alive.
        dtype: Storage type of the packed tensors that `dtypes` does not name.
        dtypes: Tensor name -> storage type.
        attention_scale: Factor on the scores, ``1/sqrt(head_dim)`` or 1.
        kv_dtype: Storage type of keys and values: ``int8``, ``bfloat16``, ``float16`` or ``float32``.
        num_threads: 0 = default.
        prefill_threads: For calls of more than 16 new tokens; 0 = `num_threads`.
        isa: Kernel set, see `select_kernel`.

    Raises:
        ValueError: A tensor is missing or has the wrong type or shape, or the kernel set is not available.
        ThreadLimitError: The operating system starts no more threads.
    """

    def __init__(
        self,
        tensors: dict[str, NDArray[Any]],
        *,
        dtype: str,
        dtypes: Mapping[str, str],
        vocab_size: int,
        n_positions: int,
        n_embd: int,
        n_layer: int,
        n_head: int,
        n_kv_head: int,
        n_inner: int,
        activation: str,
        layer_norm_epsilon: float,
        attention_scale: float,
        kv_dtype: str,
        num_threads: int = 0,
        prefill_threads: int = 0,
        isa: str = "",
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def prefill_threads(self) -> int: ...
    @property
    def kv_dtype(self) -> str: ...
    @property
    def kv_bytes_per_token(self) -> int: ...
    def kv_bytes(self, n_tokens: int) -> int:
        """Bytes of the keys and values of so many tokens in a cache, which holds whole blocks of 64 tokens."""

    @overload
    def forward(
        self,
        caches: Sequence[KVCache],
        tokens: Sequence[NDArray[np.int32]],
        logits_to_keep: Sequence[int],
        *,
        stop: StopFlag | None = None,
    ) -> NDArray[np.float32]: ...
    @overload
    def forward(
        self,
        caches: Sequence[KVCache],
        tokens: Sequence[NDArray[np.int32]],
        logits_to_keep: Sequence[int],
        hidden_states: Literal[True],
        *,
        stop: StopFlag | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    @overload
    def forward(
        self,
        caches: Sequence[KVCache],
        tokens: Sequence[NDArray[np.int32] | NDArray[np.float32]],
        logits_to_keep: Sequence[int],
        hidden_states: bool = False,
        *,
        last_hidden_state: bool = False,
        attentions: bool = False,
        position_ids: Sequence[NDArray[np.int32]] | None = None,
        stop: StopFlag | None = None,
    ) -> Any:
        """Run new tokens of several sequences; the only operation (prefill, decode, batch and scoring are its uses).

        Args:
            caches: One distinct cache per sequence; grown by its tokens. After an exception they are as before.
            tokens: Per sequence int32 ``[t_i]``, ``t_i >= 1``, or in place of their embeddings float32 ``[t_i, n_embd]``.
            logits_to_keep: Per sequence, how many of its last new tokens get logits, ``0 <= keep_i <= t_i``.
            hidden_states: Return these as well, like what follows; they change no bit of the logits.
            last_hidden_state: The last of these alone.
            attentions: What the softmax of attention gives, computed a second time in float32 and slowly.
            position_ids: Per sequence int32 ``[t_i]``: rows of the position embedding, in place of those that follow what the
                cache holds. What a token sees does not depend on them.
            stop: Once another thread sets it, the call ends before its next phase. A phase is a linear layer, or the attention
                of one layer, of up to 512 tokens. A call that waits for another one on the same model ends when its turn comes.

        Returns:
            The logits, float32 ``[sum(logits_to_keep), vocab_size]``, sequence after sequence, in token order. If more is asked
            for, a tuple of these and, in this order:

            - the hidden states, float32 ``[n_layer + 1, sum(t_i), n_embd]``: the embeddings, then the output of each block, the
              last one after ``ln_f``, as in transformers;
            - the last hidden state, float32 ``[sum(t_i), n_embd]``;
            - for every sequence its attentions, float32 ``[n_layer, n_head, t_i, tokens in the cache]``.

        Raises:
            ValueError: A token or position id outside its table, more tokens than ``n_positions``, bad counts, a cache of
                another model or given twice.
            ForkError: The process was forked after the model was made.
            StoppedError: `stop` was set.

        Calls that several threads make on one model run one after the other, in no certain order; each has all threads of the
        model. Signal handlers run between the layers of a prefill: Ctrl-C raises `KeyboardInterrupt`, and the caches are as
        before.
        """

    def embed(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Rows of the token embedding, float32 ``[t, n_embd]``, for int32 ``[t]``.

        Raises:
            ValueError: An id outside the vocabulary.
        """

    def start_profile(self) -> None:
        """Time every phase of the calls from now on."""

    def stop_profile(self) -> list[tuple[str, float, list[float]]]:
        """End it: for each kind of phase its name, its seconds, and the seconds that each thread was at work in it.

        Empty if no profile was started.
        """

class StopFlag:
    """A request to end a `Model.forward` early, which any thread can make. One flag may serve several calls."""

    def __init__(self) -> None: ...
    def set(self) -> None:
        """Ask every call that was given this flag to end, now and from now on."""
    def clear(self) -> None:
        """Take it back. A call that has seen the flag ends all the same."""
    @property
    def is_set(self) -> bool: ...

class TeamSize:
    """How many threads a model uses whose number was left open; for tests."""

    def __init__(self, most: int) -> None: ...
    @property
    def threads(self) -> int:
        """For the next call."""
    def report(self, work: int, seconds: float, switches: int) -> None:
        """Tell of a call: its work in any unit, its seconds, and how often threads lost a CPU meanwhile."""

class KVCache:
    """Keys and values of one sequence, in reference-counted blocks of 64 tokens."""

    def __init__(self, model: Model) -> None: ...
    def __len__(self) -> int:
        """Tokens held."""
    @property
    def nbytes(self) -> int:
        """Bytes of the blocks it refers to, shared ones included."""
    def fork(self) -> KVCache:
        """A second sequence with the same past; blocks are shared until one side writes to them."""
    def truncate(self, n_tokens: int) -> None:
        """Forget every token from position `n_tokens` on.

        Raises:
            ValueError: More tokens than it holds, or a negative number.
        """

class Sampler:
    """Chooses the next token. The same seed, logits and context give the same tokens on every CPU.

    Order, as in transformers: logit_bias, repetition_penalty, then greedy if temperature == 0, else temperature, top_k,
    top_p, min_p. Of equal logits the first token is the better one, for greedy and at the borders of top_k and top_p. Random
    numbers are those of ``std::mt19937_64``, seeded with `seed`. A token less likely than the best by 2**-126 is never drawn.

    Args:
        temperature: 0 = greedy.
        top_k: Keep the k best; 0 = off.
        top_p: Keep the smallest set whose probabilities reach p; 1 = off.
        min_p: Keep tokens with at least min_p times the best probability; 0 = off.
        repetition_penalty: Divide positive, multiply negative logits of tokens in the context; 1 = off.
        logit_bias: Token id -> addend.
        seed: 64-bit.
        isa: Kernel set, see `select_kernel`: that of the model whose logits it gets.

    Raises:
        ValueError: A parameter outside its range, or the kernel set is not available.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        logit_bias: Mapping[int, float] | None = None,
        seed: int = 0,
        isa: str = "",
    ) -> None: ...
    def sample(self, logits: NDArray[np.float32], context: NDArray[np.int32]) -> int:
        """Next token for ``logits [vocab]`` after ``context [n]`` (prompt and output so far, for the penalty)."""

class SuffixIndex:
    """Finds the longest end of a growing token sequence that occurred before in it."""

    def __init__(self) -> None: ...
    def __len__(self) -> int:
        """Tokens of the sequence."""

    def extend(self, tokens: NDArray[np.int32]) -> None:
        """Append tokens ``[n]``, in amortised constant time each."""

    def match(self, max_length: int) -> tuple[int, int]:
        """The longest match of at most `max_length` tokens.

        Returns:
            Its length, 0 = none, and where an earlier occurrence ended: the index of the token that followed it.
        """

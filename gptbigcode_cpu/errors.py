"""The exceptions of this package: one class per kind of problem, so that callers branch on classes, never on text.

Each also derives from the built-in exception that fits, so ``except ValueError`` and ``except OSError`` work as usual.
"""

from __future__ import annotations


class GPTBigCodeError(Exception):
    """Base class of every error raised on purpose by this package."""


class ConfigError(GPTBigCodeError, ValueError):
    """A ``config.json`` is malformed or asks for something that is not supported."""


class CheckpointError(GPTBigCodeError, ValueError):
    """A source checkpoint has missing, unexpected, misshapen or non-finite tensors, or cannot be parsed."""


class FormatError(GPTBigCodeError, ValueError):
    """A converted model directory is damaged, truncated or not of this format."""


class ModelNotFoundError(GPTBigCodeError, FileNotFoundError):
    """A model path or Hub id does not lead to a model."""


class TokenizerError(GPTBigCodeError, ValueError):
    """A tokenizer is missing, damaged or lacks a token that is needed (for example the fill-in-the-middle tokens)."""


class ContextLengthError(GPTBigCodeError, ValueError):
    """Prompt and requested tokens do not fit into ``n_positions``."""


class InputError(GPTBigCodeError, ValueError):
    """An argument of a call is wrong: empty prompt, token id out of range, zero or negative count, unknown option."""


class UnsupportedError(GPTBigCodeError, AttributeError, NotImplementedError):
    """Something that transformers' models can do and these cannot, such as training or moving to a GPU."""


class KernelError(GPTBigCodeError, RuntimeError):
    """A forced kernel set is unknown, or this CPU cannot run it."""


class DiskSpaceError(GPTBigCodeError, OSError):
    """The target file system is too small for the output; nothing was written."""


class MissingDependencyError(GPTBigCodeError, ImportError):
    """An optional dependency is needed; the message names the extra that installs it."""


class ForkError(GPTBigCodeError, RuntimeError):
    """A model is used in a process that was forked after the model was opened: its threads are not there."""


class ThreadLimitError(GPTBigCodeError, RuntimeError):
    """The operating system starts no more threads; the message says how many there are and which limits to look at."""


class StoppedError(GPTBigCodeError, RuntimeError):
    """A call of the core was ended early by its stop flag; the caches are as before the call."""


class PicklingError(GPTBigCodeError, TypeError):
    """A model, or something that belongs to one, cannot be pickled or deep-copied; the message says what to do instead."""

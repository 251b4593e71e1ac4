"""The exceptions of this package. Each kind of problem has its own class, so that callers need not compare messages.

Each class also derives from the matching built-in exception, so ``except ValueError`` and ``except OSError`` work as usual.
"""

from __future__ import annotations


class GPTBigCodeError(Exception):
    """Base class of every error raised on purpose by this package."""


class ConfigError(GPTBigCodeError, ValueError):
    """A ``config.json`` or ``generation_config.json`` is damaged, or asks for something that is not supported."""


class CheckpointError(GPTBigCodeError, ValueError):
    """A source checkpoint has missing, unexpected, misshapen or non-finite tensors, or cannot be parsed."""


class FormatError(GPTBigCodeError, ValueError):
    """The directory of a converted model is damaged, truncated or not in this package's format."""


class ModelNotFoundError(GPTBigCodeError, FileNotFoundError):
    """A model path or Hub id does not lead to a model."""


class TokenizerError(GPTBigCodeError, ValueError):
    """A tokenizer is missing, damaged or lacks a token that is needed (for example the fill-in-the-middle tokens)."""


class ContextLengthError(GPTBigCodeError, ValueError):
    """Prompt and requested tokens do not fit into ``n_positions``."""


class InputError(GPTBigCodeError, ValueError):
    """An argument is wrong, for example an empty prompt, a token id out of range, a negative count or an unknown option."""


class UnsupportedError(GPTBigCodeError, AttributeError, NotImplementedError):
    """A feature of transformers that this package does not have, such as training or moving a model to a GPU."""


class KernelError(GPTBigCodeError, RuntimeError):
    """The kernel set that was asked for is unknown, or this CPU cannot run it."""


class DiskSpaceError(GPTBigCodeError, OSError):
    """The target file system is too small for the output; nothing was written."""


class MissingDependencyError(GPTBigCodeError, ImportError):
    """An optional dependency is needed; the message names the extra that installs it."""


class ForkError(GPTBigCodeError, RuntimeError):
    """A model was loaded before a fork and is used in the forked process, which does not have the model's threads."""


class ThreadLimitError(GPTBigCodeError, RuntimeError):
    """The operating system does not start more threads; the message names the limits to check."""


class StoppedError(GPTBigCodeError, RuntimeError):
    """The stop flag ended a call of the core early; the kv caches are unchanged."""


class PicklingError(GPTBigCodeError, TypeError):
    """A model, or something that belongs to one, cannot be pickled or deep-copied; the message says what to do instead."""

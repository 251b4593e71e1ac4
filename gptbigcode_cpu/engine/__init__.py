"""The decoding engine: it takes requests, and every step generates tokens for all of them.

`engine.Engine` is the entry point, and `request` defines its requests. `decoding`, `rows` and `beam` hold the state of a
running request, `row` that of one sequence. `logits` holds the logits processors, `drafting` what guesses tokens ahead.
"""

"""Decoding: requests go in, and every step writes tokens for all of them.

`engine.Engine` is the door. `request` says what may be asked of it; `decoding` and `beam` are what a request becomes; `row` is
one sequence. `logits` holds what changes the scores before a token is chosen, `drafting` what guesses tokens ahead.
"""

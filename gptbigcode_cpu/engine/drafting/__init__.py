"""What guesses tokens, for speculative decoding."""

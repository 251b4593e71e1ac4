"""The converted model: its files, written completely or not at all."""

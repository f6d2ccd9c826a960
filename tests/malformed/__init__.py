"""Malformed input of every kind, made at random: each command takes it and is right, or refuses it in one message."""

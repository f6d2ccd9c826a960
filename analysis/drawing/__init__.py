"""How figures look, in one place."""

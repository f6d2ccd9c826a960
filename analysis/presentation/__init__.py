"""How tables and figures look, in one place."""

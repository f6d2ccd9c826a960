"""How every command refuses wrong input: one line on stderr, and exit code 2."""

from __future__ import annotations

import sys

LONGEST = 1500  # characters


def refused(error: Exception) -> int:
    """Print the error in one line, whatever names and values are in it; returns the exit code for wrong input."""
    text = str(error)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} ... ({len(text):,} characters)"
    print("error: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text), file=sys.stderr)
    return 2

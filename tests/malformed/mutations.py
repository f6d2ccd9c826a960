"""Random changes to contents: of mappings and lists as YAML or JSON hold them, of lines, and of bytes."""

from __future__ import annotations

import copy
import random
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, float("inf"), float("nan"), 0.5, -0.0,
    "", " ", "x", "0", "1e999", "null", "../..", "/dev/null", "a\nb", "\x00", "\u202e", "é" * 300, "${HOME}", "[1",
    "%s{0}", "<script>", [], {}, [[]], [None], {"a": 1}, {"choices": []}, {"low": 0, "high": 1}, [1, "a", None],
)  # fmt: skip


def changed_tree(content: Any, draw: random.Random, changes: int = 1) -> Any:
    """A copy with some values replaced, removed, doubled, renamed, exchanged or wrapped at random places."""
    content = {"": copy.deepcopy(content)}
    for _ in range(changes):
        parent, key = draw.choice(list(_places(content)))
        value = parent[key]
        match draw.randrange(6):
            case 0 | 1:
                parent[key] = copy.deepcopy(draw.choice(HOSTILE))
            case 2 if parent is not content:
                del parent[key]
            case 3 if isinstance(parent, dict) and parent is not content:
                parent[str(draw.choice(HOSTILE))] = parent.pop(key)
            case 4:
                parent[key] = [value] if draw.random() < 0.5 else {"choices": [value, value]}
            case _:
                other, there = draw.choice(list(_places(content)))
                parent[key] = copy.deepcopy(other[there])
    return content[""]


def _places(content: Any) -> Any:
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield content, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def changed_lines(content: bytes, draw: random.Random) -> bytes:
    """The content with a line removed, doubled, exchanged with another, emptied, cut short or replaced."""
    lines = content.splitlines(keepends=True) or [b"\n"]
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    match draw.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at] = lines[at][: draw.randrange(len(lines[at]))]
        case 4:
            lines[at] = draw.choice((b"\n", b"null\n", b"{}\n", b"[]\n", b"\xff\xfe\n", b"a,b\n", b'"\n', b"\x00\n"))
        case _:
            return b"".join(lines[: at + 1])
    return b"".join(lines)


def changed_bytes(content: bytes, draw: random.Random) -> bytes:
    """The content cut short, with some bytes replaced, removed or put in, or replaced as a whole."""
    data, at = bytearray(content), draw.randrange(len(content) + 1)
    length = draw.choice((1, 1, 2, 8, 64))
    match draw.randrange(5):
        case 0:
            del data[at:]
        case 1:
            data[at : at + length] = draw.randbytes(length)
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = draw.randbytes(length)
        case _:
            return draw.choice((b"", b"\x00", b"\xff" * 64, draw.randbytes(1000), b"PK\x03\x04", b"\x80\x04."))
    return bytes(data)

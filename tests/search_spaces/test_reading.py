"""YAML that would exhaust a parser, or is more than plain values."""

from itertools import pairwise
from pathlib import Path

import pytest

import search_spaces

BOMB = "a: &a [1, 1]\n" + "".join(f"{k}: &{k} [*{j}, *{j}, *{j}]\n" for j, k in pairwise("abcdefghijklm"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("? [a, b]\n: 1\n", "a key is no text in .*line 1"),
        ("? {a: b}\n: 1\n", "a key is no text"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' appears twice .*line 3"),
        ("study: " + "[" * 5000, "nested too deeply"),
        ("study: " + "{a: " * 5000, "nested too deeply"),
        (BOMB, "more than 20,000 values"),
        ("a: &a\n  b: *a\n", "nested too deeply"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: !!bool x\n", "KeyError"),
        ("a: !!timestamp x\n", "AttributeError"),
        ("a: 2026-99-01\n", "month must be in 1..12"),
    ],
)
def test_is_refused_with_the_file_and_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}: not readable as YAML: .*{reason}"):
        search_spaces.read(path)
    if "\n" not in text:
        with pytest.raises(ValueError, match=f"^--set .*: not YAML: .*{reason}"):
            search_spaces.override({}, [f"study={text}"])


def test_values_may_be_merged_and_keys_may_be_many() -> None:
    settings = ["a={b: &c {x: 1}, d: {<<: *c, y: 2}}", f"e={list(range(5000))}"]
    found = search_spaces.override({}, settings)
    assert found["a"]["d"] == {"x": 1, "y": 2}
    assert len(found["e"]) == 5000


def test_a_path_of_keys_that_is_very_long_is_refused() -> None:
    with pytest.raises(ValueError, match="no key is that deep"):
        search_spaces.override({}, [".".join(["a"] * 3000) + "=1"])

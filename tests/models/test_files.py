"""Files written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import pytest

from models.files import read_whole, replacing, write_whole


def test_text_and_bytes_in_a_folder_that_was_not_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "x", "före")
    assert (tmp_path / "new" / "x").read_bytes() == "före".encode()
    write_whole(tmp_path / "new" / "x", b"after")
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "new").iterdir()] == [("x", b"after")]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "x", "old")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "x", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x", "old")]


def test_what_another_writes_takes_the_place_only_if_all_went_well(tmp_path: Path) -> None:
    def write(refuse: Any) -> None:
        with replacing(tmp_path / "x.onnx") as temporary:
            assert (temporary.parent, temporary.suffix) == (tmp_path, ".onnx")
            temporary.write_text("new")
            if refuse:
                raise RuntimeError("not the network")

    write_whole(tmp_path / "x.onnx", "old")
    with pytest.raises(RuntimeError, match="not the network"):
        write(refuse=True)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.onnx", "old")]
    write(refuse=False)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.onnx", "new")]


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write_whole(tmp_path / "x", b"content")
    assert read_whole(tmp_path / "x") == b"content"
    for path, reason in [("pipe", "is a named pipe"), (".", "is a folder"), ("/dev/zero", "is a device")]:
        with pytest.raises(ValueError, match=f"{reason}, not a file"):
            read_whole(tmp_path / path)
    with pytest.raises(ValueError, match="nowhere: cannot be read: No such file"):
        read_whole(tmp_path / "nowhere")

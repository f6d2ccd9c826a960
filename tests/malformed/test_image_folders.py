"""Image folders with anything in them: every image that can be read is there, or the folder is refused."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import models
from study import evaluate
from study.data import damage, splits
from tests.malformed import mutations
from tests.malformed.rule import Ending, end_of

SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".gif", ".tif")


def picture(seed: int, suffix: str, size: int = 96, **how: Any) -> bytes:
    """A picture with much detail, so that nearly every byte of its file is of the pixels."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(256, size=(size // 4, size // 4, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)
    image.save(file, Image.registered_extensions()[suffix], **how)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of images of every kind, and beside them a network for these classes."""
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    # Only the images are looked at here, not what the network makes of them.
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: {"network": "net", "weights": "whole"})
    for name in ("a", "b"):
        (tmp_path / "images" / "train" / name).mkdir(parents=True)
        for number, suffix in enumerate(SUFFIXES):
            (tmp_path / "images" / "train" / name / f"{number}{suffix}").write_bytes(picture(number, suffix))
    about = {"num_classes": 2, "class_names": ["a", "b"], "mean": [0.5] * 3, "std": [0.5] * 3}
    card = {"model": "resnet8", "in_shape": [3, 8, 8], "dataset": "imagefolder", **about}
    models.save(tmp_path / "net", models.build("resnet8", 2, (3, 8, 8)), card)
    return tmp_path / "images"


def read(folder: Path) -> Ending:
    """The end of a command that reads the images."""
    return end_of(evaluate.main, [str(folder.parent / "net"), "--data-dir", str(folder)], folder)


def refusal(folder: Path) -> str:
    ending = read(folder)
    assert (ending.code, ending.broken) == (2, None), ending
    assert not [path for path in (folder.parent / "cache").glob("*") if not path.name.endswith(".lock")]
    return ending.err


def images(folder: Path) -> np.ndarray:
    """What the command has just read, from the cache."""
    found = splits.load("imagefolder", data_dir=folder, image_size=8).images
    assert isinstance(found, np.ndarray)
    return found


def test_what_has_an_images_name_and_is_no_file_is_named(folder: Path) -> None:
    path = folder / "train" / "a" / "x.png"
    os.mkfifo(path)
    assert f"1 of 13 images cannot be decoded: {path} (not a file)" in refusal(folder)
    path.unlink()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    assert f"{path} (not a file)" in refusal(folder)
    listening.close()
    path.unlink()
    for target in ("/dev/zero", "nowhere.png"):
        path.symlink_to(target)
        assert f"{path} (not a file)" in refusal(folder)
        path.unlink()


@pytest.mark.parametrize("target", [".", "..", "../..", "more", "../a/more"])
def test_a_folder_that_links_to_one_it_lies_in_is_named(folder: Path, target: str) -> None:
    (folder / "train" / "a" / "more").mkdir()
    (folder / "train" / "a" / "more" / "x.png").symlink_to("../1.png")
    link = folder / "train" / "a" / ("more/loop" if "more" in target else "loop")
    link.symlink_to(folder / "train" / "a" / target)
    assert "loop: links to a folder that it lies in" in refusal(folder)


def test_a_link_to_another_folder_is_followed_and_one_to_itself_is_refused(folder: Path) -> None:
    (folder / "train" / "a" / "copies").symlink_to("../b")
    assert read(folder).code == 0
    assert len(images(folder)) == 18
    shutil.rmtree(folder.parent / "cache")
    (folder / "train" / "a" / "self").symlink_to("self")
    assert "Too many levels of symbolic links" in refusal(folder)


def test_folders_may_lie_in_each_other_very_deep(folder: Path) -> None:
    """Deeper than functions may call each other."""
    chain = [f"{folder}/train/a" + "/d" * depth for depth in range(1, 1201)]
    for inner in chain:
        os.mkdir(inner)
    shutil.copy(folder / "train" / "a" / "0.jpg", chain[-1])
    try:
        assert len(images(folder)) == 13
    finally:
        os.unlink(f"{chain[-1]}/0.jpg")
        for inner in reversed(chain):  # pytest would take them away by a function that calls itself
            os.rmdir(inner)


@pytest.mark.parametrize("name", [b"\xff.png", b"\xe9 \n.png", "日本.png".encode(), b"[red].png", b"a%s{0}.png"])
def test_a_file_may_have_any_name(folder: Path, name: bytes) -> None:
    place = os.path.join(os.fsencode(folder), b"train", b"a", name)
    with open(place, "wb") as file:
        file.write(picture(50, ".png"))
    ending = read(folder)
    assert (ending.code, ending.broken) == (0, None), ending
    assert len(images(folder)) == 13
    shutil.rmtree(folder.parent / "cache")
    with open(place, "wb") as file:
        file.write(b"no image")
    assert "1 of 13 images cannot be decoded" in refusal(folder)


@pytest.mark.parametrize("name", [b"\xff", b"a\nb", b"\x1b[31m"])
def test_a_class_has_a_name_that_can_be_printed(folder: Path, name: bytes) -> None:
    (folder / "train" / "b").rename(folder / "train" / os.fsdecode(name))
    assert "has a name that is no text" in refusal(folder)


def test_a_folder_of_images_has_a_name_that_can_be_printed(folder: Path) -> None:
    assert "its name is no text" in refusal(folder.rename(folder.with_name(os.fsdecode(b"\xff"))))


def test_a_picture_that_changed_since_it_was_cached_is_read_again(folder: Path) -> None:
    path = folder / "train" / "a" / "3.bmp"
    assert read(folder).code == 0
    before, was = images(folder), path.stat()
    content = picture(77, ".bmp")
    assert len(content) == was.st_size
    path.write_bytes(content)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns + 1))  # of the same size and a nanosecond newer
    assert read(folder).code == 0
    after = images(folder)
    assert [row for row in range(12) if not np.array_equal(before[row], after[row])] == [3]


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_damaged_jpegs_are_counted_once_and_used(folder: Path, how: dict[str, Any]) -> None:
    names = [folder / "train" / name / f"big{number}.jpg" for name in "ab" for number in range(3)]
    for number, path in enumerate(names):
        content = bytearray(picture(number, ".jpg", 400, **how))
        if number in (1, 4):
            middle = len(content) // 2
            content[middle : middle + 400] = random.Random(number).randbytes(500).replace(b"\xff", b"")
        path.write_bytes(content)
    ending = read(folder)
    assert (ending.code, ending.err, ending.broken) == (0, "", None), ending
    said = f"warning: 2 of 18 images are damaged and used as they decode; the first is {str(names[1])!r}\n"
    assert ending.out.count(said) == ending.out.count("warning") == 1
    assert len(images(folder)) == 18
    assert "warning" not in read(folder).out


def test_what_is_said_on_stderr_meanwhile_is_not_of_an_image(folder: Path) -> None:
    """Nothing is found damaged for words of others that come before and after."""
    os.write(2, b"before\n")
    paths = [str(path) for path in (folder / "train").rglob("*.jpg")]
    assert damage.damaged(paths, map) == []
    whole = Path(paths[0]).read_bytes()
    Path(paths[0]).write_bytes(whole[:-40] + whole[-2:])
    assert damage.damaged(paths, map) == [paths[0]]


def changed_folder(folder: Path, draw: random.Random) -> int:
    """Change one thing; returns how many images there are then, if all of them can be read."""
    path = draw.choice([path for path in (folder / "train").rglob("*") if path.is_file()])
    there = len(SUFFIXES) * 2
    match draw.randrange(9):
        case 0:
            path.unlink()
            return there - 1
        case 1:
            path.rename(path.with_suffix(draw.choice((".txt", "", ".PNG", ".jpg", ".pgm"))))
            return there - (not [p for p in path.parent.glob(path.stem + ".*") if p.suffix not in (".txt", "")])
        case 2:
            path.unlink()
            draw.choice((os.mkfifo, os.mkdir, lambda p: os.symlink(p, p)))(path)
            return there - 1
        case 3:
            shutil.rmtree(path.parent)
            return 0
        case 4:
            name = draw.choice([value for value in mutations.HOSTILE if isinstance(value, str) and "\x00" not in value])
            shutil.copy(path, path.parent / f"x{name.replace('/', '_')[:80]}.png")
            return there + 1
        case _:
            path.write_bytes(mutations.changed_bytes(path.read_bytes(), draw))
            return there


@pytest.mark.parametrize(("seed", "cases"), [(0, 30), pytest.param(1, 1200, marks=pytest.mark.slow)])
def test_any_image_folder_is_right_or_refused(folder: Path, seed: int, cases: int) -> None:
    draw, spare = random.Random(seed), folder.with_name("spare")
    folder.rename(spare)
    for case in range(cases):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(spare, folder)
        there = changed_folder(folder, draw)
        ending = read(folder)
        assert not ending.broken, f"case {case}: {ending.broken}"
        if ending.code == 0:
            assert len(images(folder)) == there, f"case {case}"
        shutil.rmtree(folder.parent / "cache", ignore_errors=True)

"""Images as people have them: other names of folders, no folders, tables of labels, functions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from study.data.splits import load, overview
from tests.study.data.test_sources import COLOURS, fill


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


def read(folder: Path, **options: Any) -> Any:
    return load("imagefolder", data_dir=folder, **{"image_size": 8, **options})


def colours_of(data: Any, rows: np.ndarray) -> list[tuple[int, int, int]]:
    return [tuple(pixel) for pixel in data.images[rows][:, 4, 4].tolist()]


def said(folder: Path, **options: Any) -> str:
    return str(overview("imagefolder", data_dir=folder, **{"image_size": 8, **options}))


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "val", "test"), ("Training_Set", "validation", "Test-Set"), ("training", "valid", "testing")],
)
def test_parts_may_have_any_of_their_usual_names(folder: Path, train: str, validation: str, test: str) -> None:
    for name, count in ((train, 10), (validation, 4), (test, 3)):
        fill(folder / name, count)
    data = read(folder)
    assert data.given_validation
    assert [len(part) for part in (data.train, data.validation, data.test)] == [30, 12, 9]
    # Of each part, the first pixel holds the number of the image in its class.
    assert sorted(data.images[data.validation][:, 0, 0, 0].tolist()) == sorted([0, 1, 2, 3] * 3)
    for part in (data.train, data.validation, data.test):
        assert colours_of(data, part) == [COLOURS[data.class_names[label]] for label in data.labels[part]]
    text = "images: 30 to train on, 12 for validation, 9 for test; 3 classes; 8x8x3 pixels"
    assert said(folder) == text


def test_given_validation_images_are_used_whatever_the_share_and_the_seed(folder: Path) -> None:
    for name, count in (("train", 10), ("val", 4)):
        fill(folder / name, count)
    one, other = read(folder), read(folder, seed=5, validation=0.5)
    assert np.array_equal(one.validation, other.validation)
    assert [len(part) for part in (one.train, one.validation, one.test)] == [24, 12, 6]
    assert set(one.test) <= set(range(30))  # cut from train
    assert "12 for validation, 6 for test cut from train" in said(folder)


def test_classes_may_lie_side_by_side(folder: Path) -> None:
    fill(folder, 10)
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("no image")
    data = read(folder)
    assert data.class_names == ("blue", "green", "red")
    assert "no folder train, so its 3 folders are the classes" in said(folder)
    assert "'notes' not used" in said(folder)


def test_what_is_not_used_is_said(folder: Path) -> None:
    fill(folder / "train", 10)
    (folder / "test").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "test" / "1.png")
    for number in range(7):
        (folder / f"extra{number}").mkdir()
    text = said(folder)
    assert f"note: {folder}: 'extra0', 'extra1', 'extra2', 'extra3', 'extra4' and 2 more not used" in text
    assert f"note: {folder / 'test'}: no folders of classes in it, so nothing of it is used" in text
    assert "6 for test cut from train" in text


def test_a_part_that_is_there_twice_is_refused(folder: Path) -> None:
    fill(folder / "train", 10)
    fill(folder / "training", 10)
    with pytest.raises(ValueError, match="holds both train and training; keep one of them"):
        read(folder)


def table(folder: Path, text: str, name: str = "labels.csv") -> None:
    """Twelve grey images, whose shade is twenty times their number, and a table."""
    (folder / "pictures").mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * number,) * 3).save(folder / "pictures" / f"im{number}.png")
    (folder / name).write_text(text)


def shades(data: Any) -> dict[int, str]:
    return {int(i[0, 0, 0]) // 20: data.class_names[k] for i, k in zip(data.images, data.labels, strict=True)}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image,label", "im{0}.png,{1}"),
        ("\ufeffID;Class", "im{0};{1}"),
        ("label\tpath\tother", "{1}\tpictures/im{0}.png\tx"),
        ('file,"category"', '"./pictures/im{0}.png"," {1} "'),
    ],
)
def test_labels_may_stand_in_a_table(folder: Path, header: str, row: str) -> None:
    names = ["cat", "dog", "10", "9"]
    lines = [row.format(number, names[number % 4]) for number in range(10)]
    table(folder, "\n".join([header, *lines]))
    data = read(folder, labels="labels.csv")
    assert data.class_names == ("9", "10", "cat", "dog")
    assert shades(data) == {number: names[number % 4] for number in range(10)}
    assert "2 images have no row in labels.csv and are not used" in said(folder, labels="labels.csv")
    assert read(folder, labels=str(folder / "labels.csv")).fingerprint == data.fingerprint


def test_a_table_may_say_which_part_an_image_is_of(folder: Path) -> None:
    parts = ["train"] * 6 + ["valid"] * 2 + ["Test"] * 4
    table(folder, "name,class,split\n" + "".join(f"im{n}.png,{'ab'[n % 2]},{parts[n]}\n" for n in range(12)))
    data = read(folder, labels="labels.csv")
    assert [data.images[part][:, 0, 0, 0].tolist() for part in (data.train, data.validation, data.test)] == [
        [0, 20, 40, 60, 80, 100],
        [120, 140],
        [160, 180, 200, 220],
    ]
    before = data.fingerprint
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace("im0.png,a", "im0.png,b"))
    assert read(folder, labels="labels.csv").fingerprint != before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no rows"),
        ("name,class\n", "no rows"),
        ("name,kind\nim0.png,a", r"none of its columns \(name, kind\) is named label, "),
        ("picture,label\nim0.png,a", r"none of its columns \(picture, label\) is named filename, "),
        ("name,label\nim0.png,a\nim1.png,\n", "line 3: 'im1.png' has no label"),
        ("name,label\nim0.png,a\nim1.png,b,c\n", "line 3: more cells than the header has columns"),
        ("name,label\nim0.png,a\nim1.png,b\nim0,b\n", "line 4: 'im0' has a row already"),
        ("name,label\nim0.png,a\nim1.png,a\n", r"one class only \(a\)"),
        ("name,label\nim0.png,a\nno.png,b\nim1,b\n", r"1 images are not in .*: 'no.png' \(line 3\)"),
        ("name,label,split\nim0.png,a,train\nim1.png,b,later\n", "line 3: split 'later'; choices: train, validation, "),
        ("name,label,split\nim0.png,a,train\nim1.png,b,test\n", "no image to train on of class b"),
        ("name,label\nsame,a\nim1.png,b\n", "line 2: 'same' is the name of 2 files; write paths"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_line(folder: Path, text: str, reason: str) -> None:
    table(folder, text)
    for place in (".", "pictures"):
        Image.new("RGB", (8, 8)).save(folder / place / "same.png")
    with pytest.raises(ValueError, match=f"labels.csv: {reason}"):
        read(folder, labels="labels.csv")
    with pytest.raises(ValueError, match=r"other.csv: no such file"):
        read(folder, labels="other.csv")


OWN = """
import numpy as np
from torch.utils.data import Dataset

class Part(Dataset):
    classes = ["dark", "light"]
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, row): return np.full((6, 9, 3), 255 * (row % 2), np.uint8), row % 2

def parts(data_dir): return Part(10), Part(4), Part(6)
def two(data_dir): return [(np.zeros((5, 5), np.uint8), row % 3) for row in range(30)], Part(6)
def fails(data_dir): raise KeyError(data_dir)
def one(data_dir): return Part(10)
def floats(data_dir): return [(np.zeros((5, 5)), row % 2) for row in range(30)], Part(6)
def unlabelled(data_dir): return [np.zeros((5, 5)) for row in range(30)], Part(6)
def beyond(data_dir): return Part(10), [(np.zeros((5, 5), np.uint8), 2)]
"""


def own(tmp_path: Path, function: str, **options: Any) -> Any:
    (tmp_path / "sets.py").write_text(OWN)
    return load(f"{tmp_path / 'sets.py'}:{function}", image_size=8, **options)


def test_a_function_may_give_the_images(tmp_path: Path) -> None:
    data = own(tmp_path, "parts", data_dir=tmp_path)
    assert data.class_names == ("dark", "light")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [10, 4, 6]
    assert data.images.shape == (20, 8, 8, 3)
    assert np.array_equal(data.images, np.repeat(255 * data.labels, 192).reshape(20, 8, 8, 3))
    data = own(tmp_path, "two")
    assert (data.class_names, len(data.validation), len(data.test)) == (("0", "1", "2"), 3, 6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("fails", r"fails: raised KeyError"),
        ("one", r"one: gave Part; expected \(train, test\)"),
        ("floats", r"30 of 36 images cannot be decoded: .*image 0 \(TypeError\)"),
        ("unlabelled", r"expected a whole number for each of 30 images"),
        ("beyond", r"labels from 0 to 2 for 2 classes"),
        ("nothing", r"has no function 'nothing'"),
    ],
)
def test_a_function_that_gives_something_else_is_refused(tmp_path: Path, function: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        own(tmp_path, function)
    assert not list((tmp_path / "cache").glob("own-*"))


def test_the_shorter_side_may_be_resized_and_the_centre_cut_out(folder: Path) -> None:
    """Of an image of three squares side by side, the middle one stays."""
    for number, name in enumerate(("a", "b")):
        (folder / "train" / name).mkdir(parents=True)
        for count in range(10):
            image = Image.new("RGB", (60, 20), (255, 0, 0))
            image.paste((0, 0, 255), (20, 0, 40, 20))
            (image if number else image.rotate(90, expand=True)).save(folder / "train" / name / f"{count}.png")
    cropped, squeezed = read(folder, resize="crop"), read(folder)
    assert (cropped.images[:, 1:-1, 1:-1] == [0, 0, 255]).all()  # edges are mixed with what lies beyond
    assert (squeezed.images[-1][4, 0] == [255, 0, 0]).all()
    assert cropped.fingerprint != squeezed.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_a_large_set_is_decoded_without_being_held_in_memory(tmp_path: Path, folder: Path, large: bool) -> None:
    """The memory of a process that decodes 240 MB of images grows by far less."""
    fill(folder / "train", 67 if large else 4, size=(20, 20))
    script = """
import resource, sys, torch
import PIL.Image
from study.data.splits import load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load("imagefolder", data_dir=sys.argv[1], image_size=632)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    grown = float(subprocess.check_output([sys.executable, "-c", script, str(folder)], text=True).split()[-1])
    assert grown < 120, "MB"

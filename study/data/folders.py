"""Image folders as people have them: which files are there, of which class, for training, validation and test."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
# Names of the folders, and of the parts in a table of labels; capitals and "-" for "_" are the same.
PARTS = {
    "train": ("train", "training", "train_set", "training_set", "trainset"),
    "validation": ("val", "valid", "validation", "val_set", "validation_set", "valset", "dev"),
    "test": ("test", "testing", "test_set", "testset"),
}
NAME_COLUMNS = ("filename", "file_name", "file", "image", "image_id", "image_name", "path", "name", "id", "img")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
PART_COLUMNS = ("split", "set", "subset", "part", "partition")


class File(NamedTuple):
    """An image file with size and mtime, to detect changes."""

    path: str
    size: int
    mtime_ns: int


class Listing(NamedTuple):
    """The files of a data set.

    Attributes:
      classes: names, sorted.
      files: of each part (train, validation, test), in the order of `labels`; a part may be empty, but not train.
      labels: of each part, indices into `classes`.
      notes: what was found that people should know, such as what was ignored.
    """

    classes: list[str]
    files: dict[str, list[File]]
    labels: dict[str, list[int]]
    notes: tuple[str, ...]


def by_class(data_dir: Path) -> Listing:
    """Images in a folder per class: data_dir/train/<class>/*, and likewise for validation and test if they are there.

    Without a folder for training, the folders in `data_dir` are the classes. Hidden files and folders are skipped.
    Raises ValueError if there are fewer than two classes, a class without images, or parts of different classes.
    """
    found = _parts(data_dir)
    notes = []
    if "train" in found:
        used = {path.name for path in found.values()}
        classes = {part: _classes(path) for part, path in found.items()}
        for part in [part for part in ("validation", "test") if part in found and not classes[part]]:
            notes.append(f"{found[part]}: no folders of classes in it, so nothing of it is used")
            del classes[part]
    else:
        beside = _entries(data_dir) if data_dir.is_dir() else ()
        inside = {entry.name for entry in beside if entry.is_dir() and any(_files(entry.path))}
        if len(inside) < 2 or found:
            raise ValueError(f"{data_dir / 'train'}: no such folder; images are expected as {_expected(data_dir)}")
        used, found = inside, {"train": data_dir}
        classes = {"train": {name: files for name, files in _classes(data_dir).items() if name in inside}}
        notes.append(f"{data_dir}: no folder train, so its {len(inside):,} folders are the classes")
    ignored = [entry.name for entry in _entries(data_dir) if entry.name not in used]
    if ignored:
        listed = ", ".join(map(repr, ignored[:5])) + (len(ignored) > 5) * f" and {len(ignored) - 5:,} more"
        notes.append(f"{data_dir}: {listed} not used")
    _check_classes(found, classes)
    names = list(classes["train"])
    files = {part: [file for name in names for file in held[name]] for part, held in classes.items()}
    labels = {part: [i for i, name in enumerate(names) for _ in held[name]] for part, held in classes.items()}
    return Listing(names, files, labels, tuple(notes))


def _expected(data_dir: Path) -> str:
    return f"{data_dir}/train/<class>/<name>.jpg"


def _parts(data_dir: Path) -> dict[str, Path]:
    """The folders of the parts, by any of their usual names."""
    found: dict[str, Path] = {}
    for entry in _entries(data_dir) if data_dir.is_dir() else ():
        part = _part(entry.name)
        if part and entry.is_dir():
            if part in found:
                raise ValueError(f"{data_dir}: holds both {found[part].name} and {entry.name}; keep one of them")
            found[part] = data_dir / entry.name
    return {part: found[part] for part in PARTS if part in found}


def _part(name: str) -> str | None:
    """The part that a folder or a cell of a table is named after."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    return next((part for part, names in PARTS.items() if plain in names), None)


def _classes(folder: Path) -> dict[str, list[File]]:
    return {entry.name: list(_files(entry.path)) for entry in _entries(folder) if entry.is_dir()}


def _check_classes(folders: Mapping[str, Path], classes: Mapping[str, Mapping[str, Sequence[File]]]) -> None:
    train = classes["train"]
    if len(train) < 2:
        found = f"one class only ({', '.join(train)})" if train else "no class (a sub-folder of images each)"
        raise ValueError(f"{folders['train']}: holds {found}; at least two classes are needed")
    for part, held in classes.items():
        if wrong := [name for name in held if not name.isprintable()]:
            raise ValueError(f"{folders[part]}: the class {wrong[0]!r} has a name that is no text; rename the folder")
        if empty := [name for name, files in held.items() if not files]:
            raise ValueError(
                f"{folders[part]}: no image in {', '.join(empty)}; known extensions: {' '.join(sorted(EXTENSIONS))}"
            )
        if unmatched := sorted(set(train) ^ set(held)):
            raise ValueError(
                f"{folders[part].parent}: {folders['train'].name} and {folders[part].name} differ in their classes: "
                f"{', '.join(unmatched)} is in only one of them"
            )


def by_table(data_dir: Path, table: str) -> Listing:
    """Images anywhere in `data_dir`, whose classes (and perhaps parts) stand in a CSV file.

    A row names an image by its path in `data_dir`, by its file's name, or by that without the extension.

    Args:
      data_dir: folder of the images.
      table: path of the CSV file, in `data_dir` or absolute. Its columns are found by their names.

    Raises:
      ValueError: there is no such file or column, or a row that cannot be used; with its line.
    """
    path = data_dir / Path(table).expanduser()
    rows = _rows(path)
    classes = sorted({row.label for row in rows}, key=_natural)
    if len(classes) < 2:
        raise ValueError(f"{path}: one class only ({classes[0]}); at least two are needed")
    number = {name: index for index, name in enumerate(classes)}
    every = list(_files(str(data_dir)))
    known = _by_name(every, data_dir)
    files: dict[str, list[File]] = {part: [] for part in PARTS}
    labels: dict[str, list[int]] = {part: [] for part in PARTS}
    missing: list[str] = []
    taken: set[str] = set()
    for row in rows:
        found = known.get(os.path.normpath(row.name), [])
        if len(found) > 1:
            raise ValueError(f"{path}: line {row.line}: {row.name!r} is the name of {len(found)} files; write paths")
        if found and found[0].path in taken:
            raise ValueError(f"{path}: line {row.line}: {row.name!r} has a row already")
        missing += [f"{row.name!r} (line {row.line})"] if not found else []
        taken.update(file.path for file in found)
        files[row.part] += found
        labels[row.part].append(number[row.label])
    if missing:
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        raise ValueError(f"{path}: {len(missing):,} images are not in {data_dir}: {', '.join(missing[:5])}{more}")
    if absent := sorted(set(range(len(classes))) - set(labels["train"])):
        raise ValueError(f"{path}: no image to train on of class {classes[absent[0]]}")
    spare = len(every) - len(taken)
    notes = (f"{data_dir}: {spare:,} images have no row in {path.name} and are not used",) if spare else ()
    given = [part for part in PARTS if files[part]]
    return Listing(classes, {p: files[p] for p in given}, {p: labels[p] for p in given}, notes)


def _by_name(files: Iterable[File], data_dir: Path) -> dict[str, list[File]]:
    """The files by all names that a table may call them by."""
    known: dict[str, list[File]] = {}
    for file in files:
        relative = os.path.relpath(file.path, data_dir)
        for name in {relative, os.path.basename(relative), os.path.splitext(os.path.basename(relative))[0]}:
            known.setdefault(name, []).append(file)
    return known


class _Row(NamedTuple):
    """A row of a table of labels."""

    line: int
    name: str
    label: str
    part: str


def _rows(path: Path) -> list[_Row]:
    """The rows of a table of labels, whose columns are divided by commas, semicolons or tabs."""
    cells = _cells(path)
    header = list(cells[0][1])
    name_column, label_column = _column(path, header, NAME_COLUMNS), _column(path, header, LABEL_COLUMNS)
    part_column = next((column for column in header if column.strip().lower() in PART_COLUMNS), None)
    rows = []
    for line, row in cells:
        name, label = row[name_column].strip(), row[label_column].strip()
        if not label or not label.isprintable():
            raise ValueError(f"{path}: line {line}: {name!r} has no {label_column}")
        said = row[part_column] if part_column else "train"
        part = _part(said)
        if part is None:
            raise ValueError(f"{path}: line {line}: {part_column} {said!r}; choices: {', '.join(PARTS)}")
        rows.append(_Row(line, name, label, part))
    return rows


def _cells(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Each row of a CSV file as column -> cell, with its line number."""
    try:
        if not path.is_file():
            raise ValueError(f"{path}: no such file (baseline.labels)")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text: {error}") from None
    divider = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=divider, restval="", restkey="")
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: {error}") from None
    if not rows:
        raise ValueError(f"{path}: no rows; a header and a row per image are expected")
    if extra := [line for line, row in rows if "" in row]:
        raise ValueError(f"{path}: line {extra[0]}: more cells than the header has columns")
    return rows


def _column(path: Path, header: Sequence[str], names: Sequence[str]) -> str:
    for name in names:
        for column in header:
            if column.strip().lower().replace(" ", "_") == name:
                return column
    raise ValueError(f"{path}: none of its columns ({', '.join(header)}) is named {', '.join(names)}")


def _natural(name: str) -> tuple[bool, int, str]:
    """Sorts numbers by their value, before text."""
    return (False, int(name), name) if name.isdecimal() and len(name) < 19 else (True, 0, name)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


def _files(folder: str) -> Iterator[File]:
    around = {_identity(os.stat(path)) for path in (Path(folder), *Path(folder).parents)}
    pending = [(entry, around) for entry in reversed(_entries(folder))]
    while pending:  # not recursive: folders may lie in each other a thousand deep
        entry, above = pending.pop()
        if entry.is_dir():
            if (own := _identity(entry.stat())) in above:
                raise ValueError(f"{entry.path}: links to a folder that it lies in; remove the link")
            pending += [(inner, above | {own}) for inner in reversed(_entries(entry.path))]
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            # Broken links are listed too, so that decoding reports them as unreadable.
            stat = entry.stat(follow_symlinks=entry.is_file())
            yield File(entry.path, stat.st_size, stat.st_mtime_ns)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino

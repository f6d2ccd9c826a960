"""Data sets by name.

To add one: write a function ImageOptions -> Source and add it to DATASETS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from models import own_functions
from study.data import decoding, folders
from study.data.cache import Source, Write, cache_dir
from study.data.decoding import Resize

DIGITS_IMAGES = 1797
CIFAR_IMAGES = (50_000, 10_000)  # train, test
# Data sets whose images keep their class when they are mirrored: a mirrored digit is another one, or none.
MIRRORED = frozenset({"cifar10", "cifar100"})
DECODED = 64 * 2**30  # bytes of decoded images above which the cache keeps JPEGs instead
LABEL_ATTRIBUTES = ("targets", "labels", "_labels")  # where torchvision's data sets have the labels of all images


class ImageOptions(NamedTuple):
    """What a study file and a command say about the images.

    Attributes:
      data_dir: folder of the images; required by imagefolder.
      image_size: pixels of a side; required by imagefolder and by data sets of one's own, fixed for the others.
      resize: how images get that size; see `study.data.decoding.fitted`.
      labels: CSV file with the classes of an imagefolder's images, instead of a folder per class.
      store: how the cache keeps images: pixels (`decoded`), `jpeg`, or (`auto`) JPEG if pixels take over DECODED bytes.
      cache: cache folder.
    """

    data_dir: Path | None = None
    image_size: int | None = None
    resize: Resize = "squeeze"
    labels: str | None = None
    store: Literal["auto", "decoded", "jpeg"] = "auto"
    cache: Path | None = None


def find(dataset: str, options: ImageOptions) -> Source:
    """The `Source` of a data set; lists files but reads no image.

    Args:
      dataset: a name in DATASETS, or a function of the user's: see `_own`.
      options: where the images are, and what becomes of them.

    Raises:
      ValueError: unknown data set, or options that do not fit it.
    """
    if dataset not in DATASETS and ":" not in dataset:
        raise ValueError(f"dataset {dataset!r} is unknown; choose from {', '.join(DATASETS)}, {own_functions.FORMS}")
    folder = Path(options.data_dir).expanduser().resolve() if options.data_dir is not None else None
    read = DATASETS.get(dataset) or partial(_own, dataset)
    source = read(options._replace(data_dir=folder, cache=cache_dir(options.cache)))
    large = options.store == "auto" and np.prod(source.images, dtype=np.int64) > DECODED
    return source._replace(jpeg=options.store == "jpeg" or bool(large))


def _digits(options: ImageOptions) -> Source:
    """Handwritten digits bundled with scikit-learn: 1,797 images of 8x8x1 (Alpaydin and Kaynak 1998)."""
    _fixed("digits", 8, options)
    if options.data_dir is not None:
        raise ValueError(
            f"digits come with scikit-learn, not from {options.data_dir}; to read images there use imagefolder"
        )

    def read(write: Write) -> tuple[np.ndarray, list[str]]:
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        write(0, np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None])
        return digits.target, [str(name) for name in digits.target_names]

    return Source((8, 8, 1), 10, DIGITS_IMAGES, 0, {"dataset": "digits"}, read)


def _cifar(name: str, classes: int, options: ImageOptions) -> Source:
    """CIFAR-10 or -100 from torchvision, stored in `data_dir` (default: the cache); downloaded if missing."""
    _fixed(name, 32, options)
    root = options.data_dir or options.cache

    def read(write: Write) -> tuple[np.ndarray, list[str]]:
        from torchvision import datasets

        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        try:
            train, test = (kind(root, train=train, download=True) for train in (True, False))
        except Exception as error:  # network, archive or disk
            raise ValueError(
                f"{name} could not be downloaded to {root} ({type(error).__name__}: {error}). "
                f"Without network: --data-dir DIR with {kind.base_folder} in DIR; or images of your own, "
                "DIR/train/<class>/*.jpg, with dataset: imagefolder and --data-dir DIR"
            ) from error
        write(0, train.data)
        write(len(train.data), test.data)
        return np.array(train.targets + test.targets), list(train.classes)

    return Source((32, 32, 3), classes, *CIFAR_IMAGES, {"dataset": name}, read)


def _imagefolder(options: ImageOptions) -> Source:
    """A folder of images in one of the layouts of `study.data.folders`; what is not there is split off from train."""
    data_dir, size = options.data_dir, options.image_size
    if data_dir is None:
        raise ValueError("imagefolder needs --data-dir DIR, with images as DIR/train/<class>/<name>.jpg")
    if not str(data_dir).isprintable():  # it is written to study.yaml
        raise ValueError(f"--data-dir {str(data_dir)!r}: its name is no text; rename the folder")
    size = _size("imagefolder", options)
    found = folders.by_table(data_dir, options.labels) if options.labels else folders.by_class(data_dir)
    files = list(chain.from_iterable(found.files[part] for part in folders.PARTS if part in found.files))
    labels = np.concatenate([found.labels[part] for part in folders.PARTS if part in found.labels])
    counts = [len(found.files.get(part, ())) for part in folders.PARTS]

    def read(write: Write) -> tuple[np.ndarray, list[str]]:
        decoding.decode_files([file.path for file in files], size, options.resize, write)
        return labels, found.classes

    key = {"dataset": "imagefolder", "image_size": size, "folder": str(data_dir), "files": files} | _resized(options)
    if options.labels or counts[1]:
        key["labels"] = hashlib.sha256(repr((found.classes, counts, labels.tolist())).encode()).hexdigest()
    train, validation, test = counts
    return Source((size, size, 3), len(found.classes), train, test, key, read, validation, notes=found.notes)


def _own(name: str, options: ImageOptions) -> Source:
    """A data set that a user's function gives: function(data_dir) -> (train, test) or (train, validation, test).

    Each part is a sequence of pairs (image, label), such as a data set of torchvision: images of PIL or uint8 arrays
    (H, W) or (H, W, C), labels from 0 on. If a part has `classes`, those are the names of the classes.
    """
    size = _size(name, options)
    given = own_functions.called(own_functions.imported(name, "dataset"), f"dataset {name}:", options.data_dir)
    parts = list(given) if isinstance(given, (tuple, list)) else []
    if len(parts) not in (2, 3) or not all(hasattr(part, "__len__") for part in parts):
        raise ValueError(
            f"dataset {name}: gave {type(given).__name__}; expected (train, test) or (train, validation, test), each a "
            "sequence of pairs (image, label)"
        )
    parts[1:1] = [()] * (3 - len(parts))  # no validation images
    if not len(parts[0]):
        raise ValueError(f"dataset {name}: gave no images to train on")
    labels = np.concatenate([_labels(name, part) for part in parts])
    names = [str(n) for n in getattr(parts[0], "classes", None) or range(int(labels.max()) + 1)]
    if labels.min() < 0 or labels.max() >= len(names) or len(names) < 2:
        raise ValueError(
            f"dataset {name}: labels from {labels.min()} to {labels.max()} for {len(names)} classes; at least two "
            "classes are needed, and labels from 0 on"
        )
    starts = np.cumsum([0, *map(len, parts)])

    def image(row: int) -> np.ndarray:
        part = int(np.searchsorted(starts, row, "right")) - 1
        found = parts[part][row - int(starts[part])][0]
        return decoding.fitted(found if isinstance(found, Image.Image) else _picture(found), size, options.resize)

    def read(write: Write) -> tuple[np.ndarray, list[str]]:
        decoding.decode_all(len(labels), size, image, lambda row: f"dataset {name}: image {row}", write)
        return labels, names

    source = own_functions.source(name)
    key = {
        "dataset": "own", "name": name, "folder": str(options.data_dir), "image_size": size,
        "counts": [len(part) for part in parts], "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        "source": hashlib.sha256(source.read_bytes()).hexdigest() if source else None,
    }  # fmt: skip
    train, validation, test = map(len, parts)
    return Source((size, size, 3), len(names), train, test, key | _resized(options), read, validation)


def _labels(name: str, part: Sequence[Any]) -> np.ndarray:
    """The labels of a part, int64 (N,), without reading its images where it has them apart."""
    found = next((held for held in (getattr(part, key, None) for key in LABEL_ATTRIBUTES) if held is not None), None)
    try:
        labels = np.asarray([part[row][1] for row in range(len(part))] if found is None else found)
    except Exception as error:  # a user's code may raise anything
        raise ValueError(f"dataset {name}: is no sequence of (image, label): {type(error).__name__}: {error}") from None
    if labels.shape != (len(part),) or (len(labels) and labels.dtype.kind not in "iu"):
        raise ValueError(f"dataset {name}: labels of shape {labels.shape} and type {labels.dtype}; expected a whole "
                         f"number for each of {len(part)} images")  # fmt: skip
    return labels.astype(np.int64)


def _picture(found: Any) -> Image.Image:
    """A user's array as an image; raises what Pillow raises for one that is none."""
    array = np.asarray(found)
    if array.dtype != np.uint8:
        raise TypeError(f"{array.dtype} instead of uint8")
    return Image.fromarray(array.squeeze(2) if array.ndim == 3 and array.shape[2] == 1 else array)


def _size(dataset: str, options: ImageOptions) -> int:
    if options.image_size is None or options.image_size < 1:
        raise ValueError(
            f"{dataset} needs image_size, the pixels to which images are resized; got {options.image_size}"
        )
    return options.image_size


def _resized(options: ImageOptions) -> dict[str, str]:
    """The part of a cache key that says how images are resized."""
    return {} if options.resize == "squeeze" else {"resize": options.resize}


def _fixed(dataset: str, size: int, options: ImageOptions) -> None:
    if options.image_size not in (None, size):
        raise ValueError(
            f"{dataset} has images of {size} pixels, not image_size {options.image_size}; only imagefolder resizes"
        )


DATASETS: dict[str, Callable[[ImageOptions], Source]] = {
    "digits": _digits,
    "cifar10": partial(_cifar, "cifar10", 10),
    "cifar100": partial(_cifar, "cifar100", 100),
    "imagefolder": _imagefolder,
}

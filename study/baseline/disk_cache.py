"""On-disk cache of baselines, keyed by a hash of everything that determines them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

import models
from analysis.statistics.baseline import at_chance, flattered
from models import packages
from models.files import replacing
from study.baseline.network import Baseline, arrays
from study.baseline.training import SEED
from study.config import BaselineSection
from study.data import cache as datasets
from study.data.splits import Data
from study.data.transforms import Augmentation
from study.training import precision
from study.training.epochs import Row, epoch_line

FORMAT = 3  # increase when the meaning of a cached baseline changes
# Keys that baselines kept before do not know.
LATER = ("init_from", "weights", "init_missing", "freeze", "mean", "std", "resize", "labels", "store")
CORRECT = "correct.npy"  # whether the network classifies each test image correctly, beside it
BOOLEAN = {Augmentation(True, True): True, Augmentation(): False}  # as which baselines kept before know these two


def key(section: BaselineSection, data: Data) -> str:
    """Hash of everything that determines the baseline's weights and measured accuracies."""
    usual = {name: BaselineSection.model_fields[name].default for name in LATER}
    settings = {
        name: value for name, value in section.model_dump().items() if name not in usual or value != usual[name]
    }
    settings["augment"] = BOOLEAN.get(section.augmentation, settings["augment"])
    parts: dict[str, Any] = {"format": FORMAT, **settings, "data": data.fingerprint}
    if forced := precision.forced_precision():
        parts["precision"] = forced
    for name in ("checkpoint", "init_from"):
        if path := getattr(section, name):
            parts[name] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if packages.holds(section.model):
        parts["package"] = version(section.model.partition("/")[0])
    if ":" in section.model:
        if source := models.source(section.model):
            parts["source"] = hashlib.sha256(source.read_bytes()).hexdigest()
        parts["initial"] = _initial(section.model, len(data.class_names), data.in_shape)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _initial(name: str, num_classes: int, in_shape: tuple[int, int, int]) -> str | None:
    """Hash of the weights that a user's function gives to its network: it may read them from a file.

    None where they differ from call to call in spite of torch's seed, so that they say nothing.
    """
    hashes = set()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for _ in range(2):
            torch.manual_seed(SEED)
            found = hashlib.sha256()
            for key, tensor in models.build(name, num_classes, in_shape).state_dict().items():
                found.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            hashes.add(found.hexdigest())
    return hashes.pop() if len(hashes) == 1 else None


def obtain(section: BaselineSection, data: Data, make: Callable[[], Iterator[Row | Baseline]]) -> Baseline:
    """The cached baseline; if there is none, run `make`, print its epochs, and cache the baseline it yields last."""
    folder = _folder(section, data)
    with _training_lock(folder):
        baseline = _load(folder)
        if baseline is None:
            print(f"baseline: {section.model} on {section.dataset}, {len(data.train):,} images", flush=True)
            for item in make():
                if isinstance(item, Baseline):
                    baseline = item
                else:
                    minutes = item["seconds"] * (section.epochs - item["epoch"]) / 60
                    left = f", {minutes:.0f} min left" if minutes >= 1 else ""
                    print(f"  {epoch_line(item, section.epochs)}{left}", flush=True)
            assert baseline is not None
            _save(folder, baseline)
    card = baseline.card
    print(
        f"baseline: accuracy {card['accuracy']:.4f} (validation), {card['test_accuracy']:.4f} (test), "
        f"{card['params']:,} parameters, {card['macs']:,} MACs, {card['latency_ms']:.2f} ms; kept in {folder}"
    )
    if seen := flattered(section.model_dump(), card):
        print(f"note: {seen}")
    if chance := at_chance(card):
        print(f"warning: {chance}; raise baseline.epochs, or check the weights that it was given")
    if card.get("normalisation"):
        print(f"warning: {card['normalisation']}")
    if (gain := _late_gain(card["history"])) > 0.005:
        print(f"warning: the baseline still gained {100 * gain:.1f} points in its last tenth; raise baseline.epochs")
    return baseline


def _late_gain(history: list[Row]) -> float:
    """Validation accuracy gained over the last tenth of the epochs."""
    tenth = max(1, len(history) // 10)
    return history[-1]["accuracy"] - history[-1 - tenth]["accuracy"] if len(history) > tenth else 0.0


def _folder(section: BaselineSection, data: Data) -> Path:
    return datasets.cache_dir() / "baselines" / key(section, data)


def _load(folder: Path) -> Baseline | None:
    """The baseline cached in `folder`; None if missing or damaged."""
    try:
        model, card = models.load(folder)
    except (ValueError, OSError):
        return None
    try:
        correct = np.load(folder / CORRECT, allow_pickle=False)
    except (ValueError, OSError, EOFError):  # kept by a version that did not ask
        correct = None
    return Baseline(arrays(model), card, correct)


def _save(folder: Path, baseline: Baseline) -> None:
    models.save(folder, {name: torch.tensor(a) for name, a in baseline.state.items()}, baseline.card)
    if baseline.correct is not None:
        with replacing(folder / CORRECT) as temporary:
            np.save(temporary, baseline.correct)


def _training_lock(folder: Path) -> FileLock:
    """Exclusive lock between studies for training the baseline of `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_suffix(".lock"))

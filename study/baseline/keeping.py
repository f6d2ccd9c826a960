"""On-disk cache of baselines, keyed by a hash of everything that determines them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

import models
from study.baseline.network import Baseline, arrays
from study.config import BaselineSection
from study.data import cache as datasets
from study.data.splits import Data
from study.training import precision
from study.training.epochs import Row, epoch_line

FORMAT = 3  # increase when the meaning of a cached baseline changes


def key(section: BaselineSection, data: Data) -> str:
    """Hash of everything that determines the baseline's weights and measured accuracies."""
    parts: dict[str, Any] = {"format": FORMAT, **section.model_dump(), "data": data.fingerprint}
    if forced := precision.forced_precision():
        parts["precision"] = forced
    if section.checkpoint:
        parts["checkpoint"] = hashlib.sha256(Path(section.checkpoint).read_bytes()).hexdigest()
    if ":" in section.model and (source := models.source(section.model)):
        parts["source"] = hashlib.sha256(source.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


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
                    print(f"  {epoch_line(item, section.epochs)}", flush=True)
            assert baseline is not None
            _save(folder, baseline)
    card = baseline.card
    print(
        f"baseline: accuracy {card['accuracy']:.4f} (validation), {card['test_accuracy']:.4f} (test), "
        f"{card['params']:,} parameters, {card['macs']:,} MACs, {card['latency_ms']:.2f} ms; kept in {folder}"
    )
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
    return Baseline(arrays(model), card)


def _save(folder: Path, baseline: Baseline) -> None:
    models.save(folder, {name: torch.tensor(a) for name, a in baseline.state.items()}, baseline.card)


def _training_lock(folder: Path) -> FileLock:
    """Exclusive lock between studies for training the baseline of `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_suffix(".lock"))

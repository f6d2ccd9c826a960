"""The dense network that trials start from: trained once or loaded, and kept under a key of what determines it."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import models
from pruning import cost
from pruning.latency import measure_latency
from study import data as datasets
from study import training
from study.config import BaselineSection
from study.data import Data
from study.maps import layer_scores
from study.view import epoch_line

Record = dict[str, Any]
SEED = 0  # one baseline for all studies of the same section, whatever their own seeds
FORMAT = 3  # to be raised when the meaning of a kept baseline changes


@dataclass(frozen=True)
class Baseline:
    """Weights of the dense network as arrays (shared between workers without a copy), and its card."""

    state: dict[str, np.ndarray]
    card: dict[str, Any]

    def network(self, device: torch.device) -> nn.Module:
        """A private copy of the network on `device`."""
        model = models.build(self.card["model"], self.card["num_classes"], tuple(self.card["in_shape"]))
        # torch.tensor copies: the arrays belong to all trials of this node.
        model.load_state_dict({name: torch.tensor(array) for name, array in self.state.items()})
        return training.placed(model, device)


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The state of `model` as arrays on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def card_of(section: BaselineSection, data: Data) -> dict[str, Any]:
    """What a saved network must carry to be built and fed again."""
    return {
        "model": section.model,
        "num_classes": len(data.class_names),
        "in_shape": list(data.in_shape),
        "class_names": list(data.class_names),
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
    }


def key(section: BaselineSection, data: Data) -> str:
    """Hash of everything that determines the baseline's weights and its measured accuracies."""
    parts: dict[str, Any] = {"format": FORMAT, **section.model_dump(), "data": data.fingerprint}
    if forced := training.forced_precision():
        parts["precision"] = forced
    if section.checkpoint:
        parts["checkpoint"] = hashlib.sha256(Path(section.checkpoint).read_bytes()).hexdigest()
    if ":" in section.model:
        found = importlib.util.find_spec(section.model.split(":")[0])
        if found and found.origin:
            parts["source"] = hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def check(section: BaselineSection, data: Data) -> nn.Module:
    """The network, built and its checkpoint read, to find what is wrong before anything runs (ValueError)."""
    model = models.build(section.model, len(data.class_names), data.in_shape)
    if section.checkpoint:
        model.load_state_dict(_read_checkpoint(section.checkpoint, model))
    return model


def _read_checkpoint(path: str, model: nn.Module) -> dict[str, torch.Tensor]:
    where = f"baseline.checkpoint: {path}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; all mean the same to the user
        raise ValueError(f"{where}: not readable as a state_dict: {str(error).splitlines()[0]}") from None
    if not isinstance(state, Mapping):
        raise ValueError(f"{where}: holds a {type(state).__name__}, not a state_dict")
    own = model.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own:
            raise ValueError(f"{where}: {name!r} is only in the {'model' if name in own else 'checkpoint'}")
        if own[name].shape != state[name].shape:
            raise ValueError(f"{where}: {name!r} is {tuple(state[name].shape)}, the model's {tuple(own[name].shape)}")
    return dict(state)


def make(section: BaselineSection, data: Data, device: torch.device) -> Iterator[Record | Baseline]:
    """Train (or load the checkpoint) and measure: yields a record per epoch, and at last the `Baseline`."""
    torch.manual_seed(SEED)
    images = training.on_device(data, device)
    train, validation, test = (training.rows_of(r, device) for r in (data.train, data.validation, data.test))
    model = models.build(section.model, len(data.class_names), data.in_shape)
    training.placed(model, device)
    history: list[Record] = []
    if section.checkpoint:
        model.load_state_dict(_read_checkpoint(section.checkpoint, model))
    else:
        for record in epochs(section, model, images, train, validation, SEED):
            history.append(record)
            yield record
    example = images.batch(validation[:1])[0]
    probe = training.rows_of(datasets.calibration(data, min(512, len(data.train)), SEED), device)
    yield Baseline(
        arrays(model),
        card_of(section, data)
        | {
            "accuracy": training.evaluate(model, images, validation),
            "test_accuracy": training.evaluate(model, images, test),
            "params": cost.parameters(model),
            "macs": cost.macs(model, data.in_shape),
            "size_bytes": cost.size_bytes(model),
            "latency_ms": measure_latency({"dense": model}, example)["dense"].median,
            "seconds": sum(record["seconds"] for record in history),
            "history": history,
            "layers": cost.layer_costs(model, data.in_shape),
            "layer_scores": layer_scores(model, [images.batch(rows) for rows in probe.split(128)]),
        },
    )


def epochs(
    section: BaselineSection,
    model: nn.Module,
    images: training.Images,
    train: torch.Tensor,
    validation: torch.Tensor,
    seed: int,
) -> Iterator[Record]:
    """Train `model` as the section says; yields epoch, train_loss, accuracy (validation) and seconds after each."""
    optimizer = training.sgd(model.parameters(), section.lr, section.weight_decay)
    batches = training.endless_batches(images, train, section.batch_size, section.augment, seed)
    steps = training.steps_per_epoch(len(train), section.batch_size)
    for epoch in range(section.epochs):
        started = time.perf_counter()
        rates = [
            section.lr * training.one_cycle(step / (section.epochs * steps))
            for step in range(epoch * steps, (epoch + 1) * steps)
        ]
        smoothing, thin = section.label_smoothing, training.slimming(model, section.bn_l1)
        loss = training.train(model, batches, optimizer, rates, label_smoothing=smoothing, before_step=thin)
        accuracy = training.evaluate(model, images, validation)
        yield {
            "epoch": epoch + 1,
            "train_loss": loss,
            "accuracy": accuracy,
            "seconds": time.perf_counter() - started,
        }


def read_data(section: BaselineSection, data_dir: str | Path | None) -> Data:
    """The data set of a study file, split for all its trials alike. Raises ValueError for wrong input."""
    return datasets.load(
        section.dataset,
        data_dir=data_dir,
        image_size=section.image_size,
        train_samples=section.train_samples,
        validation=section.validation,
        seed=SEED,
    )


def obtain(section: BaselineSection, data: Data, make: Callable[[], Iterator[Record | Baseline]]) -> Baseline:
    """The kept baseline; if there is none, the one that `make` yields last, its epochs shown as they pass."""
    folder = _folder(section, data)
    with _reserved(folder):
        baseline = _load(folder)
        if baseline is None:
            print(f"baseline: {section.model} on {section.dataset}, {len(data.train):,} images", flush=True)
            for record in make():
                if isinstance(record, Baseline):
                    baseline = record
                else:
                    print(f"  {epoch_line(record, section.epochs)}", flush=True)
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


def save(folder: Path, baseline: Baseline, about: Mapping[str, Any]) -> None:
    """Write the dense network as `models.save` does any, with what is `about` it beside what its card must have."""
    tensors = {name: torch.tensor(array) for name, array in baseline.state.items()}
    card = {key: baseline.card[key] for key in ("model", "num_classes", "in_shape", "class_names", "mean", "std")}
    models.save(folder, tensors, {**card, **about})


def _late_gain(history: list[Record]) -> float:
    """Validation accuracy gained over the last tenth of the epochs."""
    tenth = max(1, len(history) // 10)
    return history[-1]["accuracy"] - history[-1 - tenth]["accuracy"] if len(history) > tenth else 0.0


def _folder(section: BaselineSection, data: Data) -> Path:
    return datasets.cache_dir() / "baselines" / key(section, data)


def _load(folder: Path) -> Baseline | None:
    """The baseline kept in `folder`; None if there is none, or what is there is damaged."""
    try:
        model, card = models.load(folder)
    except (ValueError, OSError):
        return None
    return Baseline(arrays(model), card)


def _save(folder: Path, baseline: Baseline) -> None:
    models.save(folder, {name: torch.tensor(a) for name, a in baseline.state.items()}, baseline.card)


@contextmanager
def _reserved(folder: Path) -> Iterator[None]:
    """Holds the right to train the baseline of `folder`; a second study waits here until the first is done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

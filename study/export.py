"""A saved network as one file for other programs, ONNX or torch's exported program: checked, then timed.

    python -m study.export results/quickstart --trial best --format onnx
    python -m study.export results/schedules --trial 0012 --format exported_program --out NETWORKS

DIR is a results folder. The file takes images, float32 (batch, channels, height, width), any batch, normalised as the
network was trained: (pixel / 255 - mean) / std, with the mean and std that the file carries. It gives logits (batch,
classes). Before it gets its name it classifies all test images beside the network in PyTorch, on the CPU in fp32: where
a single top-1 class differs, there is no file. Then both are timed at batch 1 on one thread, and the dense network too.
Exit codes: 0 done, 1 torch cannot export the network or the file is not the same network, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import models
from analysis import results_folder as frame
from analysis.figures import fronts
from models.files import replacing
from models.formats import FORMATS, About, Format, Run
from pruning.measure.latency import measure_latency
from study.baseline import making
from study.config import parse
from study.evaluate import images_for, show
from study.training import device_data

CPU = torch.device("cpu")
BATCH = 500  # images at once while a file is checked


class Job(NamedTuple):
    """What is exported where, and what it is checked on. dense: what it is timed beside."""

    trial: str
    network: nn.Module
    dense: nn.Module | None
    about: About
    images: device_data.Images
    test: Tensor
    form: Format
    path: Path


class Agreement(NamedTuple):
    """Images compared, how many of them got another top-1 class, and the largest difference of a logit."""

    images: int
    differ: int
    difference: float

    def __str__(self) -> str:
        same = f"top-1 differs on {self.differ:,} of" if self.differ else "same top-1 on all"
        return f"{same} {self.images:,} test images, largest difference of the logits {self.difference:.1e}"


@torch.inference_mode()
def compare(network: nn.Module, run: Run, images: device_data.Images, rows: Tensor) -> Agreement:
    """What `run` gives on the images of `rows`, batch by batch, beside what `network` gives (CPU, fp32)."""
    differ, difference = 0, torch.zeros(())
    for chosen in rows.split(BATCH):
        inputs = images.batch(chosen)[0].contiguous()
        ours, theirs = network(inputs), run(inputs)
        differ += int((ours.argmax(1) != theirs.argmax(1)).sum())
        difference = torch.maximum(difference, (ours - theirs).abs().max())  # a NaN stays, as Python's max lets it not
    return Agreement(len(rows), differ, difference.item())


def export(network: nn.Module, form: Format, path: Path, images: device_data.Images, rows: Tensor, about: About) -> str:
    """Write `network` (on the CPU, in eval mode) to `path`, whole or not at all; what the check found, for a person.

    Raises RuntimeError where the file gives another top-1 class on any image of `rows`, or what is no number, and
    whatever torch raises for a network that it cannot export.
    """
    with replacing(path) as temporary:
        form.write(network, _example(images, 2), about, temporary)
        found = compare(network, form.open(temporary), images, rows)
        if found.differ or not math.isfinite(found.difference):
            raise RuntimeError(f"the {form.engine} is not the network: {found}")
    return f"{form.engine} against PyTorch: {found}"


def latencies(networks: Mapping[str, nn.Module], form: Format, images: device_data.Images) -> list[dict[str, Any]]:
    """A row for each network: milliseconds at batch 1 in PyTorch and in the format's engine, all taken in turn.

    Of two networks a third row says how often the second one's time goes into the first one's. fp32, on the CPU.
    """
    timed: dict[str, nn.Module] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, network in networks.items():
            path = Path(folder, name + form.suffix)
            form.write(network, _example(images, 2), {}, path)
            timed |= {f"{name} in PyTorch": network, f"{name} in {form.engine}": _Running(form.open(path))}
        found = measure_latency(timed, _example(images, 1), seconds=0.2, least=50)
    rows = [{at: found[f"{name} in {at}"].median for at in ("PyTorch", form.engine)} for name in networks]
    if len(rows) == 2:
        rows.append({at: rows[0][at] / rows[1][at] for at in rows[0]})
    return [{"ms": name} | row for name, row in zip([*networks, "speedup"], rows, strict=False)]


class _Running(nn.Module):
    """A file as a module, for `measure_latency`.

    `eval` does not reach what runs it (exported programs refuse it): in a tuple, it is no submodule.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = (run,)

    def forward(self, images: Tensor) -> Tensor:
        """What the file gives on `images`."""
        return self._run[0](images)


def _example(images: device_data.Images, batch: int) -> Tensor:
    return images.batch(torch.arange(batch))[0].contiguous()


def chosen(results: frame.Results, trial: str) -> str:
    """The id of the saved trial that `trial` names: itself; `best`, by validation accuracy; `knee`, the front figure's.

    `best` is of the search, feasible, and saved. Raises ValueError, naming what is saved, where there is none.
    """
    saved = sorted(card.parent.name for card in (results.folder / "models").glob("*/card.json"))
    if not saved:
        raise ValueError(f"{results.folder}: holds no saved networks (study.save: none, or no trial was complete)")
    found = _best(results, saved) if trial == "best" else _knee(results) if trial == "knee" else trial
    if found in saved:
        return found
    why = "there is no such trial"
    if found is None:
        why = "no feasible network is saved" if trial == "best" else "this study's front has no knee"
    elif found in set(results.trials["trial_id"]):
        why = f"the network of {found} was not kept"
    raise ValueError(f"--trial {trial}: {why}; saved: {', '.join(saved)}")


def _best(results: frame.Results, saved: list[str]) -> str | None:
    rows = frame.candidates(results.trials)
    rows = rows[rows["feasible"].fillna(True).astype(bool) & rows["trial_id"].isin(saved)]
    rows = rows.dropna(subset=["accuracy"]).sort_values("accuracy", ascending=False, kind="stable")
    return None if rows.empty else str(rows["trial_id"].iloc[0])


def _knee(results: frame.Results) -> str | None:
    index = fronts.knee(results)
    return None if index is None else str(results.trials["trial_id"].loc[index])


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    args = _arguments().parse_args(argv)
    torch.set_num_threads(1)
    try:
        job = _read(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        _deliver(job)
    except Exception as error:  # torch's exporters raise nearly anything, over many lines
        reason = " ".join(str(error).split())[:500]
        print(f"error: the export of trial {job.trial} failed: {type(error).__name__}: {reason}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m study.export", description="Write a saved network as one file.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder")
    parser.add_argument("--trial", metavar="ID|best|knee", required=True, help="which of its saved networks")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--out", metavar="PATH", type=Path, help="a file, or a folder; default DIR/models/<trial_id>")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the images are, if not where they were")
    return parser


def _read(args: argparse.Namespace) -> Job:
    form = FORMATS[args.format]
    if missing := [name for name in form.needs if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"--format {args.format} needs {', '.join(missing)}; install the extra: pip install '.[export]'"
        )
    results = frame.read(args.folder)
    trial = chosen(results, args.trial)
    folder = args.folder / "models" / trial
    network, card = models.load(folder)
    section = parse(results.study, str(args.folder / "study.yaml")).baseline
    data = making.read_data(section, args.data_dir or results.record.get("data_dir"))
    images = images_for(folder, card, data, CPU)
    about = {key: json.dumps(card[key]) for key in ("mean", "std", "class_names")} | {"trial_id": trial}
    baseline = args.folder / "baseline"
    dense = models.load(baseline)[0] if baseline.exists() else None
    path = _place(args.out or folder, f"{results.study['study']['name']}_{trial}", form.suffix)
    return Job(trial, network, dense, about, images, device_data.rows_of(data.test, CPU), form, path)


def _place(out: Path, name: str, suffix: str) -> Path:
    """The file that `out` names, or `name` in the folder that it names, which is made."""
    if out.suffix and out.suffix != suffix and not out.is_dir():
        raise ValueError(f"--out {out}: the file should end in {suffix}, or be a folder")
    path = out if out.suffix == suffix and not out.is_dir() else out / (name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _deliver(job: Job) -> None:
    found = export(job.network, job.form, job.path, job.images, job.test, job.about)
    print(f"trial {job.trial}: {job.path} ({job.path.stat().st_size:,} bytes)\n{found}")
    dense = {} if job.dense is None else {"dense": job.dense}
    show(latencies({**dense, "pruned": job.network}, job.form, job.images))
    if job.dense is None:
        print("dense: left out; the folder holds no baseline")


if __name__ == "__main__":
    sys.exit(main())

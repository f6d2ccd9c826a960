"""Export a saved network to ONNX or torch's exported program; the file is checked, then timed.

    python -m study.export results/quickstart --trial best --format onnx
    python -m study.export results/schedules --trial 0012 --format exported_program --out NETWORKS

DIR is a results folder. The file takes float32 images (batch, channels, height, width) with any batch size, normalised
as in training: (pixel / 255 - mean) / std, with mean and std stored in the file. It returns logits (batch, classes).
The file is kept only if it agrees with PyTorch on the top-1 class of every test image (CPU, fp32). Then both, and the
dense network, are timed at batch 1 on one thread.
Exit codes: 0 done, 1 torch cannot export the network or the file disagrees with it, 2 the input is wrong.
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
from analysis import results_folder
from analysis.figures import fronts
from analysis.refusal import refused
from models.files import replacing
from models.formats import FORMATS, About, Format, Run
from pruning.measure.latency import measure_latency
from study.baseline import training
from study.config import parse
from study.evaluate import images_for, show
from study.results import provenance
from study.training import device_data

CPU = torch.device("cpu")
BATCH = 500  # images per batch when a file is checked


class Job(NamedTuple):
    """One export.

    Attributes:
      trial: id of the trial.
      network: of the trial, on the CPU.
      dense: the dense network, timed for comparison; None if the folder has no baseline.
      about: metadata written to the file.
      images: normalised images of the data set.
      test: rows of the test images.
      form: the format.
      path: of the file.
    """

    trial: str
    network: nn.Module
    dense: nn.Module | None
    about: About
    images: device_data.Images
    test: Tensor
    form: Format
    path: Path


class Agreement(NamedTuple):
    """Number of images compared, how many have another top-1 class, and the largest difference of a logit."""

    images: int
    differ: int
    difference: float

    def __str__(self) -> str:
        same = f"top-1 differs on {self.differ:,} of" if self.differ else "same top-1 on all"
        return f"{same} {self.images:,} test images, largest difference of the logits {self.difference:.1e}"


@torch.inference_mode()
def compare(network: nn.Module, run: Run, images: device_data.Images, rows: Tensor) -> Agreement:
    """Compare the outputs of an exported network with the original's (CPU, fp32).

    Args:
      network: the original.
      run: the exported network: images -> logits.
      images: of the data set.
      rows: of the images to compare on.
    """
    differ, difference = 0, torch.zeros(())
    for chosen in rows.split(BATCH):
        inputs = images.batch(chosen)[0].contiguous()
        expected, actual = network(inputs), run(inputs)
        differ += int((expected.argmax(1) != actual.argmax(1)).sum())
        difference = torch.maximum(difference, (expected - actual).abs().max())  # keeps NaN, unlike Python's max
    return Agreement(len(rows), differ, difference.item())


def export(network: nn.Module, form: Format, path: Path, images: device_data.Images, rows: Tensor, about: About) -> str:
    """Write a network to a file atomically, after checking the file; returns a message with the check's result.

    Args:
      network: on the CPU, in eval mode.
      form: the format.
      path: of the file.
      images: of the data set.
      rows: of the images to check on.
      about: metadata written to the file.

    Raises:
      RuntimeError: the file gives another top-1 class for an image, or non-finite logits.
      Exception: whatever torch raises for a network that it cannot export.
    """
    with replacing(path) as temporary:
        form.write(network, _example(images, 2), about, temporary)
        found = compare(network, form.open(temporary), images, rows)
        if found.differ or not math.isfinite(found.difference):
            raise RuntimeError(f"the {form.engine} disagrees with the network: {found}")
    return f"{form.engine} against PyTorch: {found}"


def latencies(networks: Mapping[str, nn.Module], form: Format, images: device_data.Images) -> list[dict[str, Any]]:
    """Latencies at batch 1 in ms, a row per network: in PyTorch and in the format's engine, measured in turn.

    For two networks, a third row has the speedup: the first network's time divided by the second's. fp32, on the CPU.
    """
    timed: dict[str, nn.Module] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, network in networks.items():
            path = Path(folder, name + form.suffix)
            form.write(network, _example(images, 2), {}, path)
            timed |= {f"{name} in PyTorch": network, f"{name} in {form.engine}": _EngineModule(form.open(path))}
        found = measure_latency(timed, _example(images, 1), seconds=0.2, least=50)
    rows = [{engine: found[f"{name} in {engine}"].median for engine in ("PyTorch", form.engine)} for name in networks]
    if len(rows) == 2:
        rows.append({engine: rows[0][engine] / rows[1][engine] for engine in rows[0]})
    return [{"ms": name} | row for name, row in zip([*networks, "speedup"], rows, strict=False)]


class _EngineModule(nn.Module):
    """An exported network as a module, for `measure_latency`.

    The callable is kept in a tuple, so that it is not a submodule: `eval` must not reach an exported program, which
    refuses it.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = (run,)

    def forward(self, images: Tensor) -> Tensor:
        """The logits for `images`."""
        return self._run[0](images)


def _example(images: device_data.Images, batch: int) -> Tensor:
    return images.batch(torch.arange(batch))[0].contiguous()


def chosen(results: results_folder.Results, trial: str) -> str:
    """The id of a saved trial. `trial`: an id; `best`: highest validation accuracy; `knee`: see `fronts.knee`.

    `best` is chosen among saved, feasible trials of the search. Raises ValueError, naming the saved trials, if there is
    none.
    """
    saved = sorted(card.parent.name for card in (results.folder / "models").glob("*/card.json"))
    if not saved:
        raise ValueError(f"{results.folder}: holds no saved networks (study.save: none, or no trial was complete)")
    trial_id = _best(results, saved) if trial == "best" else _knee(results) if trial == "knee" else trial
    if trial_id in saved:
        return trial_id
    why = "there is no such trial"
    if trial_id is None:
        why = "no feasible network is saved" if trial == "best" else "this study's front has no knee"
    elif trial_id in set(results.trials["trial_id"]):
        why = f"the network of {trial_id} was not kept"
    raise ValueError(f"--trial {trial}: {why}; saved: {', '.join(saved)}")


def _best(results: results_folder.Results, saved: list[str]) -> str | None:
    rows = results_folder.candidates(results.trials)
    rows = rows[rows["feasible"].fillna(True).astype(bool) & rows["trial_id"].isin(saved)]
    rows = rows.dropna(subset=["accuracy"]).sort_values("accuracy", ascending=False, kind="stable")
    return None if rows.empty else str(rows["trial_id"].iloc[0])


def _knee(results: results_folder.Results) -> str | None:
    index = fronts.knee(results)
    return None if index is None else str(results.trials["trial_id"].loc[index])


def main(argv: list[str] | None = None, prog: str = "python -m study.export") -> int:
    """Run the command; returns the exit code."""
    args = _arguments(prog).parse_args(argv)
    torch.set_num_threads(1)
    try:
        job = _read_job(args)
    except (ValueError, OSError) as error:
        return refused(error)
    try:
        _export_and_time(job)
    except Exception as error:  # torch's exporters raise almost any type, with messages of many lines
        reason = " ".join(str(error).split())[:500]
        print(f"error: the export of trial {job.trial} failed: {type(error).__name__}: {reason}", file=sys.stderr)
        return 1
    return 0


def _arguments(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Write a saved network as one file.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder")
    parser.add_argument("--trial", metavar="ID|best|knee", required=True, help="which of its saved networks")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--out", metavar="PATH", type=Path, help="a file, or a folder; default DIR/models/<trial_id>")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the images are now, if they were moved")
    return parser


def _read_job(args: argparse.Namespace) -> Job:
    form = FORMATS[args.format]
    if missing := [name for name in form.needs if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"--format {args.format} needs {', '.join(missing)}; install the extra: pip install '.[export]'"
        )
    results = results_folder.read(args.folder)
    trial = chosen(results, args.trial)
    folder = args.folder / "models" / trial
    network, card = models.load(folder)
    section = parse(results.study, str(args.folder / "study.yaml")).baseline
    data_dir = provenance.data_dir(args.folder, results.record, section.dataset, args.data_dir)
    data = training.read_data(section, data_dir)
    images = images_for(folder, card, data, CPU)
    about = {key: json.dumps(card[key]) for key in ("mean", "std", "class_names")} | {"trial_id": trial}
    baseline = args.folder / "baseline"
    dense = models.load(baseline)[0] if baseline.exists() else None
    path = _output_path(args.out or folder, f"{results.study['study']['name']}_{trial}", form.suffix)
    return Job(trial, network, dense, about, images, device_data.rows_of(data.test, CPU), form, path)


def _output_path(out: Path, name: str, suffix: str) -> Path:
    """The file `out`, or `name` in the folder `out`; creates the folder. ValueError for another suffix."""
    if out.suffix and out.suffix != suffix and not out.is_dir():
        raise ValueError(f"--out {out}: the file should end in {suffix}, or be a folder")
    path = out if out.suffix == suffix and not out.is_dir() else out / (name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _export_and_time(job: Job) -> None:
    found = export(job.network, job.form, job.path, job.images, job.test, job.about)
    print(f"trial {job.trial}: {job.path} ({job.path.stat().st_size:,} bytes)\n{found}")
    dense = {} if job.dense is None else {"dense": job.dense}
    show(latencies({**dense, "pruned": job.network}, job.form, job.images))
    if job.dense is None:
        print("dense: left out; the folder holds no baseline")


if __name__ == "__main__":
    sys.exit(main())

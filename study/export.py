"""Export saved networks to ONNX or torch's exported program; each file is checked, then timed.

    python -m study.export results/quickstart --trial best --format onnx
    python -m study.export results/schedules --trial 0012 --format exported_program --out NETWORKS
    python -m study.export results/oneshot_vs_iterative --trial all --format exported_program \
        --out 'NETWORKS/resnet18_{schedule}_{requested_sparsity:.0%}_{epochs_per_step}.pt2'

DIR is a results folder. The file takes float32 images (batch, channels, height, width) with any batch size, normalised
as in training: (pixel / 255 - mean) / std, with mean and std stored in the file; with --normalise it takes the pixels,
uint8, and does that itself. It returns logits (batch, classes). Of a quantized network, ONNX is the 8-bit one.
The file is kept only if it agrees with PyTorch (in 8 bits: with the study's own file) on the top-1 class of every test
image (CPU). Then both, and the dense network, are timed at batch 1 on one thread.
Exit codes: 0 done, 1 torch cannot export the network or the file disagrees with it, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

import models
from analysis import results_folder
from analysis.figures import fronts
from analysis.refusal import refused
from models.files import replacing
from models.formats import FORMATS, About, Format, Run, open_onnx
from pruning.measure.latency import measure_latency
from study.baseline import training
from study.config import parse
from study.evaluate import images_for, show
from study.quantization import onnx_file
from study.quantization.runtime import Engine
from study.results import provenance
from study.training import device_data

CPU = torch.device("cpu")


class Job(NamedTuple):
    """One export.

    Attributes:
      trial: id of the trial.
      network: of the trial, on the CPU.
      int8: the content of its quantized file, if that is to be written; else None.
      dense: the dense network, timed for comparison; None if the folder has no baseline.
      about: metadata written to the file.
      images: normalised images of the data set.
      test: rows of the test images.
      form: the format.
      normalise: whether the file takes raw pixels and normalises them itself.
      path: of the file.
    """

    trial: str
    network: nn.Module
    int8: bytes | None
    dense: nn.Module | None
    about: About
    images: device_data.Images
    test: Tensor
    form: Format
    normalise: bool
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
def compare(network: Run, run: Run, images: device_data.Images, rows: Tensor, normalise: bool = False) -> Agreement:
    """Compare the outputs of an exported network with the original's (CPU, fp32).

    Args:
      network: the original.
      run: the exported network: images -> logits.
      images: of the data set.
      rows: of the images to compare on.
      normalise: whether the exported network takes raw pixels.
    """
    differ, difference = 0, torch.zeros(())
    for chosen in rows.split(images.evaluated_at_once):
        expected, actual = network(_inputs(images, chosen)), run(_inputs(images, chosen, normalise))
        differ += int((expected.argmax(1) != actual.argmax(1)).sum())
        difference = torch.maximum(difference, (expected - actual).abs().max())  # keeps NaN, unlike Python's max
    return Agreement(len(rows), differ, difference.item())


def export(job: Job) -> str:
    """Write the network to its file atomically, after checking the file; returns a message with the check's result.

    Raises:
      RuntimeError: the file gives another top-1 class for an image, or non-finite logits.
      Exception: whatever torch raises for a network that it cannot export.
    """
    original: Run = job.network if job.int8 is None else open_onnx(job.int8)
    with replacing(job.path) as temporary:
        if job.int8 is None:
            job.form.write(_taking(job, job.network), _example(job, 2), job.about, temporary)
        else:
            temporary.write_bytes(onnx_file.with_metadata(_quantized(job, job.int8), job.about))
        found = compare(original, job.form.open(temporary), job.images, job.test, job.normalise)
        if found.differ or not math.isfinite(found.difference):
            raise RuntimeError(f"the {job.form.engine} disagrees with the network: {found}")
    if job.int8 is None:
        return f"{job.form.engine} against PyTorch: {found}"
    before = compare(job.network, original, job.images, job.test)
    return f"the file against the study's own: {found}\n8 bits against the network before, in PyTorch: {before}"


def latencies(job: Job) -> list[dict[str, Any]]:
    """Latencies at batch 1 in ms of what `export` wrote, a row per network: in PyTorch and in the format's engine.

    The rows are the dense network, if there is one, the pruned one and, if the file has 8 bits, that, measured in turn.
    Rows with their speedups follow: the dense network's time divided by theirs. On the CPU, on one thread.
    """
    networks = {} if job.dense is None else {"dense": _taking(job, job.dense)}
    networks["pruned"] = _taking(job, job.network)
    timed: dict[str, dict[str, nn.Module]] = {}  # network -> engine -> the network in it
    with tempfile.TemporaryDirectory() as folder:
        for name, network in networks.items():
            path = job.path  # which holds the pruned network, unless in 8 bits
            if name == "dense" or job.int8 is not None:
                path = Path(folder, name + job.form.suffix)
                job.form.write(network, _example(job, 2), {}, path)
            timed[name] = {"PyTorch": network, job.form.engine: Engine(job.form.open(path))}
        if job.int8 is not None:
            timed["8 bits"] = {job.form.engine: Engine(open_onnx(_quantized(job, job.int8)))}
        each = {f"{name} in {engine}": one for name, engines in timed.items() for engine, one in engines.items()}
        found = measure_latency(each, _example(job, 1), seconds=0.2, least=50)
    times = {name: {engine: found[f"{name} in {engine}"].median for engine in timed[name]} for name in timed}
    rows: list[dict[str, Any]] = [{"ms": name, "PyTorch": ""} | of_engines for name, of_engines in times.items()]
    for name in list(times)[1:] if job.dense is not None else ():
        speedup = {engine: times["dense"][engine] / time for engine, time in times[name].items()}
        rows.append({"ms": "speedup" if len(times) == 2 else f"speedup, {name}", "PyTorch": ""} | speedup)
    return rows


class _Normalising(nn.Module):
    """A network that takes raw pixels, uint8 (B, C, H, W). images: with the mean and std that normalise them."""

    def __init__(self, network: nn.Module, images: device_data.Images) -> None:
        super().__init__()
        self.network = network
        self.scale = nn.Buffer((1 / (255 * images.std)).view(-1, 1, 1))
        self.shift = nn.Buffer((-images.mean / images.std).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits for the pixels, normalised as by `study.data.transforms.normalise`."""
        logits: Tensor = self.network(pixels.float() * self.scale + self.shift)
        return logits


def _taking(job: Job, network: nn.Module) -> nn.Module:
    """The network with the inputs that the job's file takes."""
    return _Normalising(network, job.images).eval() if job.normalise else network


def _quantized(job: Job, content: bytes) -> bytes:
    """A quantized file with the inputs that the job's file takes."""
    mean, std = job.images.mean.tolist(), job.images.std.tolist()
    return onnx_file.with_normalisation(content, mean, std) if job.normalise else content


def _example(job: Job, batch: int) -> Tensor:
    return _inputs(job.images, torch.arange(batch), job.normalise)


def _inputs(images: device_data.Images, rows: Tensor, pixels: bool = False) -> Tensor:
    """A batch (B, C, H, W) of images, normalised; or (pixels) as they are, in uint8."""
    if not pixels:
        return images.batch(rows)[0].contiguous()
    unchanged = images._replace(mean=torch.zeros_like(images.mean), std=torch.full_like(images.std, 1 / 255))
    return unchanged.batch(rows)[0].round().to(torch.uint8).contiguous()


def chosen(results: results_folder.Results, trial: str) -> str:
    """The id of a saved trial. `trial`: an id; `best`: highest validation accuracy; `knee`: see `fronts.knee`.

    `best` is chosen among saved, feasible trials of the search. Raises ValueError, naming the saved trials, if there is
    none.
    """
    saved = _saved(results)
    trial_id = _best(results, saved) if trial == "best" else _knee(results) if trial == "knee" else trial
    if trial_id in saved:
        return trial_id
    why = "there is no such trial"
    if trial_id is None:
        why = "no feasible network is saved" if trial == "best" else "this study's front has no knee"
    elif trial_id in set(results.trials["trial_id"]):
        why = f"the network of {trial_id} was not kept"
    raise ValueError(f"--trial {trial}: {why}; saved: {', '.join(saved)}")


def _saved(results: results_folder.Results) -> list[str]:
    """The ids of all saved trials. Raises ValueError if there is none."""
    saved = sorted(card.parent.name for card in (results.folder / "models").glob("*/card.json"))
    if not saved:
        raise ValueError(f"{results.folder}: holds no saved networks (study.save: none, or no trial was complete)")
    return saved


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
        jobs = _read_jobs(args)
    except (ValueError, OSError) as error:
        return refused(error)
    failed = False
    for job in jobs:
        try:
            _export_and_time(job)
        except Exception as error:  # torch's exporters raise almost any type, with messages of many lines
            reason = " ".join(str(error).split())[:500]
            print(f"error: the export of trial {job.trial} failed: {type(error).__name__}: {reason}", file=sys.stderr)
            failed = True
    return int(failed)


def _arguments(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Write a saved network as one file.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder")
    parser.add_argument("--trial", metavar="ID|best|knee|all", required=True, help="which of its saved networks")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument(
        "--normalise", action="store_true", help="the file takes raw pixels, and normalises them itself"
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="a file, or a folder; {columns} of trials.csv are filled in; default DIR/models/<id>",
    )
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the images are now, if they were moved")
    return parser


def _read_jobs(args: argparse.Namespace) -> list[Job]:
    form = FORMATS[args.format]
    if missing := [name for name in form.needs if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"--format {args.format} needs {', '.join(missing)}; install the extra: pip install '.[export]'"
        )
    results = results_folder.read(args.folder)
    found = set(results.trials.loc[results.trials["kind"] == "search", "trial_id"])
    trials = [t for t in _saved(results) if t in found] if args.trial == "all" else [chosen(results, args.trial)]
    paths = [_path(args, results, trial, form.suffix) for trial in trials]
    if twice := [str(path) for path in paths if paths.count(path) > 1]:
        raise ValueError(f"--out {args.out}: several networks would be written to {twice[0]}; name more columns")
    section = parse(results.study, str(args.folder / "study.yaml")).baseline
    data_dir = provenance.data_dir(args.folder, results.record, section.dataset, args.data_dir)
    data = training.read_data(section, data_dir)
    baseline = args.folder / "baseline"
    dense = models.load(baseline)[0] if baseline.exists() else None
    test = device_data.rows_of(data.test, CPU)
    jobs = []
    for trial, path in zip(trials, paths, strict=True):
        folder = args.folder / "models" / trial
        network, card = models.load(folder)
        images = images_for(folder, card, data, CPU)
        about = {key: json.dumps(card[key]) for key in ("mean", "std", "class_names")} | {"trial_id": trial}
        int8 = models.load_onnx(folder) if form is FORMATS["onnx"] else None
        jobs.append(Job(trial, network, int8, dense, about, images, test, form, args.normalise, path))
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    return jobs


def _path(args: argparse.Namespace, results: results_folder.Results, trial: str, suffix: str) -> Path:
    """The file for a trial: `--out` with its columns filled in, or one in that folder. ValueError if it is neither."""
    row: dict[str, Any] = {"trial_id": trial}
    for cells in results.trials[results.trials["trial_id"] == trial].to_dict("records"):
        row |= {str(key): value for key, value in cells.items() if not pd.isna(value)}
    try:
        out = Path(args.out.format_map(row) if args.out else args.folder / "models" / trial)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        columns = ", ".join(row)
        raise ValueError(
            f"--out {args.out}: {error} of trial {trial} cannot be filled in; columns: {columns}"
        ) from None
    if out.suffix and out.suffix != suffix and not out.is_dir():
        raise ValueError(f"--out {out}: the file should end in {suffix}, or be a folder")
    name = f"{results.study['study']['name']}_{trial}{suffix}"
    return out if out.suffix == suffix and not out.is_dir() else out / name


def _export_and_time(job: Job) -> None:
    found = export(job)
    print(f"trial {job.trial}: {job.path} ({job.path.stat().st_size:,} bytes)\n{found}")
    show(latencies(job))
    if job.dense is None:
        print("dense: left out; the folder holds no baseline")


if __name__ == "__main__":
    sys.exit(main())

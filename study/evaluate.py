"""Load saved networks and measure them: accuracy on the test images, inference time, parameters, MACs, size.

    python -m study.evaluate results/quickstart
    python -m study.evaluate results/schedules/models/0012 --dataset imagefolder --data-dir IMAGES

PATH is a saved network's folder, or a results folder (all its networks). Images and their settings are those of the
study, unless it is told others. Exit codes: 0 done, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

import models
from analysis.refusal import refused
from analysis.results_folder import read_study
from pruning.measure import cost
from pruning.measure.latency import measure_latency
from pruning.weights import masks
from study.baseline import training
from study.config import parse
from study.data import sources, splits
from study.data.splits import Data
from study.quantization import onnx_file, runtime
from study.results import provenance
from study.training import device_data, evaluation, precision


def evaluate(folder: Path, data: Data, device: torch.device) -> dict[str, Any]:
    """Measures of the network in `folder` on the test images of `data`, normalised as in its card.

    Of a quantized network, accuracy, latency and bytes are those of its 8-bit file, as onnxruntime runs it on the CPU.
    Raises ValueError if the files are damaged, or the network was trained for other classes or image sizes.
    """
    model, card = models.load(folder)
    images = images_for(folder, card, data, device)
    model = precision.placed(model, device)
    rows = device_data.rows_of(data.test, device)
    example = images.batch(rows[:1])[0]
    content = models.load_onnx(folder)
    if content is None:
        timed, accuracy = model, evaluation.evaluate(model, images, rows)
        sizes = cost.size_bytes(model), cost.sparse_size_bytes(model)
    else:
        run = runtime.opened(folder / "network.onnx", content, card)
        timed, accuracy, example = (
            runtime.Engine(run),
            evaluation.accuracy(runtime.correct(run, images, rows)),
            example.cpu().contiguous(),
        )
        sizes = len(content), onnx_file.sparse_size_bytes(content)
    return {
        "network": folder.name.encode(errors="backslashreplace").decode(),
        "test accuracy": accuracy,
        "latency (ms)": measure_latency({"network": timed}, example)["network"].median,
        "parameters": cost.parameters(model),
        "nonzero": cost.nonzero_parameters(model),
        "MACs": cost.macs(model, data.in_shape),
        "size (bytes)": sizes[0],
        "sparse (bytes)": sizes[1],
        "weights": _weights_summary(model, folder) + ", int8" * (content is not None),
    }


def images_for(folder: Path, card: Mapping[str, Any], data: Data, device: torch.device) -> device_data.Images:
    """The images of `data`, normalised for the network in `folder`.

    Args:
      folder: of the network, for the error message.
      card: of the network; `mean` and `std` normalise the images.
      data: the images.
      device: where the images are placed.

    Raises:
      ValueError: the network was trained for other classes or image sizes.
    """
    if tuple(card["class_names"]) != data.class_names or tuple(card["in_shape"]) != data.in_shape:
        raise ValueError(
            f"{folder}: the network is for images {card['in_shape']} of {', '.join(card['class_names'][:3])}, ...; "
            f"the data set has {list(data.in_shape)} of {', '.join(data.class_names[:3])}, ..."
        )
    mean, std = (torch.tensor(card[key], dtype=torch.float32, device=device) for key in ("mean", "std"))
    return device_data.on_device(data, device)._replace(mean=mean, std=std)


def _weights_summary(model: nn.Module, folder: Path) -> str:
    zeros = masks.sparsity(model)
    shape = "cut" if (folder / "plan.json").exists() else "whole"
    return shape if zeros < 1e-3 else f"{shape}, {zeros:.0%} zeros"


def _folders(paths: list[Path]) -> list[Path]:
    folders = []
    for path in paths:
        candidates = [path / "baseline", *sorted((path / "models").glob("*"))]
        folders += [folder for folder in candidates if (folder / "card.json").exists()] or [path]
    return folders


def main(argv: list[str] | None = None, prog: str = "python -m study.evaluate") -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Measure saved networks.")
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a saved network, or a results folder")
    parser.add_argument("--dataset", metavar="NAME", help="default: the one the network was trained on")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the images are; default: where they were")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        rows = [evaluate(folder, _data(folder, args), device) for folder in _folders(args.paths)]
    except (ValueError, OSError) as error:
        return refused(error)
    show(rows)
    if 0 < sum("int8" in row["weights"] for row in rows) < len(rows):
        print(
            "Latencies of int8 networks are onnxruntime's, all others PyTorch's: compare them within one kind. "
            "trials.csv of a study that quantizes has all of them in onnxruntime."
        )
    if any("zeros" in row["weights"] for row in rows):
        print("Zeros among the weights save no time: dense kernels multiply them too. Only cut channels do.")
    return 0


def _data(folder: Path, args: argparse.Namespace) -> Data:
    _, card = models.load(folder)
    for root in folder.resolve().parents[:2]:  # of RESULTS/baseline and RESULTS/models/0001
        if (root / "study.yaml").is_file():
            content, record = read_study(root / "study.yaml")
            section = parse(content, str(root / "study.yaml")).baseline
            if args.dataset in (None, section.dataset):
                data_dir = provenance.data_dir(root, record, section.dataset, args.data_dir)
                return training.read_data(section, data_dir)
    dataset = args.dataset or card.get("dataset")
    if not isinstance(dataset, str):
        raise ValueError(f"{folder}: its card names no data set; give --dataset, one of {', '.join(sources.DATASETS)}")
    keeps_size = dataset in (card.get("dataset"), "imagefolder")  # the size that the network was trained on
    size = card["in_shape"][1] if keeps_size else None
    return splits.load(dataset, data_dir=args.data_dir, image_size=size)


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table with a line per row; its columns are those of the first row."""
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(_cell_text(value)) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _cell_text(value: Any) -> str:
    return (
        f"{value:.4f}" if isinstance(value, (float, np.floating)) else f"{value:,}" if isinstance(value, int) else value
    )


if __name__ == "__main__":
    sys.exit(main())

"""A saved network as one file for other programs: ONNX, or torch's exported program. Checked before it is kept.

    python -m study.export results/quickstart --trial best --format onnx
    python -m study.export results/schedules --trial 0012 --format exported_program --out NETWORKS

DIR is a results folder. The file takes images float32 (batch, channels, height, width) for any batch, normalised as the
network was trained ((pixels / 255 - mean) / std; mean and std are written into the file), and gives logits (batch,
classes). Before it gets its name, it is run on all test images beside the network in PyTorch, on the CPU, in fp32: one
image of another top-1 class, and there is no file. Then both are timed, the dense network too.
Exit codes: 0 done, 1 the network cannot be exported or its file is not the same network, 2 the input is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import models
from analysis import figures, frame
from pruning.latency import measure_latency
from study import baseline as baselines
from study import training
from study.config import parse
from study.evaluate import images_for, show

CPU = torch.device("cpu")
BATCH = 500  # images at once while a file is checked
DYNAMIC = ({0: torch.export.Dim("batch")},)
Run = Callable[[Tensor], Tensor]
About = Mapping[str, str]


class Format(NamedTuple):
    """A kind of file: how it is written and opened, what runs it, and the modules of the extra `export` it needs."""

    suffix: str
    runs_in: str
    needs: tuple[str, ...]
    write: Callable[[nn.Module, Tensor, About, Path], None]
    open: Callable[[Path], Run]


class Agreement(NamedTuple):
    """What a file gave beside the network: images compared, those of another top-1 class, largest gap of a logit."""

    images: int
    differ: int
    gap: float

    @property
    def holds(self) -> bool:
        """Whether the file is the same classifier, and all it gave are numbers."""
        return self.differ == 0 and math.isfinite(self.gap)


def write_onnx(network: nn.Module, example: Tensor, about: About, path: Path) -> None:
    """Write `network` as ONNX with `about` as its metadata. example: (2, C, H, W); the batch stays free."""
    names = {"input_names": ["images"], "output_names": ["logits"]}
    program = torch.onnx.export(network, (example,), dynamo=True, dynamic_shapes=DYNAMIC, verbose=False, **names)
    assert program is not None  # so it is with dynamo=True
    program.model.metadata_props.update(about)
    program.save(path, external_data=False)


def open_onnx(path: Path) -> Run:
    """The network of an ONNX file, in onnxruntime on one thread of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_program(network: nn.Module, example: Tensor, about: About, path: Path) -> None:
    """Write `network` as torch's exported program with `about` as extra files. example: as for `write_onnx`."""
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=DYNAMIC), path, extra_files=dict(about))


def open_program(path: Path) -> Run:
    """The network of an exported program, run by PyTorch."""
    module = torch.export.load(path).module()
    return lambda images: module(images)


@torch.inference_mode()
def compare(network: nn.Module, run: Run, images: training.Images, rows: Tensor) -> Agreement:
    """What `run` gives on the images of `rows`, batch by batch, beside `network`; both fp32 on the CPU."""
    differ, gap = 0, torch.zeros(())
    for chosen in rows.split(BATCH):
        inputs = images.batch(chosen)[0].contiguous()
        ours, theirs = network(inputs), run(inputs)
        differ += int((ours.argmax(1) != theirs.argmax(1)).sum())
        gap = torch.maximum(gap, (ours - theirs).abs().max())  # unlike Python's max, keeps a NaN
    return Agreement(len(rows), differ, gap.item())


def export(network: nn.Module, form: str, path: Path, images: training.Images, rows: Tensor, about: About) -> Agreement:
    """Write `network` (CPU, eval mode) to `path` in a format of FORMATS, if that file agrees on the images of `rows`.

    Raises RuntimeError, and leaves `path` as it was, where torch cannot export the network or the file disagrees.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        _write(network, form, temporary, images, about)
        found = compare(network, FORMATS[form].open(temporary), images, rows)
        if not found.holds:
            raise RuntimeError(f"{path}: is not written: {_told(found, form)}")
        os.replace(temporary, path)
        return found
    finally:
        temporary.unlink(missing_ok=True)


def _write(network: nn.Module, form: str, path: Path, images: training.Images, about: About) -> None:
    # Two images: torch would take a batch of one for a constant.
    example = images.batch(torch.tensor([0, 0]))[0].contiguous()
    try:
        FORMATS[form].write(network, example, about, path)
    except OSError:
        raise
    except Exception as error:  # torch's exporters raise nearly anything
        reason = " ".join(str(error).split())[:500]
        raise RuntimeError(f"{form}: torch cannot export this network: {type(error).__name__}: {reason}") from error


def _told(found: Agreement, form: str) -> str:
    return (
        f"{FORMATS[form].runs_in} and PyTorch differ in the top-1 class of {found.differ} of {found.images:,} "
        f"test images; largest difference of the logits {found.gap:.2g}"
    )


def latencies(networks: Mapping[str, nn.Module], form: str, images: training.Images) -> list[dict[str, Any]]:
    """A row for each network: its time at batch 1 in PyTorch and in what runs the format, all taken in turn.

    With two networks a row more: the first one's times over the second's. On as many threads as torch has; fp32.
    """
    runs_in = FORMATS[form].runs_in
    timed: dict[str, nn.Module] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, network in networks.items():
            path = Path(folder, f"{name}{FORMATS[form].suffix}")
            _write(network, form, path, images, {})
            timed |= {f"{name} in PyTorch": network, f"{name} in {runs_in}": _Timed(FORMATS[form].open(path))}
        found = measure_latency(timed, images.batch(torch.tensor([0]))[0].contiguous())
    rows = [{f"{at} (ms)": found[f"{name} in {at}"].median for at in ("PyTorch", runs_in)} for name in networks]
    if len(rows) == 2:
        rows.append({column: rows[0][column] / rows[1][column] for column in rows[0]})
    return [{"network": name} | row for name, row in zip([*networks, "speedup"], rows, strict=False)]


class _Timed(nn.Module):
    """A function as a module; kept from its `eval`, which exported programs refuse."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.forward = run


def chosen(results: frame.Results, trial: str) -> str:
    """The saved trial that `trial` names: an id; `best`, the most accurate (validation); `knee`, the figure's.

    `best` is taken from the feasible trials of the search whose networks are kept. Raises ValueError where none is.
    """
    saved = sorted(card.parent.name for card in (results.folder / "models").glob("*/card.json"))
    if not saved:
        raise ValueError(f"{results.folder}: holds no saved networks (study.save: none, or nothing was complete)")
    wanted = {"best": _best, "knee": _knee}.get(trial, lambda *_: trial)(results, saved)
    if wanted not in saved:
        known = "its network was not kept" if wanted in set(results.trials["trial_id"]) else "there is no such trial"
        raise ValueError(f"--trial {trial}: {wanted}: {known}; saved are {', '.join(saved)}")
    return wanted


def _best(results: frame.Results, saved: list[str]) -> str:
    rows = frame.candidates(results.trials)
    rows = rows[rows["feasible"].fillna(True).astype(bool) & rows["trial_id"].isin(saved)].dropna(subset="accuracy")
    if rows.empty:
        raise ValueError(f"--trial best: no feasible trial of the search is saved; saved are {', '.join(saved)}")
    return str(rows.loc[rows["accuracy"].idxmax(), "trial_id"])


def _knee(results: frame.Results, saved: list[str]) -> str:
    index = figures.knee(results)
    if index is None:
        raise ValueError(f"--trial knee: this study's front has no knee; take best, or one of {', '.join(saved)}")
    return str(results.trials.loc[index, "trial_id"])


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    args = _arguments().parse_args(argv)
    torch.set_num_threads(1)
    try:
        _check_installed(args.format)
        _run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m study.export", description="Write a saved network as one file.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder")
    parser.add_argument("--trial", metavar="ID", required=True, help="a saved trial; or best, or knee")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--out", metavar="PATH", type=Path, help="a file, or a folder (default: DIR/models/<trial_id>)")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the images are (default: as the study had)")
    return parser


def _check_installed(form: str) -> None:
    if missing := [name for name in FORMATS[form].needs if importlib.util.find_spec(name) is None]:
        raise ValueError(f"--format {form}: {', '.join(missing)} missing; install the extra: pip install '.[export]'")


def _run(args: argparse.Namespace) -> None:
    results = frame.read(args.folder)
    trial = chosen(results, args.trial)
    network, card = models.load(args.folder / "models" / trial)
    section = parse(results.study, str(args.folder / "study.yaml")).baseline
    data = baselines.read_data(section, args.data_dir or results.record.get("data_dir"))
    images = images_for(args.folder / "models" / trial, card, data, CPU)
    path = _place(args, f"{results.study['study']['name']}_{trial}{FORMATS[args.format].suffix}", trial)
    about = {key: json.dumps(card[key]) for key in ("mean", "std", "class_names")} | {"trial_id": trial}
    found = export(network, args.format, path, images, training.rows_of(data.test, CPU), about)
    print(f"trial {trial}: {path}, {path.stat().st_size:,} bytes\n{_told(found, args.format)}")
    dense = baselines.kept(section, data)
    networks = {} if dense is None else {"dense": dense.network(CPU).to(memory_format=torch.contiguous_format).eval()}
    show(latencies({**networks, "pruned": network}, args.format, images))
    if dense is None:
        print("The dense network is left out: the cache ($STUDY_CACHE) does not hold this study's baseline.")


def _place(args: argparse.Namespace, name: str, trial: str) -> Path:
    """Where the file goes; the folder is made."""
    out = args.out or args.folder / "models" / trial
    path = out if out.suffix == FORMATS[args.format].suffix else out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


FORMATS = {
    "onnx": Format(".onnx", "onnxruntime", ("onnx", "onnxscript", "onnxruntime"), write_onnx, open_onnx),
    "exported_program": Format(".pt2", "the exported program", (), write_program, open_program),
}


if __name__ == "__main__":
    sys.exit(main())

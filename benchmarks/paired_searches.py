"""Searches that start from the same seeds, compared at the same time after their first trials began.

    python -m benchmarks.paired_searches --seeds 10 --seconds 45 --out results/paired
    python -m benchmarks.paired_searches --space mine.yaml --data-dir IMAGES --seeds 3 --seconds 900 --out results/mine

Each arm of ARMS runs a study per seed, the arms in turn, so that what else the machine does falls on all. Written to
--out: searches.csv, with the measures of `analysis.statistics.measures` by accuracy on the test images, which no search
sees, at ten times of each search; and searches.png. Printed: their means over seeds with 95 % intervals, and how often
an arm's measure was above that of the first arm. A search that was run before is read, not repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from analysis.figures import registry
from analysis.presentation import style
from analysis.results_folder import read
from analysis.statistics import measures
from analysis.statistics.intervals import mean_interval
from models.files import write_whole
from study import run
from study.config import read_study
from study.execution import cluster

RANDOM, TPE = ["study.search=random"], ["study.search=optuna", "study.sampler=tpe"]
SCREENED = "study.screen={candidates: 8}"
PROMOTED = "study.stop_early={min_epochs: 1, reduction: 3, promote: true}"
# Settings of each arm; the search is compared with that of the first.
ARMS = {
    "random": RANDOM,
    "tpe": TPE,
    "random, screened": [*RANDOM, SCREENED],
    "tpe, screened": [*TPE, SCREENED],
    "tpe, promoted": [*TPE, PROMOTED],
    "tpe, screened, promoted": [*TPE, SCREENED, PROMOTED],
}
SPACE = """
study: {name: paired}
baseline: {model: resnet8, dataset: digits, epochs: 12, augment: false}
space:
  criterion: [magnitude_l1, magnitude_l2, taylor, random]
  granularity: [weight, channel]
  scope: [global, layer, lamp]
  schedule: [one_shot, iterative, gradual]
  sparsity: {low: 0.3, high: 0.98}
  steps: {choices: [2, 3], when: {schedule: [iterative, gradual]}}
  finetune_epochs: 3
  finetune_lr: {low: 1.0e-3, high: 1.0e-1, log: true}
  calibration_samples: 256
"""
TRIALS = 100_000  # more than fit into the time
TIMES = 10  # at which a search is looked at


def main(argv: list[str] | None = None) -> int:
    """Run the searches that are missing, and print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paired_searches", description=__doc__.split("\n")[0])
    parser.add_argument("--space", type=Path, help="a study file; without it, a space of recipes on the digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=45.0, help="of each search")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    space = args.out / "space.yaml"
    write_whole(space, args.space.read_text() if args.space else SPACE)
    rows = []
    with one_ray(space):
        for seed in range(args.seeds):
            for arm in args.arms:
                rows += search(args, space, arm, seed)
                write_whole(args.out / "searches.csv", pd.DataFrame(rows).to_csv(index=False))
    write_whole(args.out / "searches.png", style.render(drawn(pd.DataFrame(rows)), "png"))
    print(comparison(pd.DataFrame(rows)))
    return 0


@contextlib.contextmanager
def one_ray(space: Path) -> Iterator[None]:
    """One cluster for all searches, and no figures."""
    file = read_study(str(space), [])
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster.cluster(None, file, Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(cluster, "cluster", lambda *_: contextlib.nullcontext(""))
        patch.setattr(registry, "FIGURES", {})
        yield


def search(args: argparse.Namespace, space: Path, arm: str, seed: int) -> list[dict[str, float | str]]:
    """Run a search, unless its folder is there, and measure it; a row for each of TIMES."""
    out = args.out / arm.replace(", ", "_") / str(seed)
    name = yaml.safe_load(space.read_text())["study"]["name"]
    if not (out / name / "report.html").exists():
        # The first trials of a study begin late: workers import for ten seconds, which the search is given as well.
        settings = [*ARMS[arm], f"study.seed={seed}", "study.controls=[]", "study.save=none"]
        given = ["--space", str(space), "--out", str(out), "--hours", str((args.seconds + 20) / 3600)]
        given += ["--trials", str(TRIALS), *(["--data-dir", args.data_dir] if args.data_dir else [])]
        with contextlib.redirect_stdout(io.StringIO()):
            code = run.main([*given, *(part for setting in settings for part in ("--set", setting))])
        assert code == 0, (arm, seed)
    results = read(out / name)
    began = results.trials["started"].min()
    trials = results.trials[results.trials["state"] == "complete"].sort_values("finished")
    dense = results.record["baseline"]["test_accuracy"]
    found = measures.progress(trials["test_accuracy"], trials["sparsity"], dense)
    ended = trials["finished"].to_numpy() - began
    rows = []
    for seconds in np.linspace(0, args.seconds, TIMES + 1)[1:]:
        count = int(np.searchsorted(ended, seconds, side="right"))
        last = found[count - 1] if count else np.zeros(len(measures.NAMES))
        rows.append(
            {
                "arm": arm,
                "seed": seed,
                "seconds": seconds,
                "trials": count,
                **dict(zip(measures.NAMES, last, strict=True)),
            }
        )
    print(
        f"seed {seed}, {arm}: {count} trials in {args.seconds:g} s, " + ", ".join(f"{v:.3f}" for v in last), flush=True
    )
    return rows


def comparison(rows: pd.DataFrame) -> str:
    """The means over seeds at half of the time and at its end, as a table in Markdown."""
    lines = ["| arm | seconds | trials | " + " | ".join(measures.NAMES) + " |"]
    lines.append("|---|---:|---:|" + "---:|" * len(measures.NAMES))
    times = sorted(rows["seconds"].unique())
    for seconds in (times[len(times) // 2 - 1], times[-1]):
        now = rows[rows["seconds"] == seconds].set_index("seed")
        first = now[now["arm"] == now["arm"].iloc[0]]
        for arm in dict.fromkeys(now["arm"]):
            mine = now[now["arm"] == arm]
            cells = []
            for name in measures.NAMES:
                mean, low, _ = mean_interval(mine[name].to_numpy())
                above = int((mine[name] > first[name]).sum())
                cells.append(
                    f"{mean:.3f} ± {mean - low:.3f}"
                    + f" ({above} of {len(mine)} above)" * (arm != first["arm"].iloc[0])
                )
            lines.append(f"| {arm} | {seconds:.0f} | {mine['trials'].mean():.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@style.styled
def drawn(rows: pd.DataFrame) -> Figure:
    """The means over seeds against time, with their 95 % intervals."""
    figure, axes = style.panels(1, 2, (7.2, 3.4), sharey=False)
    entries = []
    for number, arm in enumerate(dict.fromkeys(rows["arm"])):
        look: dict[str, Any] = {"color": style.COLOURS[number], "linestyle": ("-", "--", ":", "-.")[number]}
        entries.append(style.key(arm, **look))
        for ax, name, scale in zip(axes, ("near", "within_2"), (1, 100), strict=True):
            groups = rows[rows["arm"] == arm].groupby("seconds")[name]
            mean, low, high = np.array([mean_interval(scale * values.to_numpy()) for _, values in groups]).T
            ax.plot(list(groups.groups), mean, **look)
            ax.fill_between(list(groups.groups), low, high, color=look["color"], alpha=0.15, linewidth=0)
    for ax, label in zip(axes, ("hypervolume, near", "highest sparsity (%)"), strict=True):
        ax.set(xlabel="seconds since the first trial began", ylabel=label)
    style.legend(figure, {"search": entries})
    caption = (
        f"On test images, which no search sees: mean of {rows['seed'].nunique()} seeds and its 95 % interval. "
        "Hypervolume, near: accuracy counts from 10 points below the baseline. Sparsity: at most 2 points lost."
    )
    style.head(figure, "What searches have found, and when", caption)
    return figure


if __name__ == "__main__":
    raise SystemExit(main())

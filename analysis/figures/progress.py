"""Progress of the search: hypervolume against trials and compute time; attainment surfaces over seeds."""

from __future__ import annotations

from typing import Any

import moocore
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.presentation import style
from analysis.presentation.looks import draw_baseline
from analysis.presentation.style import COLOURS, styled
from analysis.results_folder import Results, candidates
from analysis.statistics import measures, pareto
from analysis.statistics.objectives import abscissa, unit_of
from analysis.statistics.runs import runs

_SURFACES: dict[str, dict[str, Any]] = {
    "best": {"color": "#7a7a7a", "linewidth": 1.1, "linestyle": "-"},
    "median": {"color": COLOURS[0], "linewidth": 1.8, "linestyle": "-"},
    "worst": {"color": "#7a7a7a", "linewidth": 1.1, "linestyle": "--"},
}
ZERO_REFERENCE = {  # maximised objectives with 0 as their reference; others take the lowest value of any network
    "accuracy",
    "test_accuracy",
    "sparsity",
    "compression_ratio",
    "theoretical_speedup",
    "speedup",
}


def reference(results: Results) -> list[float]:
    """The hypervolume's reference point: the worst value of each objective.

    Maximised: 0 for ZERO_REFERENCE, otherwise the lowest value of any network. Minimised: the baseline's value or, if
    that is unknown, the highest value of any network.
    """
    dense = results.record.get("baseline") or {}
    highest = candidates(results.trials)[list(results.objectives)].max()
    least = {
        name: 0.0 if name in ZERO_REFERENCE else float(candidates(results.trials)[name].min())
        for name in results.objectives
    }
    return [
        least[name] if direction == "max" else float(dense.get(name) or highest[name])
        for name, direction in results.objectives.items()
    ]


def hypervolume_data(results: Results) -> pd.DataFrame:
    """The hypervolume after each trial of the search, in order of completion.

    Columns: trial_id, trials (finished so far, including failed ones), seconds (their total wall time), hypervolume,
    and the measures of `analysis.statistics.measures`. Trials that failed, were stopped or violate a constraint add
    time but no volume.
    """
    rows = results.trials[(results.trials["kind"] == "search") & results.trials[["layer", "group"]].isna().all(axis=1)]
    if candidates(rows).empty:
        return pd.DataFrame(columns=["trial_id", "trials", "seconds", "hypervolume", *measures.NAMES])
    rows = rows.sort_values(["finished", "trial_id"])
    counted = rows["state"].eq("complete") & rows["feasible"].fillna(True).astype(bool)
    values = rows[list(results.objectives)].astype("float64").where(counted)
    found = pareto.volumes(values.to_numpy(), list(results.objectives.values()), reference(results))
    seconds = rows["wall_seconds"].fillna(0).cumsum()
    points = rows[["accuracy", "sparsity"]].astype("float64").where(counted)
    near = measures.progress(points["accuracy"], points["sparsity"], measures.dense_accuracy(results))
    frame = pd.DataFrame(
        {"trial_id": rows["trial_id"], "trials": range(1, len(rows) + 1), "seconds": seconds, "hypervolume": found}
    )
    return frame.assign(**dict(zip(measures.NAMES, near.T, strict=True))).reset_index(drop=True)


@styled
def search(results: Results) -> Figure:
    """Draws the hypervolume near the dense network, and the highest sparsities at little loss, against compute."""
    rows = search_data(results)
    if rows.empty:
        return style.words("There is no complete network, or no dense accuracy to compare with.", results.trials)
    scale, unit = _time_unit(rows["seconds"].iloc[-1])
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    times = [0, *rows["seconds"] / scale]
    left.step(times, [0, *rows["near"]], where="post", color=COLOURS[0])
    left.set_ylabel("hypervolume, near")
    entries = []
    for i, (loss, name) in enumerate(zip(measures.LOSSES, measures.NAMES[1:], strict=True)):
        look: dict[str, Any] = {"color": COLOURS[i], "linestyle": ("-", "--", ":")[i]}
        right.step(times, [0, *100 * rows[name]], where="post", **look)
        entries.append(style.key(f"{100 * loss:.0f} point{'s' * (loss > 0.01)}", **look))
    right.set_ylabel("highest sparsity (%)")
    for ax in (left, right):
        ax.set(xlabel=f"compute {unit}", xlim=(0, None), ylim=(0, None))
    style.legend(figure, {"accuracy lost, at most": entries})
    caption = (
        "On validation images, against D, the better of baseline and dense control. Hypervolume, near: accuracy counts "
        f"from {100 * measures.MARGIN:.0f} points below D. Compute: total wall time of all trials."
    )
    style.head(figure, "What the search had found, and when", caption)
    return figure


def search_data(results: Results) -> pd.DataFrame:
    """The rows of `hypervolume_data` if the dense accuracy is known, otherwise none."""
    return hypervolume_data(results).dropna(subset=["near"])


def _time_unit(seconds: float) -> tuple[float, str]:
    return (3600.0, "hours") if seconds > 3 * 3600 else (1.0, "seconds")


@styled
def hypervolume(results: Results) -> Figure:
    """Draws the front's hypervolume against the number of trials and against compute time."""
    rows = hypervolume_data(results)
    if rows.empty:
        return style.words("There is no complete network, so there is no hypervolume.", results.trials)
    scale, name = _time_unit(rows["seconds"].iloc[-1])
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for ax, x, label in (
        (left, rows["trials"], "finished trials"),
        (right, rows["seconds"] / scale, f"compute {name}"),
    ):
        ax.step([0, *x], [0, *rows["hypervolume"]], where="post", color=COLOURS[0])
        ax.set(xlabel=label, ylim=(0, 1.05 * max(rows["hypervolume"].iloc[-1], 1e-9)), xlim=(0, None))
    units = [unit_of(objective) for objective in results.objectives]
    left.set_ylabel("hypervolume" + " (product of fractions)" * (set(results.objectives) <= ZERO_REFERENCE))
    corner = zip(units, reference(results), strict=True)
    point = ", ".join(f"{name} {value / each:.4g} {unit}" for (name, unit, each), value in corner)
    last = rows.loc[rows["hypervolume"] < rows["hypervolume"].iloc[-1], "trials"].max()
    caption = (
        f"Reference point: {point}. Compute: total wall time of all trials, including failed and stopped ones. Last "
        f"increase: trial {0 if pd.isna(last) else last + 1} of {len(rows)}."
    )
    style.head(figure, "Hypervolume of the front during the search", caption)
    return figure


def attainment_data(results: Results) -> pd.DataFrame:
    """Corners of the best, median and worst attainment surfaces over fronts of single seeds, one row each.

    Columns: level ("best", "median", "worst"), x (see `abscissa`), test_accuracy, fronts (count). The i-th front
    consists of the i-th run of each recipe that ran with several seeds. Empty below two such fronts, or without exactly
    two objectives.
    """
    name, empty = abscissa(results), pd.DataFrame(columns=["level", "x", "test_accuracy", "fronts"])
    rows = runs(results.trials).dropna(subset=[name, "test_accuracy"])
    rows = rows[rows["feasible"].fillna(True).astype(bool)]
    sizes = rows.groupby("recipe")["recipe"].transform("size")
    if not (sizes > 1).any() or len(results.objectives) != 2 or name not in results.objectives:
        return empty
    fronts = int(sizes[sizes > 1].min())
    rows = rows[sizes >= fronts].assign(front=lambda r: r.groupby("recipe").cumcount())
    rows = rows[rows["front"] < fronts]
    signs = np.array([pareto.SIGN[results.objectives[name]], -1.0])
    points = rows[[name, "test_accuracy"]].to_numpy(dtype=float) * signs
    order = np.argsort(rows["front"].to_numpy(), kind="stable")
    surfaces = moocore.eaf(points[order], rows["front"].to_numpy()[order])
    levels = np.array(sorted(set(surfaces[:, 2])))
    wanted = {"best": levels[0], "median": levels[(len(levels) - 1) // 2], "worst": levels[-1]}
    parts = [surfaces[surfaces[:, 2] == level][:, :2] * signs for level in wanted.values()]
    frames = [pd.DataFrame(part, columns=["x", "test_accuracy"]) for part in parts]
    found = pd.concat(dict(zip(wanted, frames, strict=True)), names=["level"]).reset_index("level")
    return found.sort_values(["level", "x"], ignore_index=True).assign(fronts=fronts)[list(empty.columns)]


@styled
def attainment(results: Results) -> Figure:
    """Draws what is attained by all seeds' fronts, by half of them and by the best: the spread between seeds."""
    rows = attainment_data(results)
    if rows.empty:
        return style.words("No recipe ran with several seeds, so there are no fronts to compare.", results.trials)
    name, unit, scale = unit_of(abscissa(results))
    rising = results.objectives[abscissa(results)] == "max"
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    ax = figure.subplots()
    floor = 100 * rows["test_accuracy"].min()
    for level, look in _SURFACES.items():
        part = rows[rows["level"] == level]
        x, y = part["x"].to_numpy() / scale, 100 * part["test_accuracy"].to_numpy()
        # Close the surface: a drop at the right end if x is maximised, a rise at the left end if it is minimised.
        x, y = (np.append(x, x[-1]), np.append(y, floor)) if rising else (np.insert(x, 0, x[0]), np.insert(y, 0, floor))
        ax.plot(x, y, drawstyle="steps-pre" if rising else "steps-post", **look)
    baseline = draw_baseline(ax, results, "test_accuracy")
    ax.set(xlabel=f"{name} ({unit})", ylabel="test accuracy (%)")
    count = int(rows["fronts"].iloc[0])
    entries = [style.key(f"{level} of {count}", **look) for level, look in _SURFACES.items()]
    style.legend(figure, {"front": entries, "network": baseline})
    caption = (
        "Empirical attainment surfaces: what at least one, half and all of the fronts attain. Each front consists of "
        "one run of each recipe; recipes with fewer runs are left out."
    )
    style.head(figure, f"Attainment over {count} seeds", caption)
    return figure

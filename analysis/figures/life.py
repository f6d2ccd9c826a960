"""Fine-tuning figures: accuracy, loss and sparsity per epoch, parameters pruned over time, accuracy after each step."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.presentation import style
from analysis.presentation.looks import (
    baseline,
    close_up,
    closeup_floor,
    counted,
    draw_baseline,
    keys,
    looks_of,
    selected,
    shape,
)
from analysis.presentation.style import styled
from analysis.results_folder import Results

TOLERANCE = 1e-9  # smaller changes of sparsity are not pruning steps


def life_data(results: Results) -> pd.DataFrame:
    """The history of the selected networks, with schedule, scope and granularity; sorted by trial and epoch."""
    columns = ["trial_id", "schedule", "scope", "granularity"]
    return results.history.merge(selected(results)[columns], on="trial_id").sort_values(["trial_id", "epoch"])


@styled
def life(results: Results) -> Figure:
    """Draws validation accuracy, train loss and sparsity after each fine-tuning epoch of the selected networks."""
    rows = life_data(results)
    if rows.empty:
        return style.words("No selected network has a fine-tuning history.", results.trials)
    colours, markers = looks_of(results)
    figure, axes = style.panels(3, 1, (7.2, 6.6), sharey=False)
    upper, middle, lower = axes
    for (schedule, kind, _), trial in rows.groupby(["schedule", shape(results), "trial_id"]):
        look: dict[str, Any] = {"color": colours[schedule], "marker": markers[kind], "alpha": 0.75, "markersize": 4}
        epochs = trial["epoch"].astype("float64")
        upper.plot(epochs, 100 * trial["accuracy"], **look)
        middle.plot(epochs, trial["train_loss"], **look)
        lower.step(epochs, 100 * trial["sparsity"], where="pre", **look)
    dense = draw_baseline(upper, results, "accuracy")
    upper.set_ylabel("validation accuracy (%)")
    middle.set_ylabel("train loss (nats)")
    lower.set(ylabel="sparsity (%)", xlabel="fine-tuning epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = rows.groupby("trial_id")["accuracy"].last()
    floor = closeup_floor(last, baseline(results, "accuracy"))
    if floor is not None:
        close_up(upper, floor, rows["accuracy"])
        upper.set_title(f"{(last < floor).sum()} of {len(last)} end below the axis")
    style.legend(figure, {**keys(results, rows), "network": dense})
    caption = "Measured after each epoch, so the drop at a pruning step is shown after one epoch of recovery."
    style.head(figure, f"Fine-tuning of {counted(results, len(last))}", caption)
    return figure


def pruned_data(results: Results) -> pd.DataFrame:
    """The rows of `life_data` with the parameters pruned so far.

    time: seconds since the start of fine-tuning. gone: parameters removed or zero by then. Empty if the baseline's
    number of parameters is unknown.
    """
    rows, params = life_data(results), (results.record.get("baseline") or {}).get("params")
    trials = results.trials.set_index("trial_id")[["sparsity", "nonzero_params"]].astype("float64")
    ends = rows[["trial_id"]].join(trials, on="trial_id")
    # Parameters per unit of sparsity, from the final row; avoids counting the prunable ones.
    per_sparsity = (float(params or "nan") - ends["nonzero_params"]) / ends["sparsity"].where(ends["sparsity"] > 0)
    time = rows.groupby("trial_id")["seconds"].cumsum()
    return rows.assign(time=time, gone=rows["sparsity"] * per_sparsity).dropna(subset=["time", "gone"])


@styled
def pruned(results: Results) -> Figure:
    """Draws parameters pruned against fine-tuning time, for the selected networks."""
    rows = pruned_data(results)
    if rows.empty:
        return style.words("No selected network has a known history of pruned parameters.", results.trials)
    scale, unit = (1e6, "millions") if rows["gone"].max() >= 1e6 else (1e3, "thousands")
    colours, markers = looks_of(results)
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    ax = figure.subplots()
    for (schedule, kind, _), trial in rows.groupby(["schedule", shape(results), "trial_id"]):
        look: dict[str, Any] = {"color": colours[schedule], "marker": markers[kind], "alpha": 0.75, "markersize": 4}
        # Pruning happens before an epoch, so the value at an epoch's end also holds at its start.
        times, gone = [0.0, *trial["time"]], [trial["gone"].iloc[0], *trial["gone"]]
        ax.step(times, [value / scale for value in gone], where="pre", **look)
    ax.set(xlabel="seconds of fine-tuning", ylabel=f"parameters pruned ({unit})", xlim=(0, None), ylim=(0, None))
    style.legend(figure, keys(results, rows))
    number = rows["trial_id"].nunique()
    caption = "Masked parameters and those of removed channels. Markers are ends of epochs; jumps are pruning steps."
    style.head(figure, f"Parameters pruned over time: {counted(results, number)}", caption)
    return figure


def iterations_data(results: Results) -> pd.DataFrame:
    """State after each pruning step and its fine-tuning, for selected networks with several steps; one row per step.

    Columns: trial_id, schedule, iteration (from 1), epoch (the last before the next step), sparsity, train_loss,
    accuracy (validation).
    """
    rows = life_data(results)
    after = rows.groupby("trial_id")["sparsity"].shift(-1)
    rows = rows[~((after - rows["sparsity"]).abs() <= TOLERANCE)]
    rows = rows.assign(iteration=rows.groupby("trial_id").cumcount() + 1)
    several = rows.groupby("trial_id")["iteration"].transform("max") > 1
    columns = ["trial_id", "schedule", "iteration", "epoch", "sparsity", "train_loss", "accuracy"]
    return rows.loc[several, columns].reset_index(drop=True)

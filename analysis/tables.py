"""Tables: what they hold, data frames of raw fractions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import inf

import pandas as pd

from analysis.comparisons import ranks
from analysis.comparisons.criteria import criteria, scopes
from analysis.comparisons.effects import effects
from analysis.figures.life import iterations_data
from analysis.presentation.looks import MOST
from analysis.presentation.rendering import Table, label, text
from analysis.results_folder import (
    LAYERS,
    RECIPE,
    Results,
    axes,
    candidates,
    dense_control,
    importance_of,
    layers_of,
    networks,
    ordered,
    scans,
)
from analysis.statistics import runs
from analysis.statistics.pareto import front

BINS = (0.0, 0.5, 0.8, 0.95, inf)  # of achieved sparsity, each from its lower edge up to the next
MEASURES = [
    "requested_sparsity", "sparsity", "compression_ratio", "theoretical_speedup", "accuracy", "test_accuracy",
    "accuracy_drop",
]  # fmt: skip
COMPARED = [
    "sparsity", "accuracy", "test_accuracy", "train_seconds", "nonzero_params", "size_bytes", "sparse_size_bytes",
    "macs", "nonzero_macs", "latency_ms", "speedup", "batch_speedup",
]  # fmt: skip
SPEEDS = ["latency_ms", "speedup", "batch_speedup"]
LATENCY = [
    "trial_id", "granularity", "sparsity", "macs_ratio", "theoretical_speedup", "latency_ms", "latency_low_ms",
    "latency_high_ms", "baseline_latency_ms", "speedup", "large_batch", "batch_speedup", "size_bytes",
    "sparse_size_bytes",
]  # fmt: skip
_MEASURED = LATENCY[5:]


def summary(results: Results) -> Table:
    """The front, below a row for the baseline and one for each dense control. One row per network.

    Columns: trial_id, schedule and those recipe keys that vary in the study, the measures, the speeds that were
    measured of a network on the front, other objectives; where recipes of the front ran several times, mean and
    standard deviation of their test accuracy and n; where its cut networks were trained anew, the test accuracy of that
    (scratch, the mean over runs).
    """
    varying, constant = axes(results.trials)
    keys = [key for key in RECIPE if key in varying or key == "schedule"]
    best = runs.front(results)
    best = best.assign(scratch=best["trial_id"].map(_scratch(results.trials)))
    rows = pd.concat([_baseline(results), dense_control(results.trials), best], ignore_index=True)
    measured = [name for name in SPEEDS if best[name].notna().any()]
    extra = dict.fromkeys(name for name in (*measured, *results.objectives) if name not in MEASURES)
    extra |= dict.fromkeys(["test_accuracy_mean", "test_accuracy_std", "n"] if (best["n"] > 1).any() else [])
    extra |= dict.fromkeys(["scratch"] if best["scratch"].notna().any() else [])
    # A control is no recipe of the space: what prunes was at its default there, and did nothing.
    searched = rows["kind"].isin(["search", "confirm"])
    idle = {key: rows[key].where(searched) for key in keys if key not in _TRAINING}
    shared = "; ".join(f"{label(key)} {text(key, value)}" for key, value in constant.items() if key not in keys)
    what = f"{len(best) or 'No'} {'network is' if len(best) < 2 else 'networks are'} on the front"
    return Table(
        rows.assign(**idle)[["trial_id", *keys, *MEASURES, *extra]],
        f"{what}, which is chosen on validation accuracy." + f" The same for all: {shared}." * bool(shared),
    )


def _scratch(trials: pd.DataFrame) -> pd.Series:
    """For each row of the front the mean test accuracy of its cut network, trained anew."""
    anew = (trials["kind"] == "control") & (trials["schedule"] == "scratch") & (trials["state"] == "complete")
    return trials[anew].groupby("confirms")["test_accuracy"].mean()


def schedules(results: Results) -> Table:
    """Every schedule against the baseline: in every range of achieved sparsity, how many networks, and the best one.

    Columns: sparsity_range, schedule, networks, trial_id, COMPARED: the latter those of the network with the highest
    validation accuracy. The baseline is the first row, its train_seconds those of its whole training. Ranges without a
    network have no row.
    """
    rows = candidates(results.trials).dropna(subset=["accuracy", "sparsity", "schedule"])
    # Binned as they are printed: 0.94999, where 0.95 was asked for and weights come whole, is 95.0 %.
    ranges = pd.cut(rows["sparsity"].round(3), BINS, right=False, labels=[_range(*edges) for edges in pairwise(BINS)])
    names = pd.Categorical(rows["schedule"], ordered(rows["schedule"]))
    grouped = rows.assign(sparsity_range=ranges, schedule=names).groupby(["sparsity_range", "schedule"], observed=True)
    best = rows.loc[grouped["accuracy"].idxmax(), ["trial_id", *COMPARED]]
    counts = grouped.size().rename("networks").reset_index().astype({"sparsity_range": "str", "schedule": "str"})
    frame = pd.concat([counts, best.reset_index(drop=True)], axis=1)
    shown = [name for name in COMPARED if name not in SPEEDS or frame[name].notna().any()]
    dense = _baseline(results)[["trial_id", *shown]]
    return Table(
        pd.concat([dense, frame], ignore_index=True)[["sparsity_range", "schedule", "networks", "trial_id", *shown]],
        "In each range of sparsity, each schedule's network of the best validation accuracy, below the baseline. The "
        "more networks there are, the higher is their best by luck alone. Training is the fine-tuning, of the baseline "
        "all of its training.",
    )


def sizes(results: Results) -> Table:
    """Pruned share against size against accuracy after fine-tuning: a row for each granularity and tenth of sparsity.

    Columns: granularity, sparsity_range (achieved), networks; means of sparsity, nonzero_params, size_bytes,
    sparse_size_bytes, test_accuracy over them; trial_id, best_test_accuracy of the best on validation.
    """
    rows = candidates(results.trials).dropna(subset=["accuracy", "sparsity", "granularity"])
    edges = [round(0.1 * tenth, 1) for tenth in range(10)] + [0.95, 1.01]
    labels = [f"{100 * low:.0f} to {100 * min(high, 1):.0f} %" for low, high in pairwise(edges)]
    ranges = pd.cut(rows["sparsity"].round(3), edges, right=False, labels=labels)
    names = pd.Categorical(rows["granularity"], ordered(rows["granularity"]))
    grouped = rows.assign(sparsity_range=ranges, granularity=names).groupby(
        ["granularity", "sparsity_range"], observed=True
    )
    measures = ["sparsity", "nonzero_params", "size_bytes", "sparse_size_bytes", "test_accuracy"]
    means = grouped[measures].mean().reset_index(drop=True)
    counts = grouped.size().rename("networks").reset_index()
    best = rows.loc[grouped["accuracy"].idxmax(), ["trial_id", "test_accuracy"]].reset_index(drop=True)
    best = best.rename(columns={"test_accuracy": "best_test_accuracy"})
    frame = pd.concat([counts, means.rename(columns={"test_accuracy": "mean"}), best], axis=1)
    return Table(
        frame.astype({"granularity": "str", "sparsity_range": "str"}).rename(columns={"nonzero_params": "mean_params"}),
        "Means over all networks of that granularity and achieved sparsity, and the one best on validation. Size is "
        "that of the saved tensors, zeros included; sparse size that of a bitmap and the values left.",
    )


def iterations(results: Results) -> Table:
    """Accuracy after each iteration of networks that were cut several times: `life.iterations_data`."""
    return Table(
        iterations_data(results),
        "Validation accuracy and train loss after each cut and its fine-tuning, the last epoch before the next cut; of "
        f"the networks that were cut more than once, of those on the front where there are more than {MOST}.",
    )


def latency(results: Results) -> Table:
    """How fast the front's networks are and how big, below a row for each dense control. One row per network.

    Columns: trial_id, granularity, sparsity; macs_ratio, dense MACs by those that dense kernels execute, and
    theoretical_speedup, by those of non-zero weights; at batch 1 the median latency, its quartiles, the dense network's
    median beside it, speedup; the large batch, the speedup there; bytes, dense and sparse. Of the measured columns
    those are left out that are empty.
    """
    best, control = front(results.trials, results.objectives), dense_control(results.trials)
    rows = pd.concat([control.assign(granularity="dense"), best], ignore_index=True)
    # Of two products of the same row, so no other record has to be at hand.
    ratio = rows["theoretical_speedup"] * rows["nonzero_macs"].astype("float64") / rows["macs"].astype("float64")
    shown = [name for name in LATENCY if name not in _MEASURED or rows[name].notna().any()]
    how = (
        "Latency: median and quartiles of one forward pass at batch 1; each network was measured beside the dense one, "
        "in turn, after the search. The MACs ratio counts what dense kernels execute, the theoretical speedup skips "
        "zeros. The dense control's speedup shows what is chance."
    )
    known = rows[SPEEDS].notna().any(axis=None)
    return Table(rows.assign(macs_ratio=ratio)[shown], how if known else "No latency was measured.")


def importance(results: Results) -> Table:
    """How much each axis decides of reaching the best tenth in each objective, and near the front. One row per axis.

    Columns: axis, the objectives, front; the shares of a column add up to 1. PED-ANOVA, arXiv:2304.10255.
    """
    known = importance_of(results)
    shares = known.pivot(index="axis", columns="objective", values="importance")
    shares = shares[[name for name in (*results.objectives, "front") if name in shares]]
    rows = shares.sort_values(shares.columns[-1], ascending=False).reset_index() if len(known) else known[["axis"]]
    return Table(
        rows.rename_axis(columns=None),
        "How much each axis decides of reaching the best tenth in an objective, and of being near the front: shares "
        "that add up to 1 (PED-ANOVA over all complete trials of the search). Sparsity trivially determines itself.",
    )


def layers(results: Results) -> pd.DataFrame:
    """What the front's networks keep of every layer. One row per network, as the front has them, and layer.

    Columns: trial_id, requested_sparsity, sparsity (of the network), LAYERS. Written as csv only: a front of ResNet-50s
    has hundreds of rows, absurdly long on paper; figures/layers shows them. Empty where no network has a layers.csv.
    """
    best = front(results.trials, results.objectives)
    rows = best[["trial_id", "requested_sparsity", "sparsity"]].merge(layers_of(results, best), on="trial_id")
    return rows[["trial_id", "requested_sparsity", "sparsity", *LAYERS]]


def _baseline(results: Results) -> pd.DataFrame:
    dense = results.record.get("baseline") or {}
    known = {key: dense.get(key) for key in (*MEASURES, *COMPARED, *results.objectives)}
    known |= {
        "nonzero_params": dense.get("params"),
        "nonzero_macs": dense.get("macs"),
        "train_seconds": dense.get("seconds"),
    }
    # In turn with the pruned networks is how theirs were measured; what the record has was measured alone.
    if not pd.isna(in_turn := results.trials["baseline_latency_ms"].median()):
        known["latency_ms"] = in_turn
    ratios = dict.fromkeys(("compression_ratio", "theoretical_speedup", "speedup", "batch_speedup"), 1.0)
    fixed = {**ratios, "sparsity": 0.0, "accuracy_drop": 0.0}
    row = pd.DataFrame([{**known, **fixed, "trial_id": "baseline", "kind": "baseline"}])
    return row.reindex(columns=results.trials.columns).astype(results.trials.dtypes.to_dict())


def _range(low: float, high: float) -> str:
    if low == 0:
        return f"below {100 * high:.0f} %"
    return f"{100 * low:.0f} % and above" if high == inf else f"{100 * low:.0f} to {100 * high:.0f} %"


_TRAINING = {  # the keys that a dense control has in earnest
    "schedule", "finetune_epochs", "epochs_per_step", "finetune_lr", "lr_schedule", "optimizer", "weight_decay",
}  # fmt: skip


def applicable(results: Results) -> dict[str, Table]:
    """The tables of TABLES, made; those of one question alone (SOME) only where they have a row, of a scan none."""
    if networks(results.trials).empty and len(scans(results)):
        return {}
    made = {name: make(results) for name, make in TABLES.items()}
    return {name: table for name, table in made.items() if name not in SOME or len(table.frame)}


TABLES: dict[str, Callable[[Results], Table]] = {
    "summary": summary,
    "criteria": criteria,
    "scopes": scopes,
    "ranks": ranks.table,
    "effects": effects,
    "importance": importance,
    "schedules": schedules,
    "sizes": sizes,
    "iterations": iterations,
    "latency": latency,
}
SOME = {"criteria", "scopes", "ranks", "effects", "importance", "sizes", "iterations"}

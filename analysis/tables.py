"""The report's tables, as data frames of unrounded values (fractions, not percent) with captions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import inf

import pandas as pd

from analysis.comparisons import bits, ranks
from analysis.comparisons.criteria import criteria, scopes
from analysis.comparisons.effects import effects
from analysis.figures.life import iterations_data
from analysis.figures.progress import search_data
from analysis.presentation.looks import MAX_NETWORKS
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
from analysis.statistics import measures, runs
from analysis.statistics.baseline import at_chance, flattered, sentence
from analysis.statistics.pareto import front

EDGES = (0.0, 0.5, 0.8, 0.95, inf)  # of the ranges of achieved sparsity; a range excludes its upper edge
MEASURES = [
    "requested_sparsity", "sparsity", "compression_ratio", "theoretical_speedup", "accuracy", "test_accuracy",
    "accuracy_drop",
]  # fmt: skip
COMPARED = [
    "sparsity", "accuracy", "test_accuracy", "train_seconds", "nonzero_params", "size_bytes", "sparse_size_bytes",
    "macs", "nonzero_macs", "latency_ms", "speedup", "batch_speedup",
]  # fmt: skip
SHARES = [0.25, 0.5, 1.0]  # of the compute, at which a search is looked at
SPEEDS = ["latency_ms", "speedup", "batch_speedup"]
LATENCY = [
    "trial_id", "granularity", "sparsity", "macs_ratio", "theoretical_speedup", "latency_ms", "latency_low_ms",
    "latency_high_ms", "baseline_latency_ms", "speedup", "large_batch", "batch_speedup", "size_bytes",
    "sparse_size_bytes",
]  # fmt: skip
_MEASURED = LATENCY[5:]


def summary(results: Results) -> Table:
    """The baseline, each dense control, then the front. One row per network.

    Columns: trial_id, schedule and the recipe keys that vary in the study, the measures, any speeds measured for a
    network on the front, and the other objectives. If front recipes ran several times: mean and standard deviation of
    test accuracy, and n. If front networks were retrained from scratch: scratch, that mean test accuracy.
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
    # Controls prune nothing: their pruning keys hold defaults without effect, so these cells are left empty.
    searched = rows["kind"].isin(["search", "confirm"])
    blanked = {key: rows[key].where(searched) for key in keys if key not in _TRAINING_KEYS}
    shared = "; ".join(f"{label(key)} {text(key, value)}" for key, value in constant.items() if key not in keys)
    count = f"{len(best) or 'No'} {'network is' if len(best) < 2 else 'networks are'} on the front"
    dense = results.record["baseline"]
    told = [f"{count}, which is selected by validation accuracy."]
    told += [sentence(at_chance(dense)), sentence(flattered(results.study["baseline"], dense))]
    told += [f"The same for all: {shared}."] * bool(shared)
    return Table(
        rows.assign(**blanked)[["trial_id", *keys, *MEASURES, *extra]],
        " ".join(filter(None, told)),
    )


def _scratch(trials: pd.DataFrame) -> pd.Series:
    """Trial id of a front network -> mean test accuracy of its pruned architecture retrained from scratch."""
    retrained = (trials["kind"] == "control") & (trials["schedule"] == "scratch") & (trials["state"] == "complete")
    return trials[retrained].groupby("confirms")["test_accuracy"].mean()


def schedules(results: Results) -> Table:
    """The best network of each schedule in each range of achieved sparsity, and the number of networks there.

    Columns: sparsity_range, schedule, networks (count), and trial_id and COMPARED of the network with the highest
    validation accuracy. The first row is the baseline; its train_seconds are those of its full training. Ranges
    without a network have no row.
    """
    rows = candidates(results.trials).dropna(subset=["accuracy", "sparsity", "schedule"])
    # Binned as printed: a request of 0.95 may achieve 0.94999 (whole weights only), which is printed as 95.0 %.
    ranges = pd.cut(rows["sparsity"].round(3), EDGES, right=False, labels=[_range(*edges) for edges in pairwise(EDGES)])
    names = pd.Categorical(rows["schedule"], ordered(rows["schedule"]))
    grouped = rows.assign(sparsity_range=ranges, schedule=names).groupby(["sparsity_range", "schedule"], observed=True)
    best = rows.loc[grouped["accuracy"].idxmax(), ["trial_id", *COMPARED]]
    counts = grouped.size().rename("networks").reset_index().astype({"sparsity_range": "str", "schedule": "str"})
    frame = pd.concat([counts, best.reset_index(drop=True)], axis=1)
    shown = [name for name in COMPARED if name not in SPEEDS or frame[name].notna().any()]
    dense = _baseline(results)[["trial_id", *shown]]
    return Table(
        pd.concat([dense, frame], ignore_index=True)[["sparsity_range", "schedule", "networks", "trial_id", *shown]],
        "The baseline, then each schedule's network with the best validation accuracy in each sparsity range. Choosing "
        "from more networks raises the best by chance. Training time is that of fine-tuning; for the baseline, of its "
        "full training.",
    )


def sizes(results: Results) -> Table:
    """Size and test accuracy after fine-tuning, for each granularity and 10 % range of achieved sparsity.

    Columns: granularity, sparsity_range, networks (count); means over these of sparsity, mean_params (non-zero),
    size_bytes, sparse_size_bytes and test accuracy (mean); trial_id and best_test_accuracy of the best on validation.
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
        "Means over all networks of each granularity and sparsity range, and the network with the best validation "
        "accuracy there. Size: the saved tensors, including zeros. Sparse size: a bitmap plus the non-zero values.",
    )


def iterations(results: Results) -> Table:
    """Accuracy after each pruning step of networks that were pruned several times: `life.iterations_data`."""
    return Table(
        iterations_data(results),
        "Validation accuracy and train loss in the last epoch before the next pruning step, for networks pruned more "
        f"than once. With more than {MAX_NETWORKS} complete networks, only those on the front.",
    )


def latency(results: Results) -> Table:
    """Latency, speedup and size of each dense control and of the networks on the front. One row per network.

    Columns: trial_id, granularity, sparsity; macs_ratio (dense MACs / MACs executed by dense kernels),
    theoretical_speedup (dense MACs / MACs of non-zero weights); at batch 1 the median latency, its quartiles, the dense
    network's median and the speedup; large_batch (its size) and the speedup there; bytes, dense and sparse. Measured
    columns without a value are left out.
    """
    best, control = front(results.trials, results.objectives), dense_control(results.trials)
    rows = pd.concat([control.assign(granularity="dense"), best], ignore_index=True)
    # theoretical_speedup x nonzero_macs = the dense network's MACs, so the baseline's record is not needed.
    ratio = rows["theoretical_speedup"] * rows["nonzero_macs"].astype("float64") / rows["macs"].astype("float64")
    shown = [name for name in LATENCY if name not in _MEASURED or rows[name].notna().any()]
    caption = (
        "Latency: median and quartiles of one forward pass at batch 1, measured after the search, alternating with the "
        "dense network. The MACs ratio counts what dense kernels execute; the theoretical speedup skips zeros. The "
        "dense control's speedup shows the measurement noise."
    )
    known = rows[SPEEDS].notna().any(axis=None)
    return Table(rows.assign(macs_ratio=ratio)[shown], caption if known else "No latency was measured.")


def importance(results: Results) -> Table:
    """Importance of each axis for the best 10 % in each objective, and for being near the front. One row per axis.

    Columns: axis, the objectives, front. Each column sums to 1. PED-ANOVA, arXiv:2304.10255.
    """
    known = importance_of(results)
    shares = known.pivot(index="axis", columns="objective", values="importance")
    shares = shares[[name for name in (*results.objectives, "front") if name in shares]]
    rows = shares.sort_values(shares.columns[-1], ascending=False).reset_index() if len(known) else known[["axis"]]
    return Table(
        rows.rename_axis(columns=None),
        "What tells the best trials from the others: importance of each axis for reaching the best 10 % in each "
        "objective, and for being near the front (PED-ANOVA over all complete trials of the search; each column sums "
        "to 1). Sparsity trivially determines itself. The figure of the variance that each axis explains asks another "
        "question: how far apart the levels' accuracies are, over all networks. An axis may lead in one and not in the "
        "other.",
    )


def layers(results: Results) -> pd.DataFrame:
    """Weights and channels left in each layer of the front's networks. One row per network, in front order, and layer.

    Columns: trial_id, requested_sparsity, sparsity (of the network), LAYERS. Empty if no network has a layers.csv.
    Written as csv only, since a front of ResNet-50s has hundreds of rows; figures/layers shows them.
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
    # Prefer the latency measured alternating with the pruned networks: the record's was measured on its own.
    if not pd.isna(alternating := results.trials["baseline_latency_ms"].median()):
        known["latency_ms"] = alternating
    ratios = dict.fromkeys(("compression_ratio", "theoretical_speedup", "speedup", "batch_speedup"), 1.0)
    fixed = {**ratios, "sparsity": 0.0, "accuracy_drop": 0.0}
    row = pd.DataFrame([{**known, **fixed, "trial_id": "baseline", "kind": "baseline"}])
    return row.reindex(columns=results.trials.columns).astype(results.trials.dtypes.to_dict())


def _range(low: float, high: float) -> str:
    if low == 0:
        return f"below {100 * high:.0f} %"
    return f"{100 * low:.0f} % and above" if high == inf else f"{100 * low:.0f} to {100 * high:.0f} %"


def search(results: Results) -> Table:
    """What the search had found after a quarter, half and all of its compute. No rows if the dense accuracy is unknown.

    Columns: share (of the compute), seconds, trials, hypervolume (see `progress.reference`), and the measures of
    `analysis.statistics.measures`.
    """
    rows = search_data(results)
    places = (
        [int((rows["seconds"] <= share * rows["seconds"].max()).sum()) - 1 for share in SHARES] if len(rows) else []
    )
    found = rows.iloc[[max(0, place) for place in places]].assign(share=SHARES[: len(places)])
    return Table(
        found[["share", "seconds", "trials", "hypervolume", *measures.NAMES]].reset_index(drop=True),
        "What the search had found after a share of its compute (wall time of all trials), on validation images. Near: "
        f"the hypervolume of accuracy above {100 * measures.MARGIN:.0f} points below the dense network, and sparsity. "
        "Within 1, 2, 5: the highest sparsity that costs at most so many points of accuracy. The dense network is the "
        "better of baseline and dense control.",
    )


_TRAINING_KEYS = {  # recipe keys that take effect in a dense control
    "schedule", "finetune_epochs", "epochs_per_step", "finetune_samples", "finetune_lr", "lr_schedule", "optimizer",
    "weight_decay", "distil", "temperature",
}  # fmt: skip


def applicable(results: Results) -> dict[str, Table]:
    """Makes the tables of TABLES; those in OPTIONAL only if they have a row. None for a study that is only a scan."""
    if networks(results.trials).empty and len(scans(results)):
        return {}
    made = {name: make(results) for name, make in TABLES.items()}
    return {name: table for name, table in made.items() if name not in OPTIONAL or len(table.frame)}


TABLES: dict[str, Callable[[Results], Table]] = {
    "summary": summary,
    "search": search,
    "criteria": criteria,
    "scopes": scopes,
    "ranks": ranks.table,
    "effects": effects,
    "importance": importance,
    "schedules": schedules,
    "sizes": sizes,
    "ways": bits.ways,
    "iterations": iterations,
    "latency": latency,
}
OPTIONAL = {"search", "criteria", "scopes", "ranks", "effects", "importance", "sizes", "ways", "iterations"}

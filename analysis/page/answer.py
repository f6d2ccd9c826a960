"""The study's answer, made from its data: a sentence, and what its trials and seeds do not allow to be said."""

from __future__ import annotations

import pandas as pd

from analysis.layers.sensitivity import costliest, sensitivity_data
from analysis.presentation.rendering import percent
from analysis.results_folder import Results, candidates, dense_control, tally
from analysis.statistics import runs
from analysis.statistics.choice import _choose, quoted


def answer(results: Results) -> tuple[str, str]:
    """The study's answer in a sentence, and in others what it rests on and what may not be concluded from it.

    The network is chosen on validation accuracy, over all its runs, and quoted with test accuracy.
    """
    complete, chosen = candidates(results.trials), quoted(results)
    if complete.empty and len(scanned := sensitivity_data(results)):
        limits = "Nothing was fine-tuned, and what a layer costs alone does not add up to what several cost together."
        return costliest(scanned), limits
    if complete.empty:
        return "No network was completed, so there is no answer yet.", f"Trials: {tally(results.trials)}."
    if chosen is None:
        which = "The only complete network" if len(complete) == 1 else f"None of the {len(complete)} complete networks"
        return (
            f"{which} {'does not meet' if len(complete) == 1 else 'meets'} the constraints.",
            f"Trials: {tally(results.trials)}.",
        )
    sentence = f"At {percent(chosen['sparsity'])} % sparsity, {recipe(chosen)} {_loses(results, chosen)}"
    return (
        f"{sentence}{_smaller(results, chosen)}.",
        f"{_which(results, chosen, len(complete))} {_limits(results, chosen)}",
    )


def recipe(row: pd.Series) -> str:
    """A recipe as a sentence says it: "global magnitude l1 of weights with a gradual schedule"."""
    said = {key: None if pd.isna(row[key]) else str(row[key]).replace("_", " ") for key in _NAMED}
    kind = said["granularity"]
    cut = _CUT.get(kind or "", f" of {kind} blocks" if kind else "")
    where = {"layer": "layer-wise"}.get(said["scope"] or "", said["scope"])
    when = _WHEN.get(said["schedule"] or "", f"with the schedule {said['schedule']}" if said["schedule"] else None)
    return " ".join(filter(None, (where, (said["criterion"] or "pruning") + cut, when)))


def _loses(results: Results, row: pd.Series) -> str:
    """What is lost, and no more than the runs allow."""
    found, count = runs.loss(results, row)
    if pd.isna(found.value):
        return f"has an unknown test accuracy{_of_runs(count)}"
    if count == 1:
        verb = "lost" if found.value >= 0 else "gained"
        return f"{verb} {percent(abs(found.value))} points of test accuracy in its only run"
    change = f"{percent(abs(found.value))} ± {percent(found.high - found.value)} points of test accuracy"
    said = f"{'loses' if found.value >= 0 else 'gains'} {change} (mean and 95 % interval over {count} runs)"
    return f"{said}, which may be nothing," if found.low <= 0 <= found.high else said


def _of_runs(count: int) -> str:
    return f" over {count} runs" if count > 1 else ""


def _smaller(results: Results, row: pd.Series) -> str:
    """What is gained for it: bytes where tensors became smaller, else what is left that is not zero; and time."""
    dense = (results.record.get("baseline") or {}).get("size_bytes")
    said = []
    if row["granularity"] in SMALLER and dense and pd.notna(row["size_bytes"]):
        said.append(f"is {dense / row['size_bytes']:.1f} × smaller")
    elif pd.notna(row["compression_ratio"]):
        said.append(f"has {row['compression_ratio']:.1f} × fewer parameters that are not zero")
    if pd.notna(row["speedup"]) and row["granularity"] in SMALLER:
        said.append(f"runs {row['speedup']:.1f} × as fast")
    return "".join(f"{' and' if part == said[-1] else ','} {part}" for part in said)


def _which(results: Results, row: pd.Series, count: int) -> str:
    why = _choose(runs.front(results), results)[1]
    tested = runs.runs_of(results, row)["test_accuracy"].dropna()
    spread = f" ({percent(tested.min())} to {percent(tested.max())} %)" if len(tested) > 1 else ""
    known = {
        "the baseline's": (results.record.get("baseline") or {}).get("test_accuracy"),
        "the dense control's": dense_control(results.trials)["test_accuracy"].mean(),
    }
    beside = "".join(f", {whose} {percent(value)} %" for whose, value in known.items() if not pd.isna(value))
    which = f"of {count} complete networks {why} on validation data" if count > 1 else "the only complete network"
    accuracy = f"its test accuracy is {percent(tested.mean())} %{spread}" if len(tested) else "nothing was tested"
    return f"This is trial {row['trial_id']}, {which}; {accuracy}{beside}."


def _limits(results: Results, row: pd.Series) -> str:
    if len(candidates(results.trials)) == 1:
        return "One run shows that it can be done, and compares nothing."
    if len(runs.runs_of(results, row)) > 1:
        return (
            "It was picked for the run that looked best, which is among those of the mean: a little of it is luck. "
            "Recipes whose intervals overlap are not told apart, and the baseline is one network of one seed."
        )
    return (
        "Its recipe ran with one seed and was picked from many, so small differences may be chance, and no recipe is "
        "shown to be better than another."
    )


_WHEN = {
    "one shot": "in one shot",
    "iterative": "with an iterative schedule",
    "gradual": "with a gradual schedule",
}
SMALLER = ("channel", "hybrid")  # granularities that leave smaller tensors
_CUT = {"weight": " of weights", "channel": " of channels", "hybrid": " of channels, then weights"}
_NAMED = ("criterion", "granularity", "scope", "schedule")  # of a recipe, in a sentence

"""Composes the report's answer from the data: the main result in one sentence, and its limitations."""

from __future__ import annotations

import pandas as pd

from analysis.layers.sensitivity import costliest, sensitivity_data
from analysis.presentation.rendering import percent
from analysis.results_folder import Results, candidates, tally
from analysis.statistics import runs
from analysis.statistics.baseline import at_chance, flattered, sentence
from analysis.statistics.choice import _choose, quoted


def answer(results: Results) -> tuple[str, str]:
    """The main result in one sentence; then its basis and limitations in further sentences.

    The network is selected by validation accuracy, averaged over its runs, and reported with test accuracy. Of a
    baseline at chance nothing else is said.
    """
    complete, chosen = candidates(results.trials), quoted(results)
    if chance := at_chance(results.record["baseline"]):
        return sentence(chance), f"Train it longer, or check the weights it was given. Trials: {tally(results.trials)}."
    if complete.empty and len(scanned := sensitivity_data(results)):
        limits = "Nothing was fine-tuned, and drops of single layers do not add up when several are pruned together."
        return costliest(scanned), limits
    if complete.empty:
        return "No network was completed, so there is no answer yet.", f"Trials: {tally(results.trials)}."
    if chosen is None:
        which = "The only complete network" if len(complete) == 1 else f"None of the {len(complete)} complete networks"
        return (
            f"{which} {'does not meet' if len(complete) == 1 else 'meets'} the constraints.",
            f"Trials: {tally(results.trials)}.",
        )
    seen = sentence(flattered(results.study["baseline"], results.record["baseline"]))
    untouched, control = runs.dense_accuracies(results)
    if control < untouched:
        seen = f"{_HARMFUL} {seen}".strip()
    change = f"At {percent(chosen['sparsity'])} % sparsity, {recipe(chosen)} {_accuracy_change(results, chosen)}"
    return (
        f"{change}{_savings(results, chosen)}.",
        " ".join((_selection(results, chosen, len(complete)), _limitations(results, chosen), seen)).strip(),
    )


def recipe(row: pd.Series) -> str:
    """A recipe in words: "global magnitude l1 of weights with a gradual schedule"."""
    words = {key: None if pd.isna(row[key]) else str(row[key]).replace("_", " ") for key in _NAMED_KEYS}
    kind = words["granularity"]
    units = _UNITS.get(kind or "", f" of {kind} blocks" if kind else "")
    scope = _SCOPES.get(words["scope"] or "", words["scope"])
    schedule = words["schedule"]
    schedule = _SCHEDULES.get(schedule or "", f"with the schedule {schedule}" if schedule else None)
    return " ".join(filter(None, (scope, (words["criterion"] or "pruning") + units, schedule)))


def _accuracy_change(results: Results, row: pd.Series) -> str:
    """The loss of test accuracy, with an interval if there are several runs."""
    found, count, control, images = runs.loss(results, row)
    against = " against the dense control" if control else ""
    if pd.isna(found.value):
        return f"has an unknown test accuracy{_of_runs(count)}"
    if count == 1:
        verb = "lost" if found.value >= 0 else "gained"
        return f"{verb} {percent(abs(found.value))} points of test accuracy{against} in its only run"
    change = f"{percent(abs(found.value))} ± {percent(found.high - found.value)} points of test accuracy{against}"
    text = f"{'loses' if found.value >= 0 else 'gains'} {change} (mean and 95 % interval over {count} runs"
    text += " and the test images)" if images else ")"
    return f"{text}, which may be zero," if found.low <= 0 <= found.high else text


def _of_runs(count: int) -> str:
    return f" over {count} runs" if count > 1 else ""


def _savings(results: Results, row: pd.Series) -> str:
    """The savings: bytes if tensors became smaller, otherwise non-zero parameters; and the measured speedup."""
    dense = (results.record.get("baseline") or {}).get("size_bytes")
    parts = []
    if row["granularity"] in SMALLER and dense and pd.notna(row["size_bytes"]):
        parts.append(f"is {dense / row['size_bytes']:.1f} × smaller")
    elif pd.notna(row["compression_ratio"]):
        parts.append(f"has {row['compression_ratio']:.1f} × fewer non-zero parameters")
    if pd.notna(row["speedup"]) and row["granularity"] in SMALLER:
        parts.append(f"runs {row['speedup']:.1f} × as fast")
    return "".join(f"{' and' if part == parts[-1] else ','} {part}" for part in parts)


def _selection(results: Results, row: pd.Series, count: int) -> str:
    """Which trial is quoted, why it was selected, and its test accuracy beside those of the dense networks."""
    why = _choose(runs.front(results), results)[1]
    tested = runs.runs_of(results, row)["test_accuracy"].dropna()
    spread = f" ({percent(tested.min())} to {percent(tested.max())} %)" if len(tested) > 1 else ""
    known = dict(zip(("the baseline's", "the dense control's"), runs.dense_accuracies(results), strict=True))
    dense = "".join(f", {name} {percent(value)} %" for name, value in known.items() if not pd.isna(value))
    selected = f"selected from {count} complete networks as {why} on validation data"
    which = selected if count > 1 else "the only complete network"
    accuracy = f"its test accuracy is {percent(tested.mean())} %{spread}" if len(tested) else "nothing was tested"
    return f"This is trial {row['trial_id']}, {which}; {accuracy}{dense}."


def _limitations(results: Results, row: pd.Series) -> str:
    if len(candidates(results.trials)) == 1:
        return "A single run shows what is possible but supports no comparison."
    if len(runs.runs_of(results, row)) > 1:
        return (
            "It is on the front because of its best run, which is included in the mean, so the mean is slightly "
            "optimistic. Recipes with overlapping intervals cannot be told apart, and the baseline is one network with "
            "one seed."
        )
    return (
        "Its recipe ran with one seed and was selected from many, so small differences may be chance, and no recipe is "
        "shown to be better than another."
    )


_HARMFUL = (
    "The dense control fell below the untouched baseline, so this fine-tuning harms by itself: part of the loss may be "
    "its doing, and a lower rate or more epochs may lose less."
)
_SCOPES = {"layer": "layer-wise", "both": "global and layer-wise"}
_SCHEDULES = {
    "one shot": "in one shot",
    "iterative": "with an iterative schedule",
    "gradual": "with a gradual schedule",
}
SMALLER = ("channel", "hybrid")  # granularities that make tensors smaller
_UNITS = {"weight": " of weights", "channel": " of channels", "hybrid": " of channels, then weights"}
_NAMED_KEYS = ("criterion", "granularity", "scope", "schedule")  # recipe keys mentioned in the sentence

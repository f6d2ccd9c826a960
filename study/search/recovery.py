"""Recovery after a killed driver: recorded trials are told to Optuna; others run again.

A driver is usually killed for a reason of its own, such as the end of a machine's time. A trial becomes a failed row
only if it seems to end its driver: if it has several times been the only one that ran, and had just started.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from study.config import Recipe
from study.config import axes as spaces
from study.config.recipe import EARLIER_DEFAULTS
from study.samplers import optuna_adapter
from study.search import suggestions
from study.search.journal_check import Known
from study.search.trial_store import LOST, TrialStore, trial_seed
from study.training.epochs import Row
from study.trials.rows import failed_row, recipe_columns

SOON = 60  # seconds from the start of a trial in which it is blamed for the end of its driver


def recover(store: TrialStore) -> set[str]:
    """Load the trials of earlier processes into the store; returns the keys of finished controls and confirmations."""
    jobs: set[str] = set()
    blamed = _blamed(store)
    for kind, study in store.studies.items():
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            if "record" in frozen.user_attrs:
                store.take_up(frozen)
        for frozen in trials:
            if frozen.state != TrialState.RUNNING:
                continue
            trial = optuna_adapter.reopen_trial(study, frozen)
            if optuna_adapter.storage_id(frozen) == blamed:
                trial.set_user_attr("losses", _losses(frozen) + 1)
            if record := frozen.user_attrs.get("record"):
                store.conclude(trial, record["row"])
            elif frozen.user_attrs.get("paused"):
                store.reopen(trial, frozen)
            elif kind == "search":
                _run_again(store, trial, frozen, trials)
            else:
                _release(store, kind, trial, trials)
        jobs |= {t.user_attrs["aside"]["job"] for t in study.get_trials(deepcopy=False) if _is_finished_extra(t)}
    for name, columns in store.search.user_attrs.items():
        if name.startswith("measured:"):
            store.records[name.removeprefix("measured:")][0].update(columns)
    return jobs


def _blamed(store: TrialStore) -> int | None:
    """The storage's id of the trial that seems to have ended the driver: the only one that ran, and just started."""
    trials = (trial for study in store.studies.values() for trial in study.get_trials(deepcopy=False))
    running = [
        one
        for one in trials
        if one.state == TrialState.RUNNING and "record" not in one.user_attrs and not one.user_attrs.get("paused")
    ]
    if len(running) != 1 or not (started := running[0].datetime_start):
        return None
    return optuna_adapter.storage_id(running[0]) if store.last_alive - started.timestamp() <= SOON else None


def _losses(trial: FrozenTrial) -> int:
    """How often the trial was blamed, in its earlier runs too."""
    return int(trial.user_attrs.get("losses", 0))


def _run_again(store: TrialStore, trial: Trial, frozen: FrozenTrial, trials: list[FrozenTrial]) -> None:
    """Enqueue a lost search trial again with the same parameters, seed and outstanding copies."""
    attrs, params = trial.user_attrs, optuna_adapter.trial_parameters(frozen)
    if "candidate" in attrs and "chosen" not in attrs:  # to be screened; others will be drawn
        store.search.tell(trial, state=TrialState.FAIL)
        return
    if (losses := attrs.get("losses", 0)) >= store.file.study.max_losses:
        recipe = {key: value for key, value in params.items() if key in Recipe.model_fields}
        store.tell(store.open(trial, "search", recipe), failed_row(recipe, f"{LOST} {losses} times"), [])
        return
    copied = any(other.user_attrs.get("of") == frozen.number for other in trials)
    again = {
        "copy": True,
        "copies": 0 if copied else attrs.get("copies", store.file.study.seeds - 1),
        "losses": losses,
        "seed": attrs.get("seed", trial_seed(store.file.study.seed, "search", frozen.number)),
        "replaces": frozen.number,
        **({"chosen": attrs["chosen"]} if "chosen" in attrs else {}),
    }
    # Killed between these two calls, the trial is still RUNNING at the next start: it must not be enqueued twice.
    if not any(other.user_attrs.get("replaces") == frozen.number for other in trials):
        store.search.enqueue_trial(params, user_attrs=again)
    store.search.tell(trial, state=TrialState.FAIL)


def _release(store: TrialStore, kind: str, trial: Trial, trials: Iterable[FrozenTrial]) -> None:
    """Let `ask_control` or `ask_confirm` return a lost trial again, or record it as failed after `max_losses`."""
    extra = trial.user_attrs.get("aside")
    others = (one for one in trials if extra and one.user_attrs.get("aside", {}).get("job") == extra["job"])
    losses = sum(_losses(one) for one in others if one.number != trial.number) + trial.user_attrs.get("losses", 0)
    if extra and losses >= store.file.study.max_losses:
        store.tell(store.open(trial, kind, extra["recipe"]), failed_row(extra["recipe"], f"{LOST} {losses} times"), [])
    else:
        store.studies[kind].tell(trial, state=TrialState.FAIL)


def recipe_of(known: Known, axes: spaces.Axes) -> Row | None:
    """The recipe of a trial of the search: from its parameters, or else from its row; None if neither fits the row."""

    def from_row(key: str, axis: spaces.Axis) -> Any:
        value = known.row.get("requested_sparsity" if key == "sparsity" else key)
        value = tuple((value or "").split()) if key == "protect" else value
        usual = axis.choices[0] if axis.choices else axis.low  # where the row has what the schedule makes of it
        return value if value in (axis.choices or ()) or (not axis.choices and value is not None) else usual

    with suppress(LookupError, ValueError, TypeError):
        if _fits(recipe := suggestions.recipe(known.params, axes), known.row):
            return recipe
    recipe = spaces.draw(axes, from_row)
    return recipe if _fits(recipe, known.row) else None


def _fits(recipe: Row, row: Row) -> bool:
    try:
        columns = recipe_columns(Recipe(**recipe))
    except ValueError:  # an invalid combination of axes
        columns = failed_row(recipe, "")
    asked = {"requested_sparsity" if key == "sparsity" else key for key in recipe}
    cells = EARLIER_DEFAULTS | {key: value for key, value in row.items() if value is not None}
    return all((cells.get(key) or None) == (columns[key] or None) for key in asked)


def _is_finished_extra(trial: FrozenTrial) -> bool:
    return "aside" in trial.user_attrs and "record" in trial.user_attrs

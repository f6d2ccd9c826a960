"""Recovery after a killed driver: recorded trials are told to Optuna; others run again or become failed rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from optuna.trial import FrozenTrial, Trial, TrialState

from study.config import Recipe
from study.samplers import optuna_adapter
from study.search.trial_store import LOST, TrialStore, trial_seed
from study.trials.rows import failed_row

ATTEMPTS = 2  # runs of a trial whose driver was killed, in total


def recover(store: TrialStore) -> set[str]:
    """Load the trials of earlier processes into the store; returns the keys of finished controls and confirmations."""
    jobs: set[str] = set()
    for kind, study in store.studies.items():
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            if "record" in frozen.user_attrs:
                store.take_up(frozen)
        attempts = Counter(frozen.user_attrs.get("aside", {}).get("job") for frozen in trials)
        for frozen in trials:
            if frozen.state != TrialState.RUNNING:
                continue
            trial = optuna_adapter.reopen_trial(study, frozen)
            if record := frozen.user_attrs.get("record"):
                store.conclude(trial, record["row"])
            elif kind == "search":
                _run_again(store, trial, frozen, trials)
            else:
                _release(store, kind, trial, attempts)
        jobs |= {t.user_attrs["aside"]["job"] for t in study.get_trials(deepcopy=False) if _is_finished_extra(t)}
    for name, columns in store.search.user_attrs.items():
        if name.startswith("measured:"):
            store.records[name.removeprefix("measured:")][0].update(columns)
    return jobs


def _run_again(store: TrialStore, trial: Trial, frozen: FrozenTrial, trials: list[FrozenTrial]) -> None:
    """Enqueue a lost search trial again with the same parameters, seed and outstanding copies."""
    attrs, params = frozen.user_attrs, optuna_adapter.trial_parameters(frozen)
    attempt = attrs.get("attempt", 1)
    if attempt >= ATTEMPTS:
        recipe = {key: value for key, value in params.items() if key in Recipe.model_fields}
        store.tell(store.open(trial, "search", recipe), failed_row(recipe, f"{LOST} {attempt} times"), [])
        return
    copied = any(other.user_attrs.get("of") == frozen.number for other in trials)
    again = {
        "copy": True,
        "copies": 0 if copied else attrs.get("copies", store.file.study.seeds - 1),
        "attempt": attempt + 1,
        "seed": attrs.get("seed", trial_seed(store.file.study.seed, "search", frozen.number)),
        "replaces": frozen.number,
    }
    # Killed between these two calls, the trial is still RUNNING at the next start: it must not be enqueued twice.
    if not any(other.user_attrs.get("replaces") == frozen.number for other in trials):
        store.search.enqueue_trial(params, user_attrs=again)
    store.search.tell(trial, state=TrialState.FAIL)


def _release(store: TrialStore, kind: str, trial: Trial, attempts: Mapping[str | None, int]) -> None:
    """Let `ask_control` or `ask_confirm` return a lost trial again, or record it as failed after ATTEMPTS runs."""
    extra = trial.user_attrs.get("aside")
    if extra and attempts[extra["job"]] >= ATTEMPTS:
        row = failed_row(extra["recipe"], f"{LOST} {attempts[extra['job']]} times")
        store.tell(store.open(trial, kind, extra["recipe"]), row, [])
    else:
        store.studies[kind].tell(trial, state=TrialState.FAIL)


def _is_finished_extra(trial: FrozenTrial) -> bool:
    return "aside" in trial.user_attrs and "record" in trial.user_attrs

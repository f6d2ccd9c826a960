"""Breaks the study's protocol on purpose, one rule at a time, and tells which tests notice.

    python -m benchmarks.mutate [NAME ...]

Each mutation changes one line in a copy of the project and runs the tests that should fail. Printed are those that
survive: rules that no test holds. Exit code 1 if any does. Add a line to MUTATIONS with every rule of the protocol.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("study", "pruning", "models", "search_spaces", "analysis", "tests", "benchmarks", "docs", "pyproject.toml")


class Mutation(NamedTuple):
    """One rule broken: in `file`, `old` (found exactly once) becomes `new`; `tests` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


PROTOCOL = "tests/study/trials/test_protocol.py"
EFFECTS = "tests/analysis/comparisons/test_effects.py"
STEPS, TUNING, SCORING = "study/trials/steps.py", "study/trials/finetuning.py", "study/trials/scoring.py"
QUEUE = "study/search/trial_queue.py"
MUTATIONS = [
    Mutation("selects on test images", "study/trials/rows.py", "data.images, data.validation)\n    # Networks",
             "data.images, data.test)\n    # Networks", "tests/study/trials"),
    Mutation("history on test images", TUNING, "self._data.images, self._data.validation",
             "self._data.images, self._data.test", PROTOCOL),
    Mutation("tests on validation images", "study/trials/rows.py", "evaluation.correct(model, data.images, data.test)",
             "evaluation.correct(model, data.images, data.validation)", PROTOCOL),
    Mutation("fine-tunes on validation images too", STEPS,
             "train=rows_of(training_images(context.data, recipe.finetune_samples), device)",
             "train=torch.cat([data.train, data.validation])", PROTOCOL),
    Mutation("calibrates on validation images", "study/data/splits.py",
             "return np.asarray(data.train[stratified(data.labels[data.train], samples, [seed, _CALIBRATION])])",
             "return np.asarray(data.validation[:samples])", PROTOCOL),
    Mutation("lr_schedule ignored", TUNING, "optimisers.LR_SCHEDULES[recipe.lr_schedule]", "optimisers.constant",
             PROTOCOL),
    Mutation("learning rate one step late", TUNING, "self._factor((i - start) / steps)",
             "self._factor(max(0, i - 1 - start) / steps)", PROTOCOL),
    Mutation("restarts do not restart", TUNING, "recipe.lr_schedule in optimisers.RESTARTING", "False", PROTOCOL),
    Mutation("every schedule restarts", TUNING, "recipe.lr_schedule in optimisers.RESTARTING", "True", PROTOCOL),
    Mutation("weight decay dropped", STEPS, "recipe.finetune_lr, recipe.weight_decay)", "recipe.finetune_lr, 0.0)",
             PROTOCOL),
    Mutation("no momentum", "study/training/optimisers.py", "momentum=0.9, nesterov=True", "momentum=0.0", PROTOCOL),
    Mutation("momentum not carried over a cut", STEPS,
             "    carry_state(optimizer, before.model, rebuilt, after.model, after.last)\n", "", PROTOCOL),
    Mutation("trial not seeded by its seed", STEPS, "torch.Generator().manual_seed(seed)  # on the CPU",
             "torch.Generator().manual_seed(0)  # on the CPU", PROTOCOL),
    Mutation("batches not seeded by the trial", TUNING, "data.train, section.batch_size, seed)",
             "data.train, section.batch_size, 0)", PROTOCOL),
    Mutation("calibration images not drawn by the trial's seed", STEPS,
             "calibration(context.data, recipe.calibration_samples, seed), device)\n    pruned",
             "calibration(context.data, recipe.calibration_samples, 0), device)\n    pruned", PROTOCOL),
    Mutation("scores always from draw 0", SCORING, "[context.seed, seed % RUNS]", "[context.seed, 0]", PROTOCOL),
    Mutation("scores never shared", SCORING, "[context.seed, seed % RUNS]", "[context.seed, seed]", PROTOCOL),
    Mutation("a recipe's runs share a draw", QUEUE, "if number not in begun)", "if True)",
             "tests/study/search/test_trial_queue.py"),
    Mutation("confirmations share a draw", QUEUE, "run = CONFIRMING + copy if", "run = CONFIRMING if",
             "tests/study/search/test_trial_queue.py"),
    Mutation("recalibrates without augmentation", STEPS, "data.images, calibrating, generator)",
             "data.images, calibrating)", PROTOCOL),
    Mutation("never recalibrates", STEPS, "if recipe.recalibrate:", "if False:", PROTOCOL),
    Mutation("masks not held", TUNING, "after_step=reapply_masks,", "", "tests/study/trials"),
    Mutation("later cuts use the first scores", STEPS, "_carry_optimizer(optimizer, recipe, before, pruned), None",
             "_carry_optimizer(optimizer, recipe, before, pruned), scores", PROTOCOL),
    Mutation("cuts of unequal budget", STEPS, "round(number * (tuning.steps",
             "round(number / len(cuts) * number * (tuning.steps", "tests/study/trials"),
    Mutation("sparse epochs without their lasso", STEPS, "pruned, optimizer, lasso)", "pruned, optimizer)",
             "tests/study/trials/test_sparse_learning.py"),
    Mutation("sparse epochs beyond the budget", STEPS, "(tuning.steps - tuning.sparse_steps)", "tuning.steps",
             "tests/study/trials/test_sparse_learning.py"),
    Mutation("scores from before sparse learning", STEPS, "scores = None  # of",
             "scores = baseline_scores(recipe, seed, context, data.images, pruned)  # of",
             "tests/study/trials/test_sparse_learning.py"),
    Mutation("teacher trained along", TUNING, "teacher().eval()", "teacher()", PROTOCOL),
    Mutation("rungs count half epochs", "study/selection/early_stopping.py", "return math.floor(epoch",
             "return math.ceil(epoch", "tests/study/selection/test_early_stopping.py"),
    Mutation("effects without confirmations", "analysis/comparisons/effects.py", "every = networks(results.trials)",
             'every = networks(results.trials[results.trials["kind"] == "search"])', EFFECTS),
    Mutation("effects chosen on test images", "analysis/comparisons/effects.py", 'marginal(rows, axis, "accuracy")',
             "marginal(rows, axis)", EFFECTS),
    Mutation("effects corrected for the winner's pairs only", "analysis/comparisons/effects.py",
             'holm([line["p"] for line in lines])[: len(levels) - 1]',
             'np.array([line["p"] for line in lines])[: len(levels) - 1]', EFFECTS),
    Mutation("more paused trials go on than their share", "study/selection/early_stopping.py",
             "return trials // self._reduction", "return trials", "tests/study/selection/test_early_stopping.py"),
    Mutation("a paused trial goes on with another's random state", "study/execution/trainable.py",
             "torch.set_rng_state(paused.random[0])", "pass", "tests/study/execution/test_tune.py"),
    Mutation("epochs that a paused trial repeats cost nothing", "study/results/monitor.py",
             'self._repeated.get(ticket.trial_id, 0.0) + record["seconds"]', "0.0",
             "tests/study/results/test_monitor.py"),
    Mutation("paused trials are lost with their driver", "study/search/recovery.py",
             'elif frozen.user_attrs.get("paused"):', "elif False:", "tests/study/results/test_monitor.py"),
    Mutation("older studies get today's defaults", "study/driver/session.py",
             "EARLIER_DEFAULTS | record", "record", "tests/study/driver/test_session.py"),
    Mutation("the history has the dense network's MACs", STEPS, "if pruned.plan else context", "if False else context",
             "tests/study/trials/test_steps.py"),
]  # fmt: skip


def survives(mutation: Mutation, folder: Path) -> bool:
    """Whether all tests pass although the rule is broken. Raises ValueError if the line is not found exactly once."""
    path = folder / mutation.file
    sound = path.read_text()
    if sound.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} has {sound.count(mutation.old)} of {mutation.old!r}")
    path.write_text(sound.replace(mutation.old, mutation.new))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not ray and not slow", mutation.tests]
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode == 0
    finally:
        path.write_text(sound)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    names = sys.argv[1:] if argv is None else argv
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    alive = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        for part in COPIED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, Path(name) / part)
        for mutation in chosen:
            started = time.monotonic()
            lives = survives(mutation, Path(name))
            alive += [mutation.name] * lives
            word = "SURVIVES" if lives else "noticed"
            print(f"{word:9} {mutation.name} ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{len(chosen)} mutations, {len(alive)} survive" + "".join(f"\n  {name}" for name in alive))
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())

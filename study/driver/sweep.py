"""Runs a study from the baseline to the report."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar

import torch

import models
from analysis.page.answer import answer
from analysis.report import report as write_report
from analysis.results_folder import read
from analysis.statistics.choice import quoted
from models.files import write_whole
from pruning.measure.distributions import HISTOGRAM, SCORES, histograms
from study.baseline import disk_cache, layer_latencies
from study.baseline.network import Baseline, arrays, save
from study.config import RefusedError
from study.data.stored import DiskImages
from study.driver.agenda import Agenda
from study.driver.resolution import resolve, runtime_of
from study.driver.session import StudyRun, command, resume_command
from study.quantization import runtime
from study.results import files
from study.results.handlers import TrialHandlers, TrialReport
from study.results.live_view import LiveView
from study.results.messages import recipe_line, row_line, trial_line
from study.results.monitor import TrialMonitor
from study.results.recorder import TrialRecorder, stamp
from study.selection import prior
from study.training.epochs import Row
from study.training.speed import speeds
from study.trials import scan
from study.trials.context import Ticket, TrialContext

P = ParamSpec("P")
T = TypeVar("T")
UNFINISHED = {"stopped": "stopped early", "screened": "screened out"}  # state -> its words in the last lines
# Keys of the baseline's card that are not copied to study.yaml.
NOT_RECORDED = {"mean", "std", "class_names", "layers", "layer_scores", "normalisation", "sha256"}


def run_study(run: StudyRun) -> int:
    """Run a study to its end or deadline; returns the exit code: 0, or 1 if no trial was completed."""
    from study.execution import cluster, remote  # slow to import; invalid input is refused before

    file, record = run.file, run.record
    images = run.data.images.path if isinstance(run.data.images, DiskImages) else None
    if images:
        print(f"images: {run.data.images.nbytes / 1e9:.1f} GB decoded; every process reads what it needs from {images}")
    with cluster.cluster(run.options.address, file, run.options.temporary, images) as dashboard:
        files.write_study(run.folder, file.resolved(), record)  # not before: the same command can then be typed again
        prior.keep(run.folder, run.queue.prior)
        run.options.interruption.install()
        token = f"   dashboard: {dashboard} (token: ray get-auth-token)" if dashboard else ""
        print(f"results: {run.folder}{token}")
        run = replace(run, dashboard=dashboard)
        make_baseline = partial(remote.make_baseline, niceness=file.resources.niceness)
        try:
            baseline = disk_cache.obtain(file.baseline, run.data, lambda: make_baseline(file.baseline, run.data))
        except remote.TaskError as error:
            path = run.folder / "errors" / "baseline.txt"
            write_whole(path, error.traceback)
            raise RefusedError(f"baseline.model {file.baseline.model}: training failed: {error}; see {path}") from None
        record["baseline"] = {k: v for k, v in baseline.card.items() if k not in NOT_RECORDED}
        _write_study(run, baseline)
        about = {"metrics": record["baseline"], "dataset": file.baseline.dataset, "versions": record["versions"]}
        save(run.folder / "baseline", baseline, about)
        run.queue.learn(baseline.card)
        timed = "latency_ms" in file.study.objectives
        context = TrialContext(
            baseline, run.data, file.baseline, file.study.seed,
            timed=timed, runtime=runtime_of(file), minutes=file.study.trial_minutes,
            taught=max(file.values("distil")) > 0, screening=file.study.screen.images if file.study.screen else 0,
            pauses=bool(file.study.stop_early and file.study.stop_early.promote),
        )  # fmt: skip
        if "latency" in file.values("sparsity_of"):
            context = context._replace(latencies=_layer_latencies(run, baseline, remote.on_device_alone))
        if scan_file := scan.scan_study(file):
            rows = _run_scan(run.of_scan(resolve(scan_file, run.data)), context)
            context = context._replace(curves=scan.curves(rows))
        _run_trials(run, context)
        _measure_front(run, context, remote.on_device_alone)
        files.project(run.folder, run.store.records)
        files.write_importance(run.folder, run.store.importance())
    return _finish(run)


def _write_study(run: StudyRun, baseline: Baseline) -> None:
    files.write_study(run.folder, run.file.resolved(), run.record)
    files.write_rows(run.folder / "layer_scores.csv", SCORES, baseline.card["layer_scores"])
    files.write_correct(run.folder, "baseline", baseline.correct)


def _layer_latencies(run: StudyRun, baseline: Baseline, alone: Callable[..., Any]) -> layer_latencies.Latencies:
    def measure() -> layer_latencies.Latencies:
        print("measuring the latency of every layer", flush=True)
        found: layer_latencies.Latencies = alone(layer_latencies.measure, dense, run.data.in_shape)
        return found

    dense = baseline.network(torch.device("cpu"))
    try:
        return layer_latencies.kept(run.folder / "layer_latencies.csv", measure)
    except ValueError as error:
        raise RefusedError(str(error)) from None


def _run_scan(run: StudyRun, context: TrialContext) -> list[Row]:
    """Run a sensitivity scan, reusing cached results; returns its rows."""
    try:
        _write_study(run, context.baseline)
        _run_trials(run, context._replace(timed=False))
        return run.store.rows()
    finally:
        run.store.close()


def _run_trials(run: StudyRun, context: TrialContext) -> None:
    """Run the remaining trials of a study and record their results."""
    from study.execution import allotment, remote, tune

    store, card, resources = run.store, context.baseline.card, run.file.resources
    allotted = allotment.allotment(resources, alone=context.timed)
    if 0 < allotted.each["gpu"] < 1 and (memory := remote.on_device_alone(allotment.trial_memory, context)):
        allotment.check_memory(allotted.each["gpu"], *memory)
    with LiveView(run.file.study.name, store.runs, run.dashboard, store.finished) as view:
        recorder = TrialRecorder(run.folder, store, view, card, run.record["versions"])

        def report(ended: TrialReport) -> None:
            if repeated := monitor.repeated(ended.ticket.trial_id):
                ended.row["wall_seconds"] = ended.row.get("wall_seconds", 0.0) + repeated
            recorder.record(ended)
            monitor.over(ended.ticket)
            run.scans.add(ended.ticket.recipe, ended.row)

        curves = run.folder / "tensorboard" if run.options.tensorboard else None
        monitor = TrialMonitor(store, view, card, report, curves)
        disk = _DiskErrors()
        wrap = disk.keeping
        agenda = Agenda(run, recorder, monitor)

        def ask() -> Ticket | Literal["wait"] | None:
            ticket = agenda.ask()
            if isinstance(ticket, Ticket):
                view.begin(ticket.trial_id, trial_line(ticket.recipe, ticket.control, ticket.confirms))
            return ticket

        def screened(ticket: Ticket, rows: list[Row], chosen: int) -> Ticket:
            ended = time.time()
            for row in reversed(rows):  # they were screened one after another
                stamp(row, ended)
                ended = row["started"]
            trained = run.queue.screened(ticket, rows, chosen)
            view.screened(ticket.trial_id, trained.trial_id, recipe_line(trained.recipe))
            return trained

        interrupted = run.options.interruption.happened
        handlers = TrialHandlers(wrap(ask), wrap(report), wrap(monitor.epoch), wrap(screened), interrupted)
        try:
            tune.run_trials(context, resources, allotted, handlers, run.options.temporary)
        except Exception:
            if disk.errors:
                raise disk.errors[0] from None
            raise
        finally:
            files.project(run.folder, store.records)


class _DiskErrors:
    """Keeps OSErrors of callbacks to raise them later, since Ray turns exceptions into strings."""

    def __init__(self) -> None:
        self.errors: list[OSError] = []

    def keeping(self, callback: Callable[P, T]) -> Callable[P, T]:
        """Wraps `callback` so that its OSErrors are kept."""

        def kept(*arguments: P.args, **named: P.kwargs) -> T:
            try:
                return callback(*arguments, **named)
            except OSError as error:
                self.errors.append(error)
                raise

        return kept


def _measure_front(run: StudyRun, context: TrialContext, alone: Callable[..., Any]) -> None:
    """Measure the latencies of saved networks, after all trials, when the study runs nothing else on the device."""
    baseline = context.baseline
    _write_histograms(run, baseline)
    saved = sorted(
        p.name for p in (run.folder / "models").glob("*") if "latency_ms" not in run.store.records[p.name][0]
    )
    if not saved:
        return
    print(f"measuring the latency of {len(saved)} networks", flush=True)
    folders = {trial_id: run.folder / "models" / trial_id for trial_id in saved}
    networks: dict[str, Any] = {trial_id: models.load(folder)[0] for trial_id, folder in folders.items()}
    measure: Callable[..., Any] = speeds
    if context.runtime == runtime.NAME:
        measure = runtime.speeds
        networks = {
            name: runtime.Finished(networks[name], models.load_onnx(folder)) for name, folder in folders.items()
        }
    in_shape = tuple(baseline.card["in_shape"])
    dense = baseline.network(torch.device("cpu"))
    for trial_id, columns in alone(measure, networks, dense, in_shape).items():
        run.store.measured(trial_id, columns)


def _write_histograms(run: StudyRun, baseline: Baseline) -> None:
    """Write histograms of the weights of every saved network and of the dense network."""
    layers = [row["layer"] for row in baseline.card["layers"]]
    for folder in sorted(run.folder.glob("models/*")):
        if not (folder / "histograms.csv").exists():
            network = arrays(models.load(folder)[0])
            files.write_rows(folder / "histograms.csv", HISTOGRAM, histograms(layers, baseline.state, network))


def _finish(run: StudyRun) -> int:
    folder, rows = run.folder, run.store.rows()
    write_report(folder)
    states = Counter(row["state"] for row in rows)
    early = "".join(f"{states[s]} {words}, " for s, words in UNFINISHED.items() if states[s])
    print(
        f"{states['complete']} trials complete, {early}{states['failed']} failed; "
        f"tables, figures and networks are in {folder}"
    )
    if left := run.store.runs - run.store.finished:
        print(
            f"time limit: {left} of {run.store.runs} trials not run; continue with: {resume_command(folder)} --hours H"
        )
    if not states["complete"]:
        errors = [row_line(row) for row in rows][:3]
        print("error: no trial was completed. " + "; ".join(errors), file=sys.stderr)
        return 1
    results = read(folder)
    print(f"answer: {answer(results)[0]}\nreport: {folder / 'report.html'}")
    chosen = quoted(results)
    if chosen is not None and (folder / "models" / chosen["trial_id"]).is_dir():
        export = f"{command('export')} {shlex.quote(str(folder))} --trial {chosen['trial_id']}"
        print(f"next: {export} --format exported_program   # that network as one file for other programs")
    return 0

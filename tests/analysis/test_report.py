"""The command: what it writes, what it says, and a page that is safe, whole and claims no more than it may."""

from __future__ import annotations

import base64
import html.parser
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image, ImageChops, ImageStat
from scipy import stats

from analysis import read
from analysis.figures import registry
from analysis.page.answer import answer
from analysis.page.page import failures, page
from analysis.presentation.rendering import percent
from analysis.presentation.style import words
from analysis.report import main, report
from analysis.statistics import pareto
from analysis.tables import TABLES as TABLE_MAKERS
from tests.results_folder import ERRORS, make

ROOT = Path(__file__).parents[2]
NAMES = (
    "front", "hypervolume", "search", "timeline", "accuracy_by_schedule", "accuracy_by_scope", "costs", "importance",
    "rates", "recipes", "life", "pruned", "layers", "latency",
)  # fmt: skip
ALWAYS = {"front", "hypervolume", "accuracy_by_schedule", "life", "layers", "latency", "summary", "schedules"}
MADE = ("summary", "search", "effects", "schedules", "sizes", "iterations", "latency")
TABLES = [f"tables/{name}.{kind}" for name in MADE for kind in ("csv", "md", "tex")]
FIGURES = [f"figures/{name}.{kind}" for name in NAMES for kind in ("png", "pdf")]
WRITTEN = sorted(["pareto.csv", "report.html", "tables/layers.csv", *TABLES, *FIGURES])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("results") / "study")
    report(folder)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class Page(html.parser.HTMLParser):
    """What a page is made of: its tags, its words, and every address in it. Unclosed tags are an error."""

    VOID = ("meta", "link", "img", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.addresses: list[str] = []
        self.images: list[dict[str, str]] = []
        self.blocks: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        self.images += [dict(attrs)] if tag == "img" else []
        self._open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._open:
            self.blocks[self._open[-1]] = data


def test_everything_is_written(folder: Path) -> None:
    assert files(folder) == sorted([*WRITTEN, "history.csv", "study.yaml", "trials.csv"])


def test_pareto_csv_has_the_rows_as_trials_csv_has_them(folder: Path) -> None:
    results = read(folder)
    trials, front = (pd.read_csv(folder / name, dtype=str) for name in ("trials.csv", "pareto.csv"))
    added = ["accuracy_mean", "accuracy_std", "test_accuracy_mean", "test_accuracy_std", "n"]
    own = trials.columns.drop("confirms", "ignore")
    assert [name for name in front.columns if name != "confirms"] == [*own, *added]
    assert front["n"].eq("1").all()
    assert front["test_accuracy_mean"].tolist() == front["test_accuracy"].tolist()
    assert front["accuracy_std"].isna().all()
    ids = pareto.front(results.trials, results.objectives)["trial_id"]
    assert front["trial_id"].tolist() == ids.tolist()
    pd.testing.assert_frame_equal(front[trials.columns], trials.set_index("trial_id").loc[ids].reset_index())


def test_figures_are_200_dots_an_inch(folder: Path) -> None:
    with Image.open(folder / "figures" / "front.png") as image:
        assert image.width == 1440
        assert image.info["dpi"][0] == pytest.approx(200, abs=0.1)


def test_the_page_asks_nothing_of_the_network(folder: Path) -> None:
    content = (folder / "report.html").read_text(encoding="utf-8")
    written = Page(content)
    assert len(written.images) == len(NAMES)
    assert all(address.startswith(("data:", "#")) for address in written.addresses)
    assert not {"iframe", "object", "form"} & set(written.tags)
    assert written.tags.count("script") == 3  # the library, the data, the program: tried in a browser by test_page
    before = content.partition("<script>")[0]
    assert "default-src 'none'" in before
    assert "url(" not in before
    assert "@import" not in before
    assert "prefers-color-scheme: dark" in before


def test_the_page_holds_the_figures_themselves(folder: Path) -> None:
    written = Page((folder / "report.html").read_text(encoding="utf-8"))
    for image, name in zip(written.images, NAMES, strict=True):
        inlined = base64.b64decode(image["src"].partition("base64,")[2])
        whole = (folder / "figures" / f"{name}.png").read_bytes()
        assert len(inlined) <= len(whole)
        with Image.open(io.BytesIO(inlined)) as one, Image.open(io.BytesIO(whole)) as other:
            assert one.size == other.size
            gap = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
            assert max(ImageStat.Stat(gap).mean) < 1  # of 255
    assert written.images[0]["alt"] == "9 of 54 networks on the front"


def test_the_page_says_what_failed_and_why_in_letters_only(folder: Path) -> None:
    written = Page((folder / "report.html").read_text(encoding="utf-8"))
    for error in ERRORS:
        assert error in written.words
    assert "a <fast> one" in written.words
    assert "0000, 0002, 0004" in written.words


@pytest.mark.parametrize(
    ("granularities", "said"),
    [
        (("weight",), "9 of 9 networks have single weights masked"),
        (("weight", "channel"), "5 of 9 networks have single weights masked"),
        (("channel",), None),
    ],
)
def test_the_page_says_that_zeros_gain_no_time(
    tmp_path: Path, granularities: tuple[str, ...], said: str | None
) -> None:
    results = read(make(tmp_path / "study", granularities=granularities, measured=True))
    tables = {name: make_table(results) for name, make_table in TABLE_MAKERS.items()}
    words = Page(page(results, tables, {})).words
    assert ("single weights masked" in words) == (said is not None)
    assert (said or "Speed and size") in words
    assert ("they save no time; only removed channels do" in words) == (said is not None)


def test_the_layers_table_is_written_with_every_front_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "study", 9, 0, layers=4)
    monkeypatch.setattr(registry, "FIGURES", {})  # which take seconds
    report(folder)
    frame = pd.read_csv(folder / "tables" / "layers.csv", dtype={"trial_id": str})
    front = pd.read_csv(folder / "pareto.csv", dtype={"trial_id": str})
    assert frame["trial_id"].tolist() == [name for name in front["trial_id"] for _ in range(4)]


def test_a_name_is_escaped_everywhere(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", 6, 2, schedule="<b>&x", error="</table><img src=http://evil>")
    study = yaml.safe_load((folder / "study.yaml").read_text())
    study["study"]["name"] = "</title><script>1</script>"
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    results = read(folder)
    tables = {name: make_table(results) for name, make_table in TABLE_MAKERS.items()}
    written = Page(page(results, tables, {}))
    assert not {"b", "img"} & set(written.tags)
    assert written.tags.count("script") == 3
    assert written.tags.count("title") == 1
    assert "</table><img src=http://evil>" in written.words


def test_the_page_tells_how_to_run_the_study_again(folder: Path) -> None:
    written = Page((folder / "report.html").read_text(encoding="utf-8"))
    study = yaml.safe_load((folder / "study.yaml").read_text())
    study.pop("record")
    assert yaml.safe_load(written.blocks["pre"]) == study
    assert "python -m study.run --out again --space again.yaml" in written.words
    assert "torch 2.15" in written.words


def test_the_answer_quotes_the_network_it_names(folder: Path) -> None:
    results = read(folder)
    sentence, limits = answer(results)
    front = pareto.front(results.trials, results.objectives)
    row = front[front["accuracy"] >= 0.931 - 0.01].iloc[-1]  # the sparsest within a point of the baseline
    assert f"trial {row['trial_id']}, " in limits
    where = {"layer": "layer-wise"}.get(row["scope"], row["scope"])
    assert sentence.startswith(f"At {100 * row['sparsity']:.1f} % sparsity, {where} magnitude l1 of weights ")
    assert (
        f" lost {100 * (0.929 - row['test_accuracy']):.1f} points of test accuracy against the dense control in"
        in sentence
    )
    assert f"has {row['compression_ratio']:.1f} × fewer non-zero parameters." in sentence
    assert f"its test accuracy is {100 * row['test_accuracy']:.1f} %" in limits
    assert "the baseline's 92.4 %, the dense control's 92.9 %" in limits
    assert "one seed" in limits
    assert "no recipe is shown to be better" in limits


def test_with_several_seeds_the_mean_is_quoted_not_the_luckiest(tmp_path: Path) -> None:
    results = read(make(tmp_path / "seeds", 30, 4, seeds=3))
    sentence, limits = answer(results)
    named = limits.split("trial ")[1][:4]
    first = 3 * (int(named) // 3)
    runs = results.trials.set_index("trial_id").loc[[f"{first + i:04d}" for i in range(3)], "test_accuracy"]
    assert f"is {100 * runs.mean():.1f} % ({100 * runs.min():.1f} to {100 * runs.max():.1f} %)" in limits
    low, high = stats.ttest_1samp(runs, 0).confidence_interval(0.95)
    change = 0.929 - runs.mean()
    verb = "loses" if change >= 0 else "gains"
    assert f"{verb} {percent(abs(change))} ± {percent((high - low) / 2)} points of test accuracy against" in sentence
    assert "(mean and 95 % interval over 3 runs)" in sentence
    assert ("which may be zero" in sentence) == (0.929 - high <= 0 <= 0.929 - low)
    assert "overlapping intervals" in limits


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ({"trials": 5, "failed": 5, "control": False}, "No network was completed, so there is no answer yet."),
        ({"trials": 0, "failed": 0, "control": False}, "No network was completed, so there is no answer yet."),
        ({"trials": 5, "failed": 1, "feasible": False}, "None of the 4 complete networks meets the constraints."),
        ({"trials": 1, "failed": 0, "feasible": False}, "The only complete network does not meet the constraints."),
        (
            {"trials": 1, "failed": 0},
            "At 74.0 % sparsity, global magnitude l1 of weights in one shot lost",
        ),
        (
            {"trials": 1, "failed": 0, "granularities": ("2:4",)},
            "At 74.0 % sparsity, global magnitude l1 of 2:4 blocks in one shot lost",
        ),
        (
            {"trials": 1, "failed": 0, "granularities": ("hybrid",)},
            "At 74.0 % sparsity, global magnitude l1 of channels, then weights in one shot lost",
        ),
        ({"trials": 9, "failed": 0, "accuracy_drop": 0.3}, "selected from 9 complete networks as the most accurate on"),
        (
            {"trials": 9, "failed": 0, "objectives": {"accuracy": "max"}},
            "selected from 9 complete networks as the most",
        ),
        (
            {"trials": 9, "failed": 0, "objectives": {"macs": "min"}},
            "selected from 9 complete networks as the one with the lowest MACs",
        ),
    ],
)
def test_the_answer_of_small_studies(tmp_path: Path, study: dict[str, Any], expected: str) -> None:
    sentence, limits = answer(read(make(tmp_path / "study", **study)))
    assert sentence.startswith(expected) or f", {expected}" in limits
    assert limits.endswith(".")
    assert "nan" not in sentence


@pytest.mark.parametrize("trials", [0, 3])
def test_small_and_failed_studies_have_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int) -> None:
    folder = make(tmp_path / "study", trials, trials // 2 * 2, control=False, history=False)
    for name in registry.FIGURES:  # test_fronts draws them, of such studies too
        monkeypatch.setitem(registry.FIGURES, name, lambda results: words("Nothing.", results.trials))
    report(folder)
    assert {path for path in WRITTEN if Path(path).stem in ALWAYS} < set(files(folder))
    Page((folder / "report.html").read_text(encoding="utf-8"))


def test_failures_are_grouped_by_reason(tmp_path: Path) -> None:
    trials = read(make(tmp_path / "study", 25, 23)).trials
    trials.loc[0, ["state", "error"]] = ["stopped", None]
    frame = failures(trials)
    assert frame["number"].tolist() == [11, 11, 1]
    assert frame["state"].tolist() == ["failed", "failed", "stopped"]
    assert frame["reason"].tolist() == [ERRORS[1], ERRORS[0], "others were better after the same number of epochs"]
    assert frame["trials"][0] == "0001, 0003, 0005, 0007, 0009, 0011, 0013, 0015 and 3 more"


def test_the_command_writes_the_same_again_and_says_so_in_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = {name: registry.FIGURES[name] for name in ("life", "pruned")}  # all of them take 20 s
    monkeypatch.setattr(registry, "FIGURES", drawn)
    before = {name: (folder / name).read_bytes() for name in WRITTEN}
    assert main([str(folder)]) == 0  # in several processes; `folder` was drawn in one
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    assert out.startswith(f"{folder}: wrote report.html")
    page = before.pop("report.html")
    assert {name: (folder / name).read_bytes() for name in before} == before
    (folder / "report.html").write_bytes(page)  # with all figures


def test_a_wrong_folder_is_one_message_and_exit_code_2_and_needs_neither_torch_nor_ray_nor_the_engine(
    tmp_path: Path,
) -> None:
    (tmp_path / "study.yaml").write_text("study: 1\n")
    code = """if True:
        import atexit, runpy, sys
        atexit.register(lambda: print(sorted({"torch", "ray", "optuna", "study"} & set(sys.modules))))
        runpy.run_module("analysis.report", run_name="__main__")  # as python -m
    """
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == "[]\n"
    assert done.stderr == f"error: {tmp_path}: no results folder of a study: trials.csv, history.csv missing\n"
    assert files(tmp_path) == ["study.yaml"]


def test_a_failed_write_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (folder / name).read_bytes() for name in WRITTEN}

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(registry, "FIGURES", {})  # which take seconds
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err == "error: no space left on device\n"
    assert {name: (folder / name).read_bytes() for name in WRITTEN} == before
    assert set(files(folder)) == {*WRITTEN, "history.csv", "study.yaml", "trials.csv"}

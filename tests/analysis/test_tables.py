"""Tables: what they hold, that csv reads back, and that md, tex and html say the same, escaped."""

from __future__ import annotations

import html.parser
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from analysis import Results, read
from analysis.presentation.rendering import (
    as_csv,
    as_html,
    as_latex,
    as_markdown,
    percent,
    text,
    write_table,
    write_whole,
)
from analysis.statistics import pareto
from analysis.tables import applicable, latency, layers, schedules, summary
from study.config import columns
from tests.results_folder import BASELINE, make

SCRIPT = "<script>alert(1)</script>"
NASTY = ["a | b", SCRIPT, "50 % & more", r"back\slash", "x_1^2 ~ #3 {}", "*bold* [link] `code`", "$"]
NASTY_MARKDOWN = ["__init__", "_a_", "a_b_c", "~~gone~~", "&amp;", "![i](u)", "# no head", "- no list", "1. x", r"\|"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(make(tmp_path_factory.mktemp("results") / "study"))


class Cells(html.parser.HTMLParser):
    """The text of every table cell, and every tag met."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self._inside = tag in ("td", "th")
        self.cells += [""] * self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


def test_summary_is_the_front_below_the_dense_networks(results: Results) -> None:
    frame, caption = summary(results)
    front = pareto.front(results.trials, results.objectives)
    assert frame["trial_id"].tolist() == ["baseline", "c0000", *front["trial_id"]]
    assert frame.columns[:5].tolist() == ["trial_id", "scope", "schedule", "steps", "finetune_lr"]
    assert frame.loc[2:, "accuracy"].tolist() == front["accuracy"].tolist()
    assert caption.startswith("9 networks are on the front")
    assert "criterion magnitude_l1" in caption
    assert "scope" not in caption


def test_summary_says_what_is_known_of_the_dense_networks(results: Results) -> None:
    baseline, control = summary(results).frame.iloc[0], summary(results).frame.iloc[1]
    assert baseline["test_accuracy"] == BASELINE["test_accuracy"]
    assert baseline[["sparsity", "compression_ratio", "accuracy_drop"]].tolist() == [0, 1, 0]
    assert control["schedule"] == "dense"
    assert control["finetune_lr"] > 0
    assert pd.isna(control["scope"])  # nothing was pruned there
    assert pd.isna(control["steps"])


def test_objectives_have_a_column(tmp_path: Path) -> None:
    folder = make(tmp_path / "macs", 6, 0, objectives={"accuracy": "max", "macs": "min", "size_bytes": "min"})
    frame = summary(read(folder)).frame
    assert frame["macs"].iloc[0] == BASELINE["macs"]
    assert "| 1107.1 |" in as_markdown(frame)  # kilobytes


def test_summary_has_the_speeds_that_were_measured(results: Results, tmp_path: Path) -> None:
    speeds = ["latency_ms", "speedup", "batch_speedup"]
    assert not set(speeds) & set(summary(results).frame.columns)
    measured = read(make(tmp_path / "both", granularities=("weight", "channel"), measured=True))
    frame = summary(measured).frame
    assert frame.columns[-3:].tolist() == speeds
    assert frame.loc[:1, speeds].to_numpy().tolist() == [[3.2, 1, 1]] * 2
    assert frame.loc[frame["granularity"] == "weight", "speedup"].eq(1).all()
    assert frame.loc[frame["granularity"] == "channel", "batch_speedup"].gt(2).all()
    measured.trials[["speedup", "batch_speedup"]] = np.nan
    assert [name for name in summary(measured).frame.columns if name in speeds] == ["latency_ms"]


def test_an_objective_that_was_measured_has_one_column(tmp_path: Path) -> None:
    objectives = {"accuracy": "max", "latency_ms": "min"}
    frame = summary(read(make(tmp_path / "fast", 6, 0, measured=True, objectives=objectives))).frame
    assert frame.columns.tolist().count("latency_ms") == 1
    alone = summary(read(make(tmp_path / "alone", 6, 0, latency_ms=2.0, objectives=objectives))).frame
    assert alone["latency_ms"].tolist()[:2] == [3.2, pytest.approx(np.nan, nan_ok=True)]  # of the record, no control


def test_latency_has_the_front_below_the_control(tmp_path: Path) -> None:
    results = read(make(tmp_path / "both", granularities=("weight", "channel"), measured=True))
    front = pareto.front(results.trials, results.objectives)
    frame, caption = latency(results)
    assert frame["trial_id"].tolist() == ["c0000", *front["trial_id"]]
    assert frame["granularity"].tolist() == ["dense", *front["granularity"]]
    rows = frame.set_index("trial_id").loc[front["trial_id"]]
    assert rows["macs_ratio"].tolist() == pytest.approx((BASELINE["macs"] / front["macs"]).tolist())
    assert rows.loc[rows["granularity"] == "weight", "macs_ratio"].tolist() == pytest.approx([1] * 5)
    for name in ("latency_low_ms", "latency_ms", "latency_high_ms", "speedup", "batch_speedup", "sparse_size_bytes"):
        assert rows[name].tolist() == front[name].tolist()
    assert frame["large_batch"].tolist() == [64] * len(frame)
    assert "quartiles" in caption


def test_latency_leaves_out_what_nobody_measured(results: Results, tmp_path: Path) -> None:
    frame, caption = latency(results)
    assert frame.columns[5:].tolist() == ["size_bytes", "sparse_size_bytes"]
    assert caption == "No latency was measured."
    nobody = latency(read(make(tmp_path / "none", 2, 2, control=False))).frame
    assert nobody.shape == (0, 5)
    as_latex(nobody)
    one = read(make(tmp_path / "one", 1, 0, measured=True, control=False))
    one.trials[["large_batch", "batch_speedup"]] = pd.NA  # by an engine that knows no large batch
    assert {"speedup"} == {name for name in latency(one).frame.columns if "speedup" in name} - {"theoretical_speedup"}
    assert len(latency(one).frame) == 1


def test_layers_have_a_row_for_each_network_and_layer(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 12, 0, layers=5))
    front = pareto.front(results.trials, results.objectives)
    (results.folder / "models" / front["trial_id"].iloc[1] / "layers.csv").unlink()
    frame = layers(results)
    assert frame.columns.tolist() == ["trial_id", "requested_sparsity", "sparsity", *columns.LAYERS]
    left = front.drop(front.index[1])
    assert frame["trial_id"].tolist() == [name for name in left["trial_id"] for _ in range(5)]
    assert frame["sparsity"].unique().tolist() == left["sparsity"].tolist()
    assert frame.loc[:4, "layer"].tolist() == [f"layer{1 + i // 4}.{i % 4}.conv" for i in range(5)]
    assert frame["dense_weights"].eq(144).all()


def test_without_files_the_table_of_layers_is_a_header(results: Results) -> None:
    assert as_csv(layers(results)) == ",".join(["trial_id", "requested_sparsity", "sparsity", *columns.LAYERS]) + "\n"


def test_schedules_hold_the_best_on_validation(results: Results) -> None:
    frame = schedules(results).frame
    rows = results.trials.query("state == 'complete' and kind == 'search'")
    middle = rows[(rows["sparsity"] >= 0.5) & (rows["sparsity"] < 0.8) & (rows["schedule"] == "gradual")]
    best = middle.sort_values("accuracy").iloc[-1]
    found = frame.query("sparsity_range == '50 to 80 %' and schedule == 'gradual'").iloc[0]
    assert found["networks"] == len(middle)
    assert found["trial_id"] == best["trial_id"]
    assert found["test_accuracy"] == best["test_accuracy"]
    assert frame["networks"].sum() == len(rows)
    assert frame["schedule"][1:4].tolist() == ["one_shot", "iterative", "gradual"]
    assert frame["trial_id"][0] == "baseline"
    assert frame.loc[0, ["test_accuracy", "nonzero_params", "train_seconds"]].tolist() == [0.924, 272474, 60.0]


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (0.0, "below 50 %"), (0.4994, "below 50 %"), (0.4999, "50 to 80 %"), (0.5, "50 to 80 %"), (0.8, "80 to 95 %"),
        (0.94999, "95 % and above"), (0.9999, "95 % and above"),
    ],
)  # fmt: skip
def test_ranges_meet_where_sparsities_are_rounded(tmp_path: Path, sparsity: float, expected: str) -> None:
    results = read(make(tmp_path / "one", 1, 0))
    results.trials["sparsity"] = sparsity
    assert schedules(results).frame["sparsity_range"].tolist()[1:] == [expected]


@pytest.mark.parametrize("failed", [0, 3])
def test_a_study_without_a_front(tmp_path: Path, failed: int) -> None:
    results = read(make(tmp_path / "none", 3, failed, control=False, feasible=False))
    frame, caption = summary(results)
    assert frame["trial_id"].tolist() == ["baseline"]
    assert caption.startswith("No network is on the front")
    assert len(schedules(results).frame) == 4 - failed
    as_latex(*schedules(results))


def test_csv_reads_back_to_the_bit(results: Results, tmp_path: Path) -> None:
    frame = summary(results).frame
    paths = write_table(frame, tmp_path / "tables" / "summary", "A caption.")
    assert [path.name for path in paths] == ["summary.csv", "summary.md", "summary.tex"]
    again = pd.read_csv(paths[0], dtype={"trial_id": str}, float_precision="round_trip")
    assert again.columns.tolist() == frame.columns.tolist()
    for column in frame.columns:
        assert [str(v) for v in again[column].dropna()] == [
            str(float(v)) if again[column].dtype == "float64" else str(v) for v in frame[column].dropna()
        ]
        assert again[column].isna().tolist() == frame[column].isna().tolist()


def test_numbers_as_people_read_them() -> None:
    assert [percent(x) for x in (0.93449, 1.0, 0.0, -0.0004, -0.0123)] == ["93.4", "100.0", "0.0", "0.0", "−1.2"]
    assert text("compression_ratio", 4.345) == "4.3"
    assert text("compression_ratio", 128.4) == "128"
    assert text("finetune_lr", 0.00079275) == "0.000793"
    assert text("recalibrate", np.True_) == "yes"
    assert text("error", "two\nlines") == "two lines"
    assert [text("steps", gap) for gap in (None, pd.NA, np.nan)] == ["–"] * 3
    assert text("steps", 5) == "5"
    assert [text("latency_ms", time) for time in (0.346, 12.0, 1234.5)] == ["0.35", "12.00", "1234"]
    assert text("speedup", 0.994) == "0.99"
    assert text("sparse_size_bytes", 46082) == "46.1"


def test_columns_of_numbers_stand_right() -> None:
    frame = pd.DataFrame({"name": ["a", None], "n": [1, None], "flag": [True, False]})
    assert as_markdown(frame).splitlines()[1] == "| --- | ---: | --- |"
    assert r"\begin{tabular}{lrl}" in as_latex(frame)


READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=12), min_size=1))
def test_markdown_is_read_as_it_was_meant(words: list[str]) -> None:
    frame = pd.DataFrame({"name": ["x", *NASTY, *NASTY_MARKDOWN, *words], "n": 1})
    read = Cells(READER.render(as_markdown(frame, "a | b <b>")))
    assert read.cells[2::2] == [" ".join(word.split()) for word in frame["name"]]
    assert read.tags <= {"table", "thead", "tbody", "tr", "th", "td", "p"}


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12)))
def test_html_is_read_as_it_was_meant(words: list[str]) -> None:
    frame = pd.DataFrame({"name": [*NASTY, *words], "n": 1})
    read = Cells(as_html(frame, "a <b> & c"))
    assert read.cells[2::2] == [" ".join(word.split()) for word in frame["name"]]
    assert read.tags == {"table", "caption", "span", "thead", "tbody", "tr", "th", "td"}


def test_latex_has_nothing_special_left() -> None:
    body = as_latex(pd.DataFrame({"a_b": NASTY}), "10 % & more").split(r"\hline")
    assert body[1].strip() == r"\begin{tabular}[b]{@{}l@{}}a \\ b\end{tabular} \\"
    assert body[2].strip().splitlines() == [
        r"a \textbar{} b \\",
        r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{} \\",
        r"50 \% \& more \\",
        r"back\textbackslash{}slash \\",
        r"x\_1\textasciicircum{}2 \textasciitilde{} \#3 \{\} \\",
        r"{*}bold{*} {[}link] `code` \\",
        r"\$ \\",
    ]
    assert r"\caption{10 \% \& more}" in body[0]


def test_every_row_of_latex_has_its_cells(results: Results) -> None:
    rows = re.findall(r"^(?!\\).* \\\\$", as_latex(*summary(results)), re.MULTILINE)
    assert len(rows) == 11
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {11}


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "table.md"
    write_whole(path, "före")
    assert path.read_bytes() == "före".encode()

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, b"after")
    assert path.read_text(encoding="utf-8") == "före"
    assert list(path.parent.iterdir()) == [path]


def test_importance_is_what_the_search_left(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", 6, 0)
    assert "importance" not in applicable(read(folder))
    both = ("sparsity", "criterion")
    shares = {"accuracy": (0.2, 0.8), "sparsity": (1.0, 0.0), "front": (0.7, 0.3)}
    lines = [f"{of},{axis},{x}" for of, two in shares.items() for axis, x in zip(both, two, strict=True)]
    (folder / "importance.csv").write_text("\n".join(["objective,axis,importance", *lines]) + "\n")
    found = applicable(read(folder))["importance"].frame
    assert found.to_dict("records") == [
        {"axis": "sparsity", "accuracy": 0.2, "sparsity": 1.0, "front": 0.7},
        {"axis": "criterion", "accuracy": 0.8, "sparsity": 0.0, "front": 0.3},
    ]

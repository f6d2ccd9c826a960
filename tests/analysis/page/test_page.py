"""The page in a real browser: it loads in silence, shows what is hovered and clicked, sorts, and stays text."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from analysis import Results, read
from analysis.page import answer, interactive, watch
from analysis.page.page import HEADINGS, page, smaller
from analysis.tables import TABLES, applicable
from tests.results_folder import make

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = '<script>document.title="gone"</script>'
browsed = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def write(folder: Path, results: Results) -> Path:
    path = folder / "report.html"
    path.write_text(page(results, applicable(results), {}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study of which one trial, on the front, has a tag for a name and a criterion."""
    folder = make(tmp_path_factory.mktemp("results") / "study", 40, 3, granularities=("weight", "channel"), layers=4)
    results = read(folder)
    best = read(folder).trials.set_index("trial_id")["accuracy"].idxmax()
    renamed = results.trials["trial_id"].replace({best: EVIL})
    criteria = results.trials["criterion"].mask(renamed == EVIL, EVIL)
    trials = results.trials.assign(trial_id=renamed, criterion=criteria)
    return results._replace(trials=trials, history=results.history.replace({"trial_id": {best: EVIL}}))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(results: Results, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page, opened; with what it logged and what it asked for."""
    path = write(tmp_path_factory.mktemp("page"), results)
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.logged, tab.asked = [], []
    tab.on("console", lambda message: tab.logged.append(message.text))
    tab.on("pageerror", lambda error: tab.logged.append(str(error)))
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#plot .points path")
    yield tab
    tab.close()


@browsed
def test_it_loads_in_silence(opened: Any) -> None:
    assert opened.logged == []
    assert [address for address in opened.asked if not address.startswith(("data:", "blob:"))] == [opened.url]
    assert opened.title() == "synthetic: a pruning study"
    assert opened.locator("#plot .points path").count() == 37
    assert opened.locator("#trials tbody tr").count() == 37


@browsed
def test_a_point_shows_its_recipe_and_a_click_opens_the_trial(opened: Any, results: Results) -> None:
    sparse = results.trials.sort_values("sparsity")["trial_id"].dropna()
    known = set(sparse)
    box = opened.locator("#plot .points path").first.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.mouse.move(*middle)
    opened.wait_for_selector("#plot .hoverlayer text")
    said = opened.locator("#plot .hoverlayer text").first.text_content()
    assert said.startswith("test accuracy ")
    assert "schedule: " in said
    assert "optimizer" not in said  # the same in all trials
    opened.mouse.click(*middle)
    opened.wait_for_selector("#trial h3")
    named = opened.locator("#trial h3").text_content().removeprefix("Trial ")
    assert named in known
    row = results.trials.set_index("trial_id").loc[named]
    assert f"{100 * row['test_accuracy']:.1f}" in opened.locator("#trial").text_content()
    opened.wait_for_selector("#curve .points path")
    assert opened.logged == []


@browsed
def test_a_trial_named_by_a_tag_stays_text(opened: Any) -> None:
    row = opened.locator("#trials tbody tr", has_text=EVIL).first
    row.click()
    assert opened.locator("#trial h3").text_content() == f"Trial {EVIL}"
    assert EVIL in opened.locator("#trial dl").first.text_content()
    assert opened.title() == "synthetic: a pruning study"
    assert opened.locator("#trial script").count() == 0


@browsed
def test_the_chosen_trial_says_what_its_layers_keep(opened: Any, results: Results) -> None:
    kept = [name for name in interactive.data(results)["layers"] if name != EVIL][0]
    opened.locator("#trials tbody tr", has_text=re.compile(f"^{kept}")).first.click()
    assert opened.locator("#trial table tbody tr").count() == 4
    assert opened.locator("#trial table td").first.text_content() == "layer1.0.conv"


@browsed
def test_tables_sort_by_numbers_and_back(opened: Any) -> None:
    table = opened.locator("#trials table")
    heads = table.locator("th").all_text_contents()
    column = heads.index("test accuracy (%)")
    head = table.locator("th").nth(column)
    for direction in ("ascending", "descending"):
        head.click()
        assert head.get_attribute("aria-sort") == direction
        cells = table.locator(f"tbody td:nth-child({column + 1})").all_text_contents()
        values = [float(cell) for cell in cells]
        assert values == sorted(values, reverse=direction == "descending")
    static = opened.locator("main > .wide table").nth(1)
    static.locator("th").nth(heads.index("trial")).click()
    assert static.locator("th[aria-sort=ascending]").count() == 1


@browsed
def test_filters_leave_out_what_is_unticked(opened: Any, results: Results) -> None:
    boxes = opened.locator("#controls fieldset", has_text="schedule").locator("input")
    boxes.first.uncheck()
    left = results.trials.query("state == 'complete' and kind == 'search' and schedule != 'one_shot'")
    assert opened.locator("#plot .points path").count() == len(left)
    assert opened.locator("#trials tbody tr").count() == len(left)
    assert opened.locator("#counted").text_content() == f"{len(left)} of 37 networks"
    boxes.first.check()
    assert opened.locator("#plot .points path").count() == 37
    opened.locator("#abscissa").select_option(label="MACs of non-zero weights (millions)")
    assert opened.locator("#plot .xtitle").text_content() == "MACs of non-zero weights (millions)"


@browsed
def test_the_legend_tells_colours_from_shapes_and_any_column_gives_the_colour(opened: Any) -> None:
    texts = opened.locator("#plot .legendtext")
    shapes = ["shape", "weight", "channel", "on the front", "chosen on validation"]
    assert texts.all_text_contents() == ["schedule", "one shot", "iterative", "gradual", *shapes]
    paths = opened.locator("#plot .legend .legendpoints path")
    squares = [paths.nth(n).get_attribute("d") for n in range(5)]
    assert squares[0] == squares[1] == squares[2] == squares[3] != squares[4]
    opened.locator("#colour").select_option("accuracy")
    assert texts.all_text_contents() == shapes
    assert opened.locator("#plot .cbtitle").text_content() == "validation accuracy (%)"
    opened.locator("#colour").select_option("schedule")


def test_what_varies_gives_the_first_colours(results: Results) -> None:
    assert interactive.data(results)["colours"][0] == "schedule"
    one = results._replace(trials=results.trials[results.trials["schedule"] == "one_shot"])
    assert interactive.data(one)["colours"][0] in interactive.data(one)["levels"]


@browsed
def test_any_axis_of_the_recipes_can_be_the_x_axis_and_other_columns_the_y_axis(opened: Any, results: Results) -> None:
    def shown(x: str, y: str) -> list[str]:
        opened.locator("#abscissa").select_option(label=x)
        opened.locator("#ordinate").select_option(label=y)
        assert opened.locator("#plot .points path").count() == 37
        return opened.locator("#plot .xtick text").all_text_contents()

    gain = "gain over all networks of the same sparsity (points)"
    assert shown("schedule", gain) == ["one_shot", "iterative", "gradual"]
    assert opened.locator("#plot .ytitle").text_content() == gain
    assert opened.locator("#plot path.js-line").count() == 0, "a line joins a front only where there is one"
    assert opened.locator("#plot", has_text="baseline").count() == 0
    shown("finetune lr", "sparsity (%)")  # a contour: colour is the third
    assert opened.logged == []
    shown("sparsity (%)", "test accuracy (%)")
    assert opened.locator("#plot path.js-line").count() == 1


def test_gains_are_over_networks_of_the_same_sparsity(results: Results) -> None:
    found = interactive.data(results)
    rows = results.trials.set_index("trial_id").loc[found["ids"]]
    gains = pd.Series(found["columns"]["gain"], index=rows.index)
    assert abs(gains.sum()) < 1e-9
    lowest = rows["requested_sparsity"].nsmallest(2).index
    assert (gains[lowest].diff() - rows.loc[lowest, "test_accuracy"].diff()).abs().max() < 1e-12


@browsed
def test_the_order_of_trials_outlives_a_filter_and_rows_open_by_keyboard(opened: Any) -> None:
    head = opened.locator("#trials th", has_text=re.compile("^test accuracy"))
    column = opened.locator("#trials th").all_text_contents().index(head.text_content()) + 1
    while head.get_attribute("aria-sort") != "descending":
        head.press("Enter")
    box = opened.locator("#controls fieldset", has_text="schedule").locator("input").first
    for change in (box.uncheck, box.check):
        change()
        values = [float(cell) for cell in opened.locator(f"#trials tbody td:nth-child({column})").all_text_contents()]
        assert values == sorted(values, reverse=True)
    names = opened.locator("#trials tbody td:first-child").all_text_contents()
    opened.locator("#trials tbody tr").nth(2).press("Enter")
    assert opened.locator("#trial h3").first.text_content() == f"Trial {names[2]}"
    opened.locator("#trials tbody tr").nth(3).press("Shift+Enter")
    assert opened.locator("#trial h3").first.text_content() == f"Trials {names[2]}, {names[3]}"
    assert opened.locator("#trial thead th").all_text_contents()[:3] == ["", f"trial {names[2]}", f"trial {names[3]}"]
    opened.reload()
    opened.wait_for_selector("#plot .points path")
    assert opened.locator("#trial h3").first.text_content() == f"Trials {names[2]}, {names[3]}"
    assert opened.locator("#trials tbody td:first-child").all_text_contents() == names
    opened.locator("#trial > button").click()
    assert not opened.locator("#trial").is_visible()


@browsed
def test_the_contents_lead_to_headings(opened: Any) -> None:
    links = opened.locator("nav a")
    assert links.count() >= 8
    for number in range(links.count()):
        target = opened.locator(f"h2{links.nth(number).get_attribute('href')}")
        assert target.text_content() == links.nth(number).text_content()


@browsed
def test_dark_print_and_phones_are_thought_of(browser: Any, results: Results, tmp_path: Path) -> None:
    path = write(tmp_path, results)
    tab = browser.new_page(color_scheme="dark")
    tab.goto(path.as_uri())
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 26)"
    tab.emulate_media(media="print", color_scheme="light")
    assert not tab.locator("#controls").is_visible()
    assert not tab.locator("h2", has_text="Explore").is_visible()
    assert tab.locator(".answer").is_visible()
    tab.emulate_media(media="screen")
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.wait_for_function("document.querySelector('#plot .nsewdrag').getBoundingClientRect().width > 280")
    assert tab.locator("#plot .nsewdrag").bounding_box()["height"] > 150
    tab.close()


@browsed
@pytest.mark.parametrize("failed", [0, 2])
def test_a_study_without_a_network_has_a_page_too(browser: Any, tmp_path: Path, failed: int) -> None:
    path = write(tmp_path, read(make(tmp_path / "study", failed, failed, control=False)))
    tab = browser.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(path.as_uri())
    assert tab.locator(".answer").text_content().startswith("No network was completed")
    assert errors == []
    tab.close()


def test_the_data_is_the_trials(results: Results) -> None:
    data = interactive.data(results)
    trials = results.trials.set_index("trial_id").loc[data["ids"]]
    assert len(data["ids"]) == 37
    assert data["columns"]["test_accuracy"] == trials["test_accuracy"].tolist()
    assert data["columns"]["steps"] == trials["steps"].tolist()
    assert data["levels"]["schedule"] == ["one_shot", "iterative", "gradual"]
    assert [len(rows) for rows in data["history"].values()] == [5] * 37
    assert data["history"][EVIL][0][0] == 1
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text)["columns"]["latency_ms" if "latency_ms" in data["columns"] else "sparsity"]


def test_nothing_of_the_study_ends_a_script(results: Results) -> None:
    written = interactive.scripts(interactive.data(results))
    assert written.count("</script>") == 3
    block = written.partition('type="application/json">')[2].partition("</script>")[0]
    assert "<" not in block
    assert json.loads(block)["ids"] == interactive.data(results)["ids"]


def test_an_image_of_few_colours_looks_the_same() -> None:
    image = Image.new("RGB", (200, 100), "white")
    image.paste((0, 114, 178), (20, 20, 120, 60))
    file = io.BytesIO()
    image.save(file, "png")
    with Image.open(io.BytesIO(smaller(file.getvalue()))) as small:
        assert list(small.convert("RGB").getdata()) == list(image.getdata())
    assert len(base64.b64encode(smaller(file.getvalue()))) <= len(base64.b64encode(file.getvalue()))


def test_its_toolbar_sends_nothing_anywhere() -> None:
    program = resources.files("analysis.page").joinpath("page.js").read_text()
    buttons = re.search(r"modeBarButtons: \[\[(.*)\]\]", program)
    assert buttons is not None
    assert "Cloud" not in buttons[1]


def test_it_is_served_on_this_machine_alone_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "study", 3, 0)
    (folder / "report.html").write_text("first", encoding="utf-8")
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.02)
    made, ended = threading.Event(), threading.Event()

    def remake() -> None:
        (folder / "report.html").write_text("second", encoding="utf-8")
        made.set()

    with watch.server(folder) as http:
        assert http.server_address[0] == "127.0.0.1"
        threading.Thread(target=http.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{http.server_address[1]}/"
        assert urllib.request.urlopen(address).read() == b"first"
        before = urllib.request.urlopen(f"{address}made").read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}trials.csv")
        serving = threading.Thread(target=watch.serve, args=(folder, remake), kwargs={"stop": ended})
        serving.start()
        rows = pd.read_csv(folder / "trials.csv", dtype=str)
        while not made.wait(0.05):  # as a study that goes on writing
            rows.to_csv(folder / "trials.csv", index=False)
        assert urllib.request.urlopen(address).read() == b"second"
        assert urllib.request.urlopen(f"{address}made").read() != before
        ended.set()
        serving.join(5)
        assert not serving.is_alive()
        http.shutdown()


def test_a_study_caught_half_way_leaves_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "study", 3, 0)
    (folder / "report.html").write_text("first", encoding="utf-8")
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.02)
    ended = threading.Event()

    def remake() -> None:
        ended.set()
        raise ValueError("trials.csv: columns missing: kind")

    text = (folder / "trials.csv").read_text()
    threading.Timer(0.2, (folder / "trials.csv").write_text, (text,)).start()
    watch.serve(folder, remake, stop=ended)
    assert "page not rebuilt: trials.csv: columns missing: kind" in capsys.readouterr().err
    assert (folder / "report.html").read_text() == "first"


def test_the_live_page_alone_may_ask_its_server(results: Results) -> None:
    plain, live = (page(results, {}, {}, live=program) for program in ("", watch.PROGRAM))
    assert "connect-src" not in plain
    assert "connect-src 'self'" in live
    assert watch.PROGRAM in live


def test_every_table_has_a_heading() -> None:
    assert list(HEADINGS) == list(TABLES)


@pytest.mark.parametrize(("scope", "words"), [("both", "global and layer-wise taylor"), ("erk", "erk taylor")])
def test_a_scope_has_words_that_a_sentence_can_hold(scope: str, words: str) -> None:
    row = pd.Series({"criterion": "taylor", "granularity": "weight", "scope": scope, "schedule": "one_shot"})
    assert answer.recipe(row) == f"{words} of weights in one shot"

"""The page in a real browser: no errors, sorting, filters, charts by mouse and by keys, themes."""

import io
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from harness.report.page import pack
from harness.report.page.build import write_page
from harness.report.write import build_report, write_report
from harness.store.store import ResultStore
from tests.synthetic_results import many_problems, spec, write_results

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: see `make browser`")

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    """Chromium: $CHROMIUM, or one of the system, or the one Playwright keeps."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as driver:
        if not found and not Path(driver.chromium.executable_path).exists():
            pytest.skip("no Chromium: `make browser` installs one, $CHROMIUM names one")
        opened = driver.chromium.launch(executable_path=found)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page of the published quickstart."""
    report = build_report(ResultStore(ROOT / "results" / "quickstart"), "quickstart")
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write_page(report, path).as_uri()


@pytest.fixture
def opened(browser, address):
    """A function that opens a page; nothing may be reported or asked of the network."""
    complaints, contexts = [], []

    def go(where=address, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((where.partition("#")[0], "data:"))
                else complaints.append(request.url)
            ),
        )
        page.goto(where)
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


def column(page, heading):
    """Values of a column of the first visible leaderboard, and how it says it is sorted."""
    table = page.locator("table.sorts:visible").first
    heads = table.locator("thead th")
    names = [text.strip("↕↑↓ \n") for text in heads.all_inner_texts()]
    place = names.index(heading)
    cells = table.locator(f"tbody tr > :nth-child({place + 1})")
    values = [cell.get_attribute("data-sort") for cell in cells.all()]
    return values, heads.nth(place).get_attribute("aria-sort"), heads.nth(place).locator("button")


def test_it_opens_and_shows_something_in_light_dark_and_on_a_phone(opened, tmp_path):
    colours = {}
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    for name, options in {
        "light": {"color_scheme": "light"},
        "dark": {"color_scheme": "dark"},
        "phone": phone,
    }.items():
        page = opened(**options)
        assert page.locator("#curves figure svg").count() == 5
        assert page.locator("#levels figure svg").count() == 5
        image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        assert len(image.getcolors(1 << 24)) > 200, f"{name}: an empty page"
        colours[name] = image.getpixel((2, 2))
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    assert sum(colours["light"]) > 600 > 200 > sum(colours["dark"])
    page = opened(color_scheme="light")
    page.click("#theme")
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    assert image.getpixel((2, 2)) == colours["dark"]


def test_headings_sort_by_mouse_and_by_keys(opened):
    page = opened()
    before, sort, button = column(page, "NFE 3")
    assert sort == "none"
    button.click()
    values, sort, _ = column(page, "NFE 3")
    assert sort == "ascending"
    assert values == sorted(before, key=float)
    button.focus()
    page.keyboard.press("Enter")
    values, sort, _ = column(page, "NFE 3")
    assert sort == "descending"
    assert values == sorted(before, key=float, reverse=True)
    _, _, button = column(page, "Preconditioning")
    button.click()
    assert column(page, "Preconditioning")[0] == ["analytic", "bcm", "ctm", "edm"]
    assert column(page, "NFE 3")[1] == "none"
    assert "sorted by Preconditioning" in page.inner_text("#said")


def test_filters_choose_metric_and_number_of_steps(opened):
    page = opened()
    captions = page.locator(".table:visible caption")
    assert all("alignment" in text for text in captions.all_inner_texts())
    page.select_option("#protocol", label="frechet, raw, n=10000, sampler exact")
    assert all("frechet" in text for text in captions.all_inner_texts())
    assert "frechet" in page.locator("#curves figcaption").first.inner_text()
    page.check("input[name=nfe][value='2']")
    shown = page.locator("#curves figcaption").all_inner_texts()
    assert [text.split(" frechet")[0].strip() for text in shown] == ["NFE 2"]
    heads = page.locator("table.sorts:visible").first.locator("thead th:visible")
    names = [text.strip("↕ \n") for text in heads.all_inner_texts()]
    assert names == ["Preconditioning", "Overall", "NFE 2"]
    page.check("input[name=nfe][value='']")
    assert page.locator("#curves figure").count() == 5


def test_a_teacher_is_chosen_and_only_its_metrics_are_offered(opened, tmp_path):
    specs = [
        spec(name, seed, teacher=teacher, digest=teacher)
        for teacher in ("one", "two")
        for name in ("ctm", "mine")
        for seed in (0, 1)
    ]
    store = write_results(tmp_path, specs, metrics=("frechet", "energy"))
    for each in specs:
        if each.teacher.name == "two":
            path = store.run_at(each.run_id).path / "eval.jsonl"
            lines = [line for line in path.read_text().splitlines() if "energy" not in line]
            path.write_text("\n".join(lines) + "\n")
    where = write_page(build_report(store, "synthetic"), tmp_path / "report.html").as_uri()
    page = opened(where)
    page.select_option("#problem", label="two")
    captions = page.locator(".table:visible caption")
    assert captions.count() == 4
    assert all(text.startswith("two / ") for text in captions.all_inner_texts())
    offered = page.locator("#protocol option:not([disabled])").all_inner_texts()
    assert offered == ["frechet, raw, n=50, sampler exact"]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Address of a page of many problems, and the leaderboard that was written beside it."""
    store = many_problems(tmp_path_factory.mktemp("many"))
    report = build_report(store, "synthetic")
    folder = store.root / "tables" / "synthetic"
    write_report(report, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pack, "PLAIN", 100_000)
        page = write_page(report, folder / "report.html")
    return page.as_uri(), pd.read_csv(folder / "leaderboard.csv")


def shown_and_written(page, board, teacher):
    """Medians of the visible leaderboard and those of the csv, by preconditioning and NFE."""
    table = page.locator("[data-part=boards] .table:visible")
    assert table.locator("caption").inner_text().startswith(f"{teacher} / ")
    metric = page.locator("#protocol option:checked").inner_text().partition(",")[0]
    mine = board[(board["teacher"] == teacher) & (board["metric"] == metric)]
    written = {(row.precond, str(row.nfe)): f"{row.median:.4g}" for row in mine.itertuples()}
    shown = {
        (row.locator("th").get_attribute("data-sort"), cell.get_attribute("data-nfe")): value
        for row in table.locator("tbody tr").all()
        for cell in row.locator("td[data-nfe]").all()
        for value in [cell.locator(".value").inner_text().split()[0]]
    }
    return shown, written


def test_a_packed_problem_opens_by_address_and_by_click(opened, many):
    where, board = many
    page = opened(f"{where}#problem=t7")
    page.locator("[data-part=boards] .table[data-problem='7']:visible").wait_for()
    assert page.locator("#problem option:checked").inner_text() == "t7"
    shown, written = shown_and_written(page, board, "t7")
    assert shown == written
    assert len(shown) == 3 * 2
    page.select_option("#problem", label="t9")
    page.locator("[data-part=boards] .table[data-problem='9']:visible").wait_for()
    assert page.url.endswith("#problem=t9")
    page.select_option("#protocol", index=1)
    shown, written = shown_and_written(page, board, "t9")
    assert shown == written
    assert page.locator("#curves figure svg").count() == 2
    assert page.locator(".table:visible th[data-look] .swatch:empty").count() == 0
    page.get_by_text("All 72 runs, with their files").click()
    runs = page.locator("tr[data-run]")
    runs.last.wait_for()
    assert runs.count() == 72
    page.get_by_role("link", name="t3 /").first.click()
    page.locator("[data-part=boards] .table[data-problem='3']:visible").wait_for()
    assert page.evaluate("document.querySelector('#main').getBoundingClientRect().top") >= 0
    page.go_back()
    page.locator("[data-part=boards] .table[data-problem='9']:visible").wait_for()


def test_a_packed_problem_chosen_last_is_the_one_that_is_shown(opened, many):
    page = opened(many[0])
    assert page.locator(".table[data-problem='0']:visible").count() == 4
    page.evaluate("""() => { for (const number of [4, 5, 6, 5]) {
        document.querySelector("#problem").value = number;
        document.querySelector("#problem").dispatchEvent(new Event("change", { bubbles: true }));
    } }""")
    page.locator("[data-part=boards] .table[data-problem='5']:visible").wait_for()
    page.wait_for_timeout(300)
    assert page.locator(".table:not([data-problem='5']):visible").count() == 0
    assert page.locator(".table[data-problem='5']:visible").count() == 4


def test_a_browser_that_cannot_unpack_says_so_and_shows_no_other_problem(opened, many):
    page = opened(many[0])
    page.evaluate("delete window.DecompressionStream")
    page.select_option("#problem", label="t9")
    page.get_by_text("This browser cannot unpack the rest of the page").first.wait_for()
    assert page.locator(".table[data-problem]:visible").count() == 0


def test_a_small_page_shows_its_tables_without_javascript(opened):
    page = opened(java_script_enabled=False)
    tables = page.locator(".table")
    assert tables.count() == page.locator(".table:visible").count() > 4
    assert "The charts need JavaScript" in page.inner_text("main")


def test_charts_tell_values_to_mouse_and_keys_and_preconditionings_can_be_hidden(opened):
    page = opened()
    chart = page.locator("#curves svg").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 60)
    tip = page.locator("#curves .tip:visible")
    assert "256,000 images" in tip.inner_text()
    assert "0.06949" in tip.inner_text()
    chart.focus()
    page.keyboard.press("ArrowLeft")
    assert "179,200 images" in page.inner_text("#said")
    page.keyboard.press("Escape")
    assert tip.count() == 0
    lines = page.locator("#curves svg").first.locator("path[stroke='var(--c1)']").count()
    button = page.get_by_role("button", name="edm", exact=True)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.locator("#curves svg").first.locator("path[stroke='var(--c1)']").count() < lines
    chart = page.locator("#levels svg").first
    chart.focus()
    page.keyboard.press("ArrowLeft")
    tip = page.locator("#levels .tip:visible")
    assert "to reach 0.06949: ctm >256,000 images" in tip.inner_text()
    assert ">1.00" in tip.inner_text()
    assert "edm" not in tip.inner_text()
    page.keyboard.press("Escape")
    page.check("input[name=clock][value=seconds]")
    assert "calibration included" in page.locator("#curves svg").first.inner_html()

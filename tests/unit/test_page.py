"""The page of a grid as text: self-contained, escaped, honest about what is missing."""

import base64
import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from harness.report.page import pack
from harness.report.page.build import render_page, write_page
from harness.report.plots.draw import write_plots
from harness.report.write import build_report
from tests.synthetic_results import many_problems, spec, write_results
from tests.unit.test_imports import run_without_torch

ROOT = Path(__file__).parents[2]
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>$x$'


class Reader(HTMLParser):
    """Tags with their attributes, and the text of scripts and of everything else."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        inside = self.tags and self.tags[-1][0] == "script"
        (self.scripts if inside else self.words).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(store, folder, grid="synthetic"):
    return Reader(render_page(build_report(store, grid), folder))


def cells(*names, seeds=(0, 1), **more):
    return [spec(name, seed, **more) for name in names for seed in seeds]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The digits page, built beside a copy of its runs by a process without torch."""
    folder = shutil.copytree(
        ROOT / "results" / "digits", tmp_path_factory.mktemp("page") / "a folder"
    )
    done = run_without_torch("report", folder, "--format", "html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "tables" / "digits" / "report.html")
    return folder / "tables" / "digits" / "report.html"


def test_a_page_needs_nothing_but_itself(published):
    text = published.read_text()
    assert 100_000 < len(text) < 1_000_000
    found = Reader(text)
    policy = next(meta["content"] for meta in found.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")
    assert not found.all("link")
    assert not re.search(r"@import|url\((?!#)", text)
    links = set()
    for tag, attributes in found.tags:
        address = attributes.get("src") or attributes.get("href") or attributes.get("xlink:href")
        if address and tag == "a" and not address.startswith("#"):
            links.add(published.parent / unquote(address))
        elif address:
            assert address.startswith(("data:image/png;base64,", "#")), address
    assert all(link.is_file() for link in links)
    assert len([link for link in links if link.name == "provenance.json"]) == 15
    assert str(published.parents[3]) not in text
    assert str(ROOT) not in text


def test_tables_and_pictures_can_be_read_without_eyes(published):
    found = Reader(published.read_text())
    assert all(image["alt"] for image in found.all("img"))
    assert len(found.all("img")) == 4 * 3  # preconditionings that are not another's twin, NFEs
    assert {head.get("scope") for head in found.all("th")} == {"col", "row"}
    assert all(a["aria-label"] for _, a in found.tags if a.get("role") in ("img", "region"))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["xlink:href"] for _, a in found.tags if "xlink:href" in a]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert {a["aria-labelledby"] for _, a in found.tags if "aria-labelledby" in a} <= set(ids)


def test_labels_are_text_wherever_they_stand(tmp_path):
    changed = {HOSTILE: HOSTILE}
    specs = [*cells("ctm"), *cells("mine", changed=changed), *cells("edm", teacher=HOSTILE)]
    store = write_results(tmp_path, specs, reason=HOSTILE)
    known = next((ROOT / "results/quickstart/runs").glob("analytic*s0*/coefficients.json"))
    for run in store.runs():
        (run.path / "coefficients.json").write_text(known.read_text())
    found = page(store, tmp_path)
    assert not [tag for tag, attributes in found.tags if "onerror" in attributes]
    assert len(found.all("script")) == 2
    assert any(HOSTILE in words for words in found.words)
    data = json.loads(found.scripts[0])
    assert any(HOSTILE in look["name"] for look in data["looks"])


def test_nothing_one_cell_and_all_diverged_are_pages_that_say_so(tmp_path):
    empty = write_results(tmp_path / "a", cells("ctm"), rows=False, state="queued")
    assert "the leaderboard is empty" in " ".join(page(empty, tmp_path).words)
    one = page(write_results(tmp_path / "b", cells("mine", seeds=[0])), tmp_path)
    assert "one seed" in " ".join(one.words)
    lost = write_results(
        tmp_path / "c",
        cells("ctm", "mine"),
        state="diverged",
        value=lambda *_: float("inf"),
    )
    told = page(lost, tmp_path)
    assert "diverged" in told.words
    data = json.loads(told.scripts[0])
    assert data["curves"][0]["lines"][0]["median"] == ["Infinity"] * 4
    assert data["levels"] == []
    assert len(write_plots(build_report(lost, "synthetic"), tmp_path)) == 2 * 4


def test_sentences_under_tables_say_what_intervals_and_ranks_are_worth(tmp_path):
    store = write_results(tmp_path, cells("ctm", "mine", seeds=range(3)))
    told = " ".join(" ".join(page(store, tmp_path).words).split())
    assert told.count("holds the true median with probability 75% with 3 seeds") == 3
    assert "ranked apart by chance: 25% with 3 seeds" in told
    assert "<2 means at most 2: training ended before the preconditioning got there" in told


def test_a_page_of_several_folders_says_where_and_names_conflicts(tmp_path, harness):
    write_results(tmp_path / "a", cells("ctm"))
    write_results(tmp_path / "b", cells("ctm"), value=lambda *_: 7.0)
    both = [tmp_path / "a", tmp_path / "b"]
    code, _, err = harness("report", *both, "--format", "html")
    assert (code, "--out DIR" in err) == (2, True)
    code, _, err = harness("report", *both, "--plots")
    assert (code, "--out DIR" in err) == (2, True)
    code, out, _ = harness("report", *both, "--format", "html", "--plots", "--out", tmp_path / "o")
    assert code == 0
    written = [Path(line) for line in out.splitlines()]
    assert written[0] == tmp_path / "o" / "synthetic" / "report.html"
    assert {path.parent.name for path in written[1:]} == {"plots"}
    found = Reader(written[0].read_text())
    assert any("Conflicts between folders" in words for words in found.words)
    links = [a["href"] for a in found.all("a") if not a["href"].startswith("#")]
    assert all((written[0].parent / link).is_file() for link in links)


def test_200_cells_are_a_page_of_two_megabytes_at_most(tmp_path):
    names = ["ctm", *(f"s{k}" for k in range(9))]
    specs = [
        spec(name, seed, teacher=teacher, digest=teacher)
        for name in names
        for teacher in ("a", "b", "c", "d")
        for seed in range(5)
    ]
    store = write_results(tmp_path, specs, nfe=(1, 2, 5), metrics=("frechet", "alignment"))
    path = write_page(build_report(store, "synthetic"), tmp_path / "report.html")
    assert path.stat().st_size < 2_000_000
    found = Reader(path.read_text())
    assert len([row for row in found.all("tr") if "data-run" in row]) == 200


def test_a_page_of_many_problems_packs_all_but_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "PLAIN", 100_000)
    text = render_page(build_report(many_problems(tmp_path), "synthetic"), tmp_path)
    found = Reader(text)
    packed = dict(re.findall(r'type="application/gzip.base64" id="([^"]+)">([^<]+)<', text))
    assert list(packed) == [*(f"problem-{k}" for k in range(1, 12)), "coverage", "runs"]
    assert max(map(len, packed.values())) < 5_000
    assert len(text) - sum(map(len, packed.values())) < 100_000
    tables = [a for a in found.all("div") if a.get("class") == "table"]
    assert len(tables) == 4 * 2  # kinds of tables, metrics
    assert {table["data-problem"] for table in tables} == {"0"}
    assert "of 12 problems only t0 / ctm" in " ".join(" ".join(found.words).split())
    last = json.loads(gzip.decompress(base64.b64decode(packed["problem-11"])))
    inside = Reader("".join(last["parts"].values()))
    assert len([a for a in inside.all("div") if a.get("class") == "table"]) == 4 * 2
    assert {chart["problem"] for charts in last["charts"].values() for chart in charts} == {11}
    runs = Reader(json.loads(gzip.decompress(base64.b64decode(packed["runs"])))["parts"]["runs"])
    assert len([row for row in runs.all("tr") if "data-run" in row]) == 72


def test_a_page_of_few_problems_is_plain(published):
    assert "gzip" not in published.read_text().partition("<script>")[0]

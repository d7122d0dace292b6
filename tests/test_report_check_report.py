"""The page of a data check: complete, self-contained, escaped, and shown by a browser without a complaint."""

import base64
import html
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disc_world import LENGTH, Episode, draw, make_episode, make_episodes, write
from lewm.data import Store
from lewm.data.check.store_check import check_store
from lewm.report import check_figures, figures
from lewm.report.check_report import write_check_report

SECTIONS = ["findings", "samples", "time", "actions", "lengths", "coverage"]
ATTACK = "<script>alert('&')</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What a page says, by section, and every tag; checks that tags close."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self._section = "header"
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = found["id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self._section] = " ".join(f"{self.text.get(self._section, '')} {data}".split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def show(store: Store, path: Path) -> Page:
    result = check_store(store, frame_skip=1, clip_frames=4, held_out=0.2, split_seed=0)
    assert write_check_report(store, result, path) == path
    return Page(path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("check")
    walks = make_episodes()
    walks[2] = make_episode(100, length=30)
    walks[3].actions[7] = np.nan
    walks[1].frames[3:5] = 0
    walks[7].frames[20:] = walks[8].frames[:20]
    return show(write(folder / "store", walks, fps=10.0), folder / "check.html")


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace figures by empty ones where a test asks for something else: drawing them takes seconds."""

    def sketch(*data: object, name: str, description: str, **words: str) -> str:
        return f'<svg id="{name}" aria-label="{html.escape(description)}"></svg>'

    for module, name in ((check_figures, "histogram"), (check_figures, "lag_curves"), (figures, "scatter")):
        monkeypatch.setattr(module, name, sketch)


def test_findings_are_cards_with_pictures(page: Page) -> None:
    said = page.text["findings"]
    assert "error bad-actions actions are not finite in 1 frames" in said
    assert "warning uniform-frames 2 of 950 frames looked at are black" in said
    assert "episode 3, frame 7" in said
    assert "episode 1, frames 3–4" in said
    assert "episode 7, before frame 20" in said
    assert "The data has errors" in page.text["header"]
    assert "1 error, 2 warnings, 0 notes" in page.text["header"]
    alts = [image["alt"] for image in page.all("img")]
    assert alts[:4] == [f"{name}, frame {k}" for name, first in
                        (("bad-actions, episode 3", 6), ("uniform-frames, episode 1", 2))
                        for k in (first, first + 1)]  # fmt: skip


def test_pictures_are_frames_of_the_store(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 3 * 2 + 24
    walks = make_episodes()
    walks[2] = make_episode(100, length=30)
    for image in images[6:]:
        head, data = image["src"].split(",", 1)
        assert head == "data:image/png;base64"
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
        episode, frame = (int(word.split()[-1]) for word in image["alt"].split(", "))
        if episode not in (1, 7):
            np.testing.assert_array_equal(shown, walks[episode].frames[frame])


def test_every_section_has_its_picture_and_words(page: Page) -> None:
    assert [section["id"] for section in page.all("section")] == SECTIONS
    drawn = [attributes["aria-label"] for attributes in page.all("svg")]
    assert len(drawn) == 1 + 2 + 1 + 1
    told = dict(part.split(": ", 1) for part in drawn[0].split(": ", 1)[1].split("; "))
    assert len(told) == 11
    assert float(told["0"].split()[0]) > 0.5 > 0.1 > float(told["1"].split()[0])
    assert drawn[1].startswith("action 0: -1 to 1, mean")
    assert "24 episodes of 30 to 40 frames" in page.text["lengths"]
    assert "Of 24 episodes compared, 24 are distinct." in page.text["coverage"]
    assert [p for p in page.all("p") if p.get("class") == "missing"] == []


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in page.tags if "href" in attributes and tag != "link"]
    assert set(SECTIONS) <= {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all(link.startswith(("#", "data:")) for link in links)


def test_page_loads_and_runs_nothing(page: Page) -> None:
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert page.all("script") == []
    assert [link["href"] for link in page.all("link")] == ["data:,"]


@pytest.mark.usefixtures("sketched")
def test_untrusted_text_is_escaped(tmp_path: Path) -> None:
    walks = make_episodes()
    for walk in walks:
        walk.actions = np.concatenate([walk.actions, np.ones((LENGTH, 1), np.float32)], axis=1)
    names = ("$\\frac{$", f"a{ATTACK}", f"b{ATTACK}")
    store = write(tmp_path / "<b>&store", walks, task=ATTACK, source=ATTACK, action_names=names)
    page = show(store, tmp_path / "check.html")
    assert page.all("script") == []
    assert page.all("b") == []
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert page.text["header"].count("onerror=alert(1)") == 5  # in the title, the task, the source and two names
    assert "onerror=alert(1)" in page.text["findings"]  # the constant entry
    assert "$\\frac{$" in page.text["actions"]


@pytest.mark.usefixtures("sketched")
def test_nothing_to_complain_about(tmp_path: Path) -> None:
    page = show(write(tmp_path / "store", make_episodes(discrete=True)), tmp_path / "check.html")
    assert "looks fit for training. 0 errors" in page.text["header"]
    assert page.text["findings"] == "What was found Nothing."
    assert "How often each action is taken." in page.text["actions"]
    assert "24 episodes of 40 frames each." in page.text["lengths"]


@pytest.mark.usefixtures("sketched")
def test_images_without_actions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    groups = [Episode(draw(rng.random((100, 2))), np.empty((100, 0)), np.zeros((100, 2))) for _ in range(10)]
    page = show(write(tmp_path / "store", groups), tmp_path / "check.html")
    assert [p["class"] for p in page.all("p") if p.get("class") == "missing"] == ["missing"] * 2
    assert "There are no actions." in page.text["time"]
    assert "clip" not in page.text["lengths"]
    assert "compared" not in page.text["coverage"]
    assert len(page.all("img")) == 24 - (24 - len({image["alt"] for image in page.all("img")}))


@pytest.mark.usefixtures("sketched")
def test_long_lists_are_cut(tmp_path: Path) -> None:
    walks = make_episodes()
    for walk in walks:
        walk.frames[10] = 0
        walk.actions = np.tile(walk.actions, (1, 13))
    page = show(write(tmp_path / "store", walks), tmp_path / "check.html")
    assert "and 16 more" in page.text["findings"]
    assert "2 more entries are not drawn" in page.text["actions"]


@pytest.mark.usefixtures("sketched")
def test_page_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    store = write(tmp_path / "store", make_episodes())
    before = {entry.name for entry in store.path.iterdir()}
    for _ in range(2):
        show(store, store.path / "check.html")
    assert {entry.name for entry in store.path.iterdir()} == before | {"check.html"}
    assert Store(store.path).num_episodes == 24


def test_figures_can_be_drawn_of_very_little() -> None:
    one = check_figures.histogram(np.array([3]), 2.0, 2.0, name="a", description=ATTACK, label="x", what="y")
    flat = check_figures.lag_curves(
        np.arange(-5, 6), [("a", np.full(11, -0.1))], 0.05, None, name="b", description="nothing"
    )
    assert html.escape(ATTACK) in one
    assert all(svg.startswith("<svg role=") and svg.rstrip().endswith("</svg>") for svg in (one, flat))


@pytest.mark.slow
def test_browser_shows_every_picture_without_a_complaint(page: Page, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here; install it to have the page opened in a browser")
    # The page itself has no script: a copy of it gets one, which writes down what the browser made of the pictures.
    probe = """<script>addEventListener("load", () => {
      const images = [...document.images];
      const good = images.filter(i => i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width > 0);
      const drawn = [...document.querySelectorAll("svg")].filter(s => s.getBBox().width > 0);
      const over = e => e.scrollWidth > e.clientWidth + 1;
      const wide = [...document.querySelectorAll("main, main *:not(svg *)")].filter(over).length;
      parent.document.title = ["seen", good.length, images.length, drawn.length, wide, innerWidth].join(" ");
    });</script></body>"""
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0", "--window-size=1280,900"]
    images = len(page.all("img"))
    # A headless window is at least 500 pixels wide; a frame inside a page is as narrow as it is told.
    source = html.escape(page.source.replace("</body>", probe))
    for width in (420, 1280):
        frame = f'<iframe style="border: 0" width="{width}" height="900" srcdoc="{source}"></iframe>'
        (tmp_path / "probed.html").write_text(f"<!doctype html><title></title>{frame}", encoding="utf-8")
        dump = [*command, "--dump-dom", (tmp_path / "probed.html").as_uri()]
        done = subprocess.run(dump, capture_output=True, text=True, timeout=120, check=True)
        assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
        assert f"<title>seen {images} {images} {len(page.all('svg'))} 0 {width}</title>" in done.stdout

"""The report of a run folder: complete, self-contained, escaped, and shown by a browser without a complaint."""

import base64
import html
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import lewm.report
from lewm.evaluate.panels import BAR, FOOT, GAP, TONES
from lewm.evaluate.panels import SIDE as PANEL
from lewm.report import figures
from lewm.report.run_report import PANELS, write_report

SECTIONS = (
    *("numbers", "split", "episodes", "rollouts", "cost", "pose", "projection", "spectrum", "training", "settings"),
)
EXAMPLES, BUDGET, PLANS, HORIZON, SIDE = 2, 10, 5, 3, 16
LOSSES = PANELS[0][2]
ATTACK = "<script>alert('&')</script>\"'><img src=x onerror=alert(1)>"
VOID = {"meta", "link", "img", "source"}

CONFIG = {
    "preset": "tiny",
    "seed": 7,
    "model": {"width": 64, "stem_channels": [8, 16], "context_ratio": None},
}
EVALUATION: dict[str, Any] = {
    "data": {"task": "two-room", "state_names": ["x", "y"]},
    "spectrum": {"effective_rank": 15.25, "condition_number": 43.5, "content_share": 0.625, "feature_std": 0.9375},
    "prediction": {
        "horizon": [1, 2],
        "error_ratio": [0.211, None],
        "cosine": [0.971, 0.952],
        "copy_cosine": [0.813, 0.704],
        "centred_cosine": [0.934, 0.855],
        "copy_centred_cosine": [0.416, 0.307],
    },
    "probe": {
        "r2": 0.987,
        "r2_by_state": {"x": 0.991, "y": 0.983},
        "linear_flattened": {"r2": 0.987, "random_r2": 0.618},
        "linear_pixels": {"r2": 0.729},
    },
    "cost": {
        "name": "steps_to_go",
        "rank_correlation": 0.821,
        "rank_correlation_distance": 0.792,
        "planner_alone_success": 1.0,
        "planner_alone_ci95": [0.93, 1.0],
        "cost_alone_success": 0.86,
        "cost_alone_ci95": [0.74, 0.93],
        "split_episodes": 50,
    },
    "pose_sensitivity": {
        "frames": 128,
        "times": [1, 2, 4],
        "parts": [
            {"name": "the disc's position", "step": 20.0, "angle": False, "frames": 60, "weight": 1.0}
            | {"latent": [0.013, 0.049, 0.165], "pixels": [0.097, 0.133, 0.1326]},
            {"name": "the block's angle", "step": 0.34906585, "angle": True, "frames": 0, "weight": None}
            | {"latent": [None, None, None], "pixels": [None, None, None]},
        ],
        "blind": [],
        "verdict": "The distance sees the disc & more.",
    },
    "planning": {
        "planner": "cem",
        "episodes": 100,
        "success_rate": 0.77,
        "ci95": [0.68, 0.84],
        "random_success_rate": 0.12,
        "random_ci95": [0.07, 0.2],
        "solved_at_start": 0.03,
        "straight_success_rate": 0.55,
        "straight_ci95": [0.45, 0.64],
        "by_start": {
            "nothing": {"count": 3, "success_rate": 1.0, "ci95": [0.44, 1.0]}
            | {"random_success_rate": 0.67, "random_ci95": [0.21, 0.94]},
            "straight": {"count": 97, "success_rate": 0.76, "ci95": [0.67, 0.84]}
            | {"random_success_rate": 0.1, "random_ci95": [0.06, 0.18]},
            "hard": {"count": 0} | dict.fromkeys(("success_rate", "ci95", "random_success_rate", "random_ci95")),
        },
        "seconds_per_plan": 0.021,
    },
    "learnt": True,
    "verdict": "The model learnt: everything went well.",
}


def arrays() -> dict[str, np.ndarray]:
    """Return small arrays of every name that a report draws."""
    rng = np.random.default_rng(0)

    def frames(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, (*shape, SIDE, SIDE, 3), dtype=np.uint8)

    gap = rng.integers(0, 20, 50)
    return {
        "spectrum": np.array([0.5, 0.3, 0.2, 0.0]),
        "projection": rng.normal(size=(30, 2)),
        "projection_share": np.array([0.4, 0.2]),
        "projection_states": rng.random((30, 2)),
        "state_names": np.array(["x", "y"]),
        "rollout_start": frames(EXAMPLES),
        "rollout_horizon": np.array([1, 2]),
        "rollout_real": frames(EXAMPLES, 2),
        "rollout_nearest": frames(EXAMPLES, 2),
        "cost_gap": gap,
        "cost_steps_to_go": gap + rng.random(50),
        "episode_frames": frames(EXAMPLES, BUDGET + 1),
        "episode_cost": rng.random((EXAMPLES, BUDGET + 1)),
        "episode_states": rng.random((EXAMPLES, BUDGET + 1, 2)),
        "episode_goal_frame": frames(EXAMPLES),
        "episode_goal_state": rng.random((EXAMPLES, 2)),
        "episode_solved_at": np.array([6, -1]),
        "episode_plan_step": np.arange(PLANS) * 2,
        "episode_library": frames(4),
        "episode_imagined_nearest": rng.integers(0, 4, (EXAMPLES, PLANS, HORIZON)),
        "episode_imagined_states": rng.random((EXAMPLES, PLANS, HORIZON, 2)),
        "episode_place": SIDE * rng.random((EXAMPLES, BUDGET + 1, 2)),
        "episode_goal_place": SIDE * rng.random((EXAMPLES, 2)),
        "episode_imagined_place": SIDE * rng.random((EXAMPLES, PLANS, HORIZON, 2)),
    }


def write_run(
    run: Path, *, config: Any = CONFIG, evaluation: Any = EVALUATION, data: dict[str, np.ndarray] | None = None
) -> Path:
    """Write a run folder as training and evaluation leave it."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (run / "eval.json").write_text(json.dumps(evaluation), encoding="utf-8")
    np.savez_compressed(run / "eval.npz", **(arrays() if data is None else data))  # pyright: ignore[reportArgumentType]
    with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, 401):
            row = {
                "step": step,
                "loss": 1 / step,
                "loss_pred": 0.5 / step,
                "loss_reg": 0.5 / step,
                "loss_slow": 0.2,
                "grad_norm": 1.0,
            }
            row |= {"learning_rate": 1e-3, "ema_momentum": 0.99}
            if step % 100 == 0:
                row |= {"effective_rank": step / 40, "content_share": 0.5, "condition_number": 9.0, "feature_std": 1.0}
            file.write(json.dumps(row) + "\n")
    return run


class Page(HTMLParser):
    """What a test asks of a page: its tags, its text by section, and that its tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {}
        self.svg: dict[str, list[str]] = {}
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
        if tag == "svg":
            self.svg.setdefault(self._section, []).append(found["aria-label"])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data + " "

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def missing(self) -> list[str]:
        return [attributes["class"] for attributes in self.all("p") if attributes.get("class") == "missing"]


def decode(uri: str) -> Image.Image:
    head, data = uri.split(",", 1)
    assert head in ("data:image/png;base64", "data:image/webp;base64")
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(write_run(tmp_path_factory.mktemp("run"))))


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace figures by empty ones where a test asks which there are: drawing them takes seconds."""

    def sketch(*data: Any, name: str, description: str, **settings: Any) -> str:
        assert all(len(part) for part in data if part is not None)
        return f'<svg id="{name}" aria-label="{html.escape(description)}"></svg>'

    names = ("curves", "spectrum", "scatter", "bars", "spread", "paths")
    pictures = {"still": lambda frame: "data:still", "animation": lambda frames, milliseconds: "data:moving"}
    monkeypatch.setattr(lewm.report, "figures", SimpleNamespace(**dict.fromkeys(names, sketch), **pictures))


def test_every_picture_has_data_and_alt(page: Page) -> None:
    images = page.all("img")
    # Each episode has start, goal and play and an imagined path; each clip has now and two rows of two horizons.
    assert len(images) == EXAMPLES * (3 + HORIZON) + EXAMPLES * (1 + 2 * 2)
    assert len({image["alt"] for image in images}) == len(images)
    for image in images:
        picture = decode(image["src"])
        assert picture.height == (BAR + PANEL + GAP + FOOT if "played" in image["alt"] else SIDE)
        assert image["alt"].strip()


def test_animation_plays_an_episode_until_it_is_solved(page: Page) -> None:
    moving = [decode(image["src"]) for image in page.all("img") if image["src"].startswith("data:image/webp")]
    assert [picture.n_frames for picture in moving] == [7, BUDGET + 1]  # pyright: ignore[reportAttributeAccessIssue]
    given = arrays()
    for picture, end, tone in zip(moving, (6, BUDGET), ("good", "bad"), strict=True):
        assert np.asarray(picture.convert("RGB"))[-2, 2].tolist() == list(TONES["plain"])
        picture.seek(end)
        assert np.asarray(picture.convert("RGB"))[-2, 2].tolist() == list(TONES[tone])
    shown = np.asarray(moving[0].convert("RGB"))[BAR : BAR + PANEL]
    now = shown[:, GAP : GAP + PANEL]
    np.testing.assert_array_equal(now[:: PANEL // SIDE, :: PANEL // SIDE], given["episode_frames"][0, 6])
    # Step 6 is the fourth decision's: its plan's last imagined step stands on the right.
    imagined = given["episode_library"][given["episode_imagined_nearest"][0, 3, -1]]
    beside = shown[:, GAP + PANEL + GAP : GAP + 2 * PANEL + GAP]
    np.testing.assert_array_equal(beside[:: PANEL // SIDE, :: PANEL // SIDE], imagined)
    stills = page.all("source")
    assert len(stills) == EXAMPLES
    assert all("reduced-motion" in still["media"] and decode(still["srcset"]).format == "PNG" for still in stills)


def test_every_figure_is_there_and_described(page: Page) -> None:
    assert [attributes["id"] for attributes in page.all("section")] == list(SECTIONS)
    counts = {section: len(labels) for section, labels in page.svg.items()}
    assert counts == {"split": 1, "episodes": EXAMPLES, "cost": 1, "projection": 2, "spectrum": 1, "training": 6}
    assert page.missing() == []
    labels = [label for labels in page.svg.values() for label in labels]
    assert len(set(labels)) == len(labels)
    assert page.svg["split"] == [
        "Success rates: planner alone 100%; cost alone 86%; model 77%; moving straight 55%; random policy 12%"
    ]
    assert "on the first frame" in page.svg["episodes"][0]


def test_ids_are_unique_and_references_lead_somewhere(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in page.tags if "href" in attributes and tag != "link"]
    inner = [link[1:] for link in links if link.startswith("#")]
    assert set(SECTIONS) <= set(inner) <= set(ids)
    assert all(link.startswith(("#", "data:")) for link in links)


def test_numbers_stand_beside_their_rivals(page: Page) -> None:
    words = " ".join(page.text["numbers"].split())
    assert (
        "Rival: the better of copying the present frame and each position's mean; lower is better Error ratio" in words
    )
    assert "Error ratio, 1 step ahead 0.211 1.000" in words
    assert "Error ratio, 2 steps ahead – 1.000" in words
    assert "Centred cosine, 2 steps ahead 0.855 0.307" in words
    assert "an encoder with random weights; 1 is perfect State R², linear, flattened tokens 0.987 0.618" in words
    assert "State R², linear, beside pixels 0.987 0.729" in words
    assert "Rival: total collapse; higher is better Effective rank 15.25 1.000" in words
    success = "Success in closed loop (95% interval) 77% (68% to 84%)"
    assert f"a random policy on the same 100 starts; higher is better {success} 12% (7% to 20%)" in words
    assert f"moving straight to the goal, seeing the true state, without a plan {success} 55% (45% to 64%)" in words
    assert "Success of 3 starts at the goal already 100% (44% to 100%) 67% (21% to 94%)" in words
    assert "Success of 97 starts from which moving straight reaches the goal 76% (67% to 84%) 10%" in words
    assert "No rival; lower is better Seconds for a plan 0.021" in words
    assert "from which moving straight does not" not in words  # there are none
    assert "solved before the first action" not in words  # said by the starts
    assert "The model learnt: everything went well." in page.text["header"]
    assert "model.stem_channels [8, 16] model.context_ratio null" in " ".join(page.text["settings"].split())


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("by_start", [None, 3, {"nothing": 4, "hard": {"count": "many"}}])
def test_starts_that_were_not_told_apart_are_left_out(tmp_path: Path, by_start: Any) -> None:
    planning = EVALUATION["planning"] | {"straight_success_rate": None, "by_start": by_start}
    page = Page(write_report(write_run(tmp_path, evaluation=EVALUATION | {"planning": planning})))
    words = " ".join(page.text["numbers"].split())
    assert "starts at the goal" not in words
    assert "moving straight" not in words + page.svg["split"][0]
    assert ("Episodes solved before the first action 3%" in words) == (by_start is None)


def test_the_parts_of_the_pose_stand_in_a_table(page: Page) -> None:
    words = " ".join(page.text["pose"].split())
    assert words.startswith("What the distance sees The distance sees the disc & more. Tolerances that")
    numbers = "Representation 0.0130 0.0490 0.1650 Pixels 0.0970 0.1330 0.1326"
    assert f"the disc's position, tolerance 20 {numbers}" in words
    assert "the block's angle, tolerance 20 degrees Representation – – – Pixels – – –" in words


def test_success_names_its_protocol(tmp_path: Path) -> None:
    planning = EVALUATION["planning"] | {"protocol": "strict"}
    page = Page(write_report(write_run(tmp_path, evaluation=EVALUATION | {"planning": planning})))
    assert "Success in closed loop, strict protocol (95% interval)" in " ".join(page.text["numbers"].split())
    assert "Measured on 100 episodes by the strict protocol" in " ".join(page.text["split"].split())


@pytest.mark.slow
def test_classes_stand_beside_both_rivals(tmp_path: Path) -> None:
    told = {"accuracy": 0.61, "ci95": [0.56, 0.66], "random_accuracy": 0.35, "random_ci95": [0.3, 0.4]}
    evaluation = EVALUATION | NOTHING | {"class_probe": told | {"largest_class": 0.22}}
    text = write_report(write_run(tmp_path, evaluation=evaluation)).read_text(encoding="utf-8")
    for number in ("61% (56% to 66%)", "35% (30% to 40%)", "22%"):
        assert number in text
    assert "Class told" not in write_report(write_run(tmp_path)).read_text(encoding="utf-8")


def test_page_loads_and_runs_nothing(page: Page) -> None:
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert page.all("script") == []
    assert [link["href"] for link in page.all("link")] == ["data:,"]


@pytest.mark.usefixtures("sketched")
def test_untrusted_text_is_escaped(tmp_path: Path) -> None:
    evaluation = json.loads(json.dumps(EVALUATION))
    evaluation["verdict"] = evaluation["data"]["task"] = evaluation["cost"]["name"] = ATTACK
    evaluation["probe"]["r2_by_state"] = {ATTACK: 0.5, "$\\frac{$": 0.5}
    data = arrays() | {"state_names": np.array([ATTACK, "$\\frac{$"])}
    del data["episode_place"]  # so that names of the state stand at the paths
    data[f"cost_{ATTACK}"] = data["cost_steps_to_go"]
    config = {"preset": ATTACK, ATTACK: {"seed": ATTACK}}
    run = write_run(tmp_path / "<b>&run", config=config, evaluation=evaluation, data=data)
    page = Page(write_report(run))
    assert page.missing() == []
    assert page.all("script") == []
    assert page.all("b") == []
    assert all("onerror" not in attributes for attributes in page.all("img"))
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    for section in ("header", "episodes", "cost", "projection", "settings"):
        assert "onerror=alert(1)" in page.text[section]


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("config.json", {"settings"}),
        ("metrics.jsonl", {"training"}),
        ("eval.json", {"header", "numbers", "split", "cost", "pose"}),
        ("eval.npz", {"episodes", "rollouts", "cost", "projection", "spectrum"}),
    ],
)
@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("content", [None, b"", b"no such format", b"[1, 2]\n"])
def test_missing_or_broken_file_gives_a_sentence(
    tmp_path: Path, name: str, sections: set[str], content: bytes | None
) -> None:
    run = write_run(tmp_path)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    page = Page(write_report(run))
    assert len(page.missing()) == len(sections)
    for section in sections:
        assert name in page.text[section]


# Without these a part is drawn in another way.
KEPT = (
    *("projection_share", "state_names", "episode_cost", "episode_place", "episode_goal_place"),
    *("episode_imagined_place", "episode_states", "episode_goal_state", "episode_imagined_states"),
)
NOTHING = dict.fromkeys(("prediction", "probe", "cost", "pose_sensitivity", "planning"))
NO_PLANNING = {"planning": None, "pose_sensitivity": None, "cost": {"name": "steps_to_go"}}
ROBOT = {"data": {"task": "my-robot", "state_names": ["x", "y"]}}


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    ("evaluation", "config", "reasons"),
    [
        (
            NO_PLANNING | ROBOT,
            {},
            dict.fromkeys(("numbers", "split", "episodes"), "no simulator of the task my-robot"),
        ),
        (
            NO_PLANNING | {"data": {"task": "two-room", "state_names": []}, "probe": None},
            {},
            {"numbers": "probe: the data has no states", "split": "the data of two-room has no states"},
        ),
        (
            NO_PLANNING | {"data": {"task": "two-room", "state_names": ["a", "b"]}},
            {},
            {"episodes": "are not those of two-room's simulator, x, y"},
        ),
        (
            NOTHING | {"class_probe": None},
            {"action": {"kind": "none"}},
            dict.fromkeys(("numbers", "split", "episodes", "rollouts", "cost", "pose"), "trained on images"),
        ),
        (NO_PLANNING | ROBOT, {}, {"pose": "it needs a task whose state can be set and drawn"}),
        ({"pose_sensitivity": {"parts": "many"}}, {}, {"pose": "No pose sensitivity: eval.json has none; lewm eval"}),
        (NO_PLANNING, {}, {"split": "lewm eval", "episodes": "lewm eval"}),
        ({"cost": {"name": "steps_to_go"}}, {}, {"split": "--eval.split-episodes 50"}),
        ({"planning": EVALUATION["planning"] | {"straight_success_rate": None}}, {}, {"split": "moving straight"}),
    ],
)
def test_what_is_empty_says_why(
    tmp_path: Path, evaluation: dict[str, Any], config: dict[str, Any], reasons: dict[str, str]
) -> None:
    kept = {} if evaluation.get("planning", 0) is None else arrays()
    run = write_run(tmp_path, config=CONFIG | config, evaluation=EVALUATION | evaluation, data=kept)
    page = Page(write_report(run))
    assert page.missing()
    for section, reason in reasons.items():
        assert reason in " ".join(page.text[section].split())


@pytest.mark.usefixtures("sketched")
def test_frames_without_states_are_projected_without_colours(tmp_path: Path) -> None:
    data = {name: array for name, array in arrays().items() if name != "projection_states"}
    page = Page(write_report(write_run(tmp_path, data=data)))
    assert page.svg["projection"] == ["30 frames"]
    assert "Not coloured: there are no states" in page.text["projection"]


@pytest.mark.usefixtures("sketched")
def test_paths_of_an_earlier_version_are_drawn_over_the_state(tmp_path: Path) -> None:
    data = {name: array for name, array in arrays().items() if not name.endswith("_place")}
    page = Page(write_report(write_run(tmp_path, data=data)))
    assert len(page.svg["episodes"]) == EXAMPLES
    assert "x to the right, y downwards" in page.svg["episodes"][0]


@pytest.mark.slow
@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("name", [name for name in arrays() if name not in KEPT])
def test_arrays_that_do_not_fit_are_left_out(tmp_path: Path, name: str) -> None:
    data = arrays()
    whole = pictures_in(Page(write_report(write_run(tmp_path, data=data))))
    for wrong in (data[name][..., None], data[name].astype(str), data[name][:0]):
        assert pictures_in(Page(write_report(write_run(tmp_path, data=data | {name: wrong})))) < whole


def pictures_in(page: Page) -> int:
    return sum(len(labels) for labels in page.svg.values()) + len(page.all("img"))


@pytest.mark.usefixtures("sketched")
def test_damaged_arrays_give_sentences(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    data = bytearray((run / "eval.npz").read_bytes())
    data[200:400] = bytes(200)
    (run / "eval.npz").write_bytes(data)
    page = Page(write_report(run))
    assert len(page.missing()) == 5
    np.savez(run / "eval.npz", spectrum=np.array([{"a": "pickled object"}]))
    assert len(Page(write_report(run)).missing()) == 5


@pytest.mark.usefixtures("sketched")
def test_indices_outside_the_library_are_left_out(tmp_path: Path) -> None:
    data = arrays()
    data["episode_imagined_nearest"][0, 0, 0] = 4
    page = Page(write_report(write_run(tmp_path, data=data)))
    assert "do not fit each other" in page.text["episodes"]


@pytest.mark.usefixtures("sketched")
def test_metrics_survive_a_killed_run(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    extra = [{"step": 400, "loss": 8.0}, {"step": 401, "loss": float("nan")}]
    (run / "metrics.jsonl").write_text(text + "".join(json.dumps(row) + "\n" for row in extra) + '{"step": 402, "lo')
    page = Page(write_report(run))
    # The later line of step 400 counts, a loss that is no number is no point of the curve, half a line is none.
    assert "loss from 1 to 8;" in page.svg["training"][0]
    assert "steps trained 401" in " ".join(page.text["header"].split())


@pytest.mark.usefixtures("sketched")
def test_a_bad_verdict_is_told_apart(tmp_path: Path) -> None:
    good = Page(write_report(write_run(tmp_path / "good")))
    bad = Page(write_report(write_run(tmp_path / "bad", evaluation=EVALUATION | {"learnt": False})))
    few = EVALUATION | {"learnt": None, "verdict": "5 episodes are too few to tell whether the model plans: so."}
    unknown = Page(write_report(write_run(tmp_path / "open", evaluation=few)))
    pages = (good, bad, unknown)
    verdicts = [[p["class"] for p in page.all("p") if "verdict" in p.get("class", "")] for page in pages]
    assert verdicts == [["verdict good"], ["verdict bad"], ["verdict open"]]
    assert "5 episodes are too few to tell whether the model plans: so." in unknown.text["header"]


def test_no_folder_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^run=.*nowhere: no such folder; give a run folder"):
        write_report(tmp_path / "nowhere")


@pytest.mark.usefixtures("sketched")
def test_report_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run / "report.html").write_text("old")
    before = {file.name for file in run.iterdir()}
    assert write_report(run) == run / "report.html"
    assert (run / "report.html").read_text(encoding="utf-8") != "old"
    assert {file.name for file in run.iterdir()} == before


def test_figures_leave_matplotlib_as_it_was() -> None:
    before, backend = dict(mpl.rcParams), mpl.get_backend()
    figures.spectrum(np.array([0.6, 0.4]), name="a", description="b")
    assert dict(mpl.rcParams) == before
    assert mpl.get_backend() == backend


def test_a_figure_escapes_its_description() -> None:
    svg = figures.bars([("all", 0.5, (0.4, 0.6), False)], name="a", description=ATTACK)
    assert html.escape(ATTACK) in svg
    assert "<script" not in svg


@pytest.mark.slow
def test_figures_can_be_drawn_of_very_little() -> None:
    one, same, dot = np.array([3.0]), np.full(5, 0.25), np.zeros((1, 1, 3), np.uint8)
    drawn = [
        figures.curves([("loss", one, one)], name="a", description="", log=True),
        figures.curves([("loss", np.arange(5.0), np.zeros(5))], name="b", description="", log=True),
        figures.spectrum(np.array([1.0]), name="c", description=""),
        figures.spread(one, one, name="d", description=""),
        figures.spread(same, same, name="e", description=""),
        figures.scatter(np.zeros((1, 2)), one, name="f", description=""),
        figures.scatter(np.zeros((1, 2)), None, name="g", description=""),
        figures.bars([("all", 1.0, (1.0, 1.0), True)], name="h", description=""),
        figures.paths(np.zeros((1, 2)), np.zeros(2), np.zeros((1, 1, 2)), frame=None, name="i", description=""),
        figures.paths(np.zeros((1, 2)), np.zeros(2), np.zeros((0, 1, 2)), frame=dot, name="j", description=""),
    ]
    assert all(svg.startswith("<svg role=") and svg.rstrip().endswith("</svg>") for svg in drawn)


def test_a_path_is_drawn_on_the_frame_with_one_scale() -> None:
    way = np.array([[0.0, 0.0], [SIDE, 0.0], [SIDE, SIDE]])
    drawn: list[Axes] = []

    def keep(draw: Callable[[Axes], None], **_: Any) -> str:
        drawn.append(Figure(figsize=(3, 4)).add_subplot())
        draw(drawn[-1])
        return ""

    frame = np.zeros((SIDE, SIDE, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_svg", keep)
        for background in (frame, None):
            figures.paths(way, way[1], np.ones((2, 3, 2)), frame=background, name="a", description="")
    on_frame, plain = drawn
    assert [axes.get_aspect() for axes in drawn] == [1.0, 1.0]
    assert (on_frame.get_xlim(), on_frame.get_ylim()) == ((0, SIDE), (SIDE, 0))  # y downwards, the whole frame
    assert list(on_frame.images[0].get_extent()) == [0, SIDE, SIDE, 0]
    assert plain.yaxis_inverted()
    for axes in drawn:
        lines = {line.get_label(): np.array(line.get_xydata()) for line in axes.lines}
        np.testing.assert_array_equal(lines["way taken"], way)
        np.testing.assert_array_equal(lines["first plan, imagined"], np.vstack((way[:1], np.ones((3, 2)))))


def test_every_curve_of_the_loss_has_a_colour() -> None:
    steps = np.arange(3.0)
    svg = figures.curves([(key, steps, steps + k) for k, key in enumerate(LOSSES)], name="a", description="", log=False)
    assert all(f"var(--series-{k})" in svg and key in svg for k, key in enumerate(LOSSES, start=1))


def test_long_curves_are_averaged_in_groups() -> None:
    x = np.arange(1000.0)
    shorter_x, shorter_y = figures._averaged(x, x**2)
    groups = [x[i : i + 4] for i in range(0, 1000, 4)]
    np.testing.assert_allclose(shorter_x, [group.mean() for group in groups])
    np.testing.assert_allclose(shorter_y, [(group**2).mean() for group in groups])


@pytest.mark.slow
def test_browser_shows_every_picture_without_a_complaint(page: Page, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here; install it to have the report opened in a browser")
    # The page itself has no script: a copy of it gets one, which writes down what the browser made of the pictures.
    probe = """<script>addEventListener("load", () => {
      const images = [...document.images];
      const good = images.filter(i => i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width > 0);
      const drawn = [...document.querySelectorAll("svg")].filter(s => s.getBBox().width > 0);
      const words = [...document.querySelectorAll("svg text")].filter(t => t.getBBox().width > 0);
      const cut = words.filter(t => {
        const [inner, outer] = [t, t.ownerSVGElement].map(e => e.getBoundingClientRect());
        return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1;
      });
      const over = e => e.scrollWidth > e.clientWidth + 1;
      const wide = [...document.querySelectorAll("main, main *:not(code):not(svg *)")].filter(over).length;
      const page = over(document.documentElement);
      document.title = ["seen", good.length, images.length, drawn.length, words.length > 50, cut.length, wide, page,
        innerWidth].join(" ");
    });</script></body>"""
    (tmp_path / "report.html").write_text(page.source, encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0", "--window-size=1280,900"]

    def open_page(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=True)
        complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert complaints == []
        return done.stdout

    images, figure_count = len(page.all("img")), sum(len(labels) for labels in page.svg.values())
    # A headless window is at least 500 pixels wide; a frame inside a page is as narrow as it is told.
    source = html.escape(page.source.replace("</body>", probe).replace("document.title", "parent.document.title"))
    for width in (420, 1280):
        frame = f'<iframe style="border: 0" width="{width}" height="900" srcdoc="{source}"></iframe>'
        (tmp_path / "probed.html").write_text(f"<!doctype html><title></title>{frame}", encoding="utf-8")
        dumped = open_page("--dump-dom", (tmp_path / "probed.html").as_uri())
        assert f"<title>seen {images} {images} {figure_count} true 0 0 false {width}</title>" in dumped
    open_page(f"--screenshot={tmp_path / 'shot.png'}", (tmp_path / "report.html").as_uri())
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("L"))
    assert shot.std() > 5  # not a blank page

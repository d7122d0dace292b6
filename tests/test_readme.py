"""The README and the documentation do what they say: code runs, commands, files and links exist, numbers are defined.

Run as a script, this file writes the table of presets in docs/method.md anew: `python tests/test_readme.py`.
"""

import dataclasses
import json
import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import lewm
import lewm.envs
import lewm.families
import lewm.families.presets
from lewm import cli
from lewm.config import Config, EvalConfig, PlanConfig
from lewm.envs import collect, record
from lewm.families import PRESETS, preset
from lewm.research import load_table
from lewm.research.results import read
from lewm.research.study_tables import filled
from tiny import IMAGE, tiny

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
RESULTS = ROOT / "benchmarks" / "results" / "ablate.jsonl"
METHOD = ROOT / "docs" / "method.md"
PLACE = re.compile(r"(?<=<!-- presets -->\n).*?(?=<!-- /presets -->)", re.DOTALL)
SMALL = dataclasses.replace(
    tiny(data__frame_skip=2, data__held_out=0.34, train__steps=3, train__cost_steps=2),
    plan=PlanConfig(horizon=2, candidates=4, elites=2, iterations=1),  # by the learnt cost, as the preset plans
    eval=EvalConfig(
        episodes=2, split_episodes=1, goal_offset=5, budget=6, horizons=(1, 2), clips=4, probe_frames=40
    ),
)  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def settings(config: Config) -> dict[str, Any]:
    """Return the settings of a configuration by their full names."""
    groups = ("data", "model", "train", "plan", "eval")
    return {f"{group}.{name}": value for group in groups for name, value in vars_of(getattr(config, group)).items()}


def every_setting() -> dict[str, Any]:
    """Return the settings of all presets by their full names: of every family."""
    return {name: value for config in PRESETS.values() for name, value in settings(config).items()}


def vars_of(part: Any) -> dict[str, Any]:
    """Return the fields of a dataclass with slots."""
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}


def preset_table() -> str:
    """Return the settings in which presets differ, as Markdown."""
    names = ("literal", "large", "base", "tiny")
    columns = [settings(PRESETS[name]) for name in names]
    rows = [f"| setting | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for key in columns[0] | columns[1]:
        values = [column.get(key, "–") for column in columns]
        if any(value != values[0] for value in values):
            shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
            rows.append(f"| `{key}` | {' | '.join(shown)} |")
    return "".join(f"{row}\n" for row in rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Execute the Python blocks of README, quickstart and data, in small, one after another; return the folder."""
    folder, before = tmp_path_factory.mktemp("readme"), Path.cwd()
    made: list[str] = []
    measured: list[Any] = []

    def collect_few(task: str, out: str, *, episodes: int, workers: int) -> Any:
        made.append(out)
        assert episodes == 400
        return collect(task, out, episodes=6, workers=workers, image_size=IMAGE, episode_length=20, progress=False)

    def record_few(env: Any, out: str, *, episodes: int, policy: Any, episode_length: int) -> Any:
        made.append(out)
        assert (episodes, episode_length) == (200, 60)
        return record(env, out, episodes=6, policy=policy, image_size=IMAGE, episode_length=20)

    def preset_in_few_steps(name: str, settings: dict[str, Any] | None = None) -> Config:
        return preset(name, settings and settings | {"train.steps": 3})

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lewm.families.presets.PRESETS, "tiny", SMALL)
        patch.setattr(lewm.families, "preset", preset_in_few_steps)
        patch.setattr(lewm.envs, "collect", collect_few)
        patch.setattr(lewm.envs, "record", record_few)
        os.chdir(folder)
        try:
            for page in (ROOT / "README.md", ROOT / "docs" / "quickstart.md", ROOT / "docs" / "data.md"):
                found = blocks(page, "python")
                assert found, page
                for block in found:
                    if "so100" in block:  # needs the recording that tests/test_docs_data.py makes
                        continue
                    names: dict[str, Any] = {}
                    exec(compile(block, str(page), "exec"), names)
                    measured.append(names.get("results"))
        finally:
            os.chdir(before)
    assert made == ["data/two-room", "data/puck"]
    (results,) = filter(None, measured)  # of the environment of one's own
    (folder / "own_env.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_python_blocks_run(run: Path) -> None:
    results = json.loads((run / "runs" / "two-room" / "eval.json").read_text(encoding="utf-8"))
    assert "one-step error is" in results["verdict"]
    assert lewm.Store(run / "data" / "my-arm").num_frames == 150
    own = json.loads((run / "own_env.json").read_text(encoding="utf-8"))
    assert (own["episodes"], own["same_starts"], own["goal_episodes"]) == (50, 50, 2)
    assert " of 50 goals, a random policy " in own["verdict"]


def test_every_logged_metric_is_defined(run: Path) -> None:
    lines = (run / "runs" / "two-room" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = {name for line in lines for name in json.loads(line)}
    section = METHOD.read_text(encoding="utf-8").partition("## Logged metrics")[2]
    only_when_asked_for = {"loss_inv", "loss_read"}
    assert logged | only_when_asked_for == set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))


def test_every_number_of_an_evaluation_is_defined(run: Path) -> None:
    results = json.loads((run / "runs" / "two-room" / "eval.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").partition("## `eval.json`")[2]
    defined = set(re.findall(r"`(\w+)`", text))
    measured = set(results)
    for part in ("machine", "data", "spectrum", "prediction", "probe", "cost", "planning"):
        measured |= set(results[part])
    for part in results["planning"]["by_start"].values():
        measured |= set(part)
    assert measured | set(results["planning"]["by_start"]) <= defined


def test_table_of_presets_is_that_of_the_code() -> None:
    (written,) = PLACE.findall(METHOD.read_text(encoding="utf-8"))
    assert written == preset_table(), "presets have changed; run: python tests/test_readme.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_of_results_are_those_of_the_json(page: Path) -> None:
    """No figure is typed by hand: `python benchmarks/tables.py` writes them."""
    text = page.read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))["filled"](text) == text


@pytest.mark.slow
def test_tables_of_studies_are_those_of_the_results() -> None:
    """`python benchmarks/ablate.py --tables docs/results.md` writes them."""
    jobs, lines = load_table(ROOT / "benchmarks" / "ablate.py").jobs(), read(RESULTS)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert filled(text, jobs, lines) == text, page


@pytest.mark.slow
def test_ledger_is_that_of_the_results() -> None:
    """`python benchmarks/ledger.py` writes it; every claim of the article has its row."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    written = runpy.run_path(str(ROOT / "benchmarks" / "ledger.py"))["ledger"]()
    assert f"<!-- ledger -->\n{written}\n<!-- /ledger -->" in text
    assert re.findall(r"^\| (C\d+) \|", written, re.MULTILINE) == [f"C{n}" for n in range(1, 22)]


def test_commands_and_their_options_exist() -> None:
    known = (ROOT / "tests" / "golden" / "cli.txt").read_text(encoding="utf-8")
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        in_table = re.findall(r"^\| `(lewm .*?)`", text, re.MULTILINE)
        for line in [*in_table, *"".join(blocks(page, "bash")).splitlines()]:
            words = line.partition("#")[0].replace("torchrun --nproc-per-node 2 -m ", "").split()
            if words[:1] != ["lewm"]:
                continue
            found.add(words[1])
            assert words[1] in cli.COMMANDS, line
            of = f"(--preset {words[words.index('--preset') + 1]} )?" if "--preset" in words else ""
            for option in [word for word in words if word.startswith("--")]:
                assert re.search(rf"^{words[1]} {of}{re.escape(option)}\b", known, re.MULTILINE), line
    assert found == set(cli.COMMANDS)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {target for page in PAGES for target in re.findall(r"\bmake (\w+)", "".join(blocks(page, "bash")))}
    assert {"demo", "test", "install"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_places_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for file in re.findall(r"`((?:src|tests|benchmarks)/[\w/.]+)`", text):
        assert (ROOT / file).is_file(), file


def test_functions_that_the_method_names_exist() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "src" / "lewm").rglob("*.py"))
    text = METHOD.read_text(encoding="utf-8")
    algorithms = text.partition("## Algorithm 1")[2].partition("## Presets")[0]
    names = set(re.findall(r"`(?:\w+\.)?(\w+)`", algorithms)) - {"target_encoder"}
    assert len(names) > 15
    for name in names:
        assert re.search(rf"(?:def|class) {name}\b", source), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    known = every_setting()
    groups = "data|model|mask|loss|train|plan|eval"  # no page names a setting of groups that there are not
    for name in re.findall(rf"`((?:{groups})\.[a-z_]+)(?:=\w+)?`", page.read_text(encoding="utf-8")):
        exempt = name.endswith((".json", ".npz")) or name == "model.num_tokens"  # files, and a derived value
        assert exempt or name in known, name


if __name__ == "__main__":
    METHOD.write_text(PLACE.sub(preset_table(), METHOD.read_text(encoding="utf-8")), encoding="utf-8")

"""Tables of studies: which settings a job gets, what is refused and how, and what tells jobs and trainings apart."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablation_fixture import DATA, TABLE, table
from lewm.config import PlanConfig
from lewm.families.article.settings import ArticleSettings
from lewm.families.compact.settings import CompactSettings
from lewm.families.presets import preset
from lewm.families.rivals.rival_settings import GCBCSettings
from lewm.research import Job, ModelOf, Study, Table, TaskData, load_table, select

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "ablate.py"


def job_of(variant: Any, **study: Any) -> Job:
    """Return the first job of a study of one variant."""
    return table(variants={"one": variant}, **study).jobs()[0]


def test_the_last_of_preset_task_study_and_variant_counts() -> None:
    data = replace(DATA, settings={**DATA.settings, "model.slowness": 2.0, "model.inverse": 0.25})
    study = Study(
        variants={"ours": {}, "changed": {"model": {"slowness": 4}}},
        tasks=("rooms",),
        seeds=(5,),
        settings={"model": {"slowness": 3.0}, "train.warmup": 0.5},
    )
    ours, changed = Table(tasks={"rooms": data}, studies={"s": study}).jobs()
    for job, slowness in ((ours, 3.0), (changed, 4.0)):
        assert isinstance(job.config.model, CompactSettings)
        assert (job.config.model.slowness, job.config.model.inverse) == (slowness, 0.25)
    assert ours.config.train.warmup == 0.5
    assert ours.config.train.betas == preset("tiny").train.betas
    assert ours.config.seed == changed.config.seed == 5
    assert ours.config.model.image_size == DATA.image_size
    assert changed.changes == {"model.slowness": 4}
    assert (ours.config.action.kind, ours.config.action.size) == ("continuous", 2)


def test_a_model_of_another_preset_has_what_its_family_has() -> None:
    article, policy = (
        job_of(given, settings={"model.depth": 2, "train.steps": 7}).config
        for given in (ModelOf("literal", {"model.depth": 1, "plan.cost": "pooled"}), ModelOf("gcbc"))
    )
    ours = job_of({}, settings={"model.depth": 2, "train.steps": 7}).config
    assert isinstance(article.model, ArticleSettings)
    assert isinstance(policy.model, GCBCSettings)
    assert isinstance(ours.model, CompactSettings)
    assert (article.preset, policy.preset) == ("literal", "gcbc")
    # variant, study and task; what only the table's own family has is left out
    assert (article.model.depth, policy.model.depth, policy.model.width) == (1, 2, ours.model.width)
    assert article.model.slowness == ours.model.slowness == 1
    assert article.model.context_ratio == ArticleSettings().context_ratio
    assert policy.model.chunk == GCBCSettings().chunk
    assert (article.plan.cost, policy.plan) == ("pooled", ours.plan)
    assert article.train == policy.train == ours.train
    assert article.data == policy.data == ours.data


def test_seeds_come_first() -> None:
    order = [(job.study, job.seed) for job in TABLE.jobs()]
    assert order == [*[("levers", 0)] * 3, ("again", 0), *[("levers", 1)] * 3]


def test_jobs_that_differ_in_planning_and_evaluation_share_a_training() -> None:
    ours = job_of({})
    for changes in ({"plan.cost": "pooled"}, {"plan.candidates": 8}, {"eval.episodes": 2}):
        other = job_of(changes)
        assert other.training == ours.training
        assert other.training_config == ours.training_config
        assert other.key != ours.key
    for changes in (
        {"model.regulariser_weight": 0.2},
        {"plan.horizon": 3},
        {"data.train_share": 0.5},
    ):  # the cost looks ahead
        assert job_of(changes).training != ours.training
    no_cost = {"train.cost_steps": 0, "plan.cost": "tokens"}
    assert job_of(no_cost | {"plan.horizon": 3}).training == job_of(no_cost).training
    policies = [job_of(ModelOf("gcbc", changes)) for changes in ({}, {"plan.horizon": 3})]  # it learns no cost
    assert policies[0].training == policies[1].training
    assert policies[0].key != policies[1].key
    assert TABLE.jobs()[-1].training != TABLE.jobs()[2].training  # another seed
    assert ours.training_config.plan == PlanConfig(cost="tokens", horizon=2)


def test_keys_follow_all_that_a_result_depends_on() -> None:
    ours = job_of({})
    assert isinstance(ours.config.model, CompactSettings)
    assert job_of({"model": {"slowness": ours.config.model.slowness}}).key == ours.key
    assert job_of(ModelOf("tiny")).key == ours.key
    assert job_of(ModelOf("gcbc")).key not in (ours.key, job_of(ModelOf("literal")).key)
    keys, stores = {ours.key}, {ours.store}
    for change in ({"episodes": 7}, {"episode_length": 21}, {"seed": 1}, {"task": "two-room-discrete"}):
        study = Study(variants={"one": {}}, tasks=("rooms",))
        other = Table(tasks={"rooms": replace(DATA, **change)}, studies={"s": study}).jobs()[0]
        keys.add(other.key)
        stores.add(other.store)
    assert len(keys) == len(stores) == 5


@pytest.mark.parametrize(
    ("study", "told"),
    [
        ({"variants": {"a": {"model.slownes": 0.0}}}, "levers / a / rooms: model.slownes=0.0: is not a setting; did "
         "you mean model.slowness?"),
        ({"variants": {"a": {"model": {"slow": 0.0}}}}, "model.slow=0.0: is not a setting"),
        ({"variants": {"a": {"loss": {"slowness": 0.0}}}}, "loss.slowness=0.0: is not a setting; did you mean "
         "model.slowness?"),
        ({"variants": {"a": {"model.centre": "position"}}}, "levers / a / rooms: model.centre=position: is a setting "
         "of article (--preset literal), and the family here is compact; leave it out, or start from a preset that has "
         "it"),
        ({"variants": {"a": ModelOf("gcbc", {"model.slowness": 0.0})}}, "model.slowness=0.0: is a setting of"),
        ({"variants": {"a": ModelOf("gcbc")}, "settings": {"model.slownes": 0.0}}, "levers / a / rooms: "
         "model.slownes=0.0: is not a setting"),
        ({"variants": {"a": {"model.slowness": "no"}}}, "model.slowness=no: must be float; use a value such as "),
        ({"variants": {"a": {"train.steps": 1.5}}}, "train.steps=1.5: must be int"),
        ({"variants": {"a": {"model.slowness": -1.0}}}, "levers / a / rooms: model.slowness=-1.0: must not be "
         "negative"),
        ({"variants": {"a": {"model.slowness": 1.0, "model": {"slowness": 0.0}}}}, "model.slowness=0.0: is given "
         "twice"),
        ({"variants": {"a": {"seed": 3}}}, "seed=3: is filled in for every job; leave it out"),
        ({"variants": {"a": {"data.path": "x"}}}, "data.path=x: is filled in"),
        ({"tasks": ("room",)}, "study levers: tasks=room: must be one of rooms; did you mean rooms?"),
        ({"curve": "data.train_shar"}, "curve=data.train_shar: must be one of"),
        ({"curve": "plan.candidates x model.stem"}, "curve=model.stem: must be one of"),
        ({"curve": "step x plan.iterations"}, "study levers: curve=step x plan.iterations: step is drawn by itself; "
         "leave the other out"),
        ({"seeds": (0, 1, 0)}, "study levers: seeds=(0, 1, 0): has 0 twice; leave one out"),
        ({"tasks": ["rooms", "rooms"]}, "has rooms twice; leave one out"),
        ({"seeds": 3}, "study levers: seeds=3: must be a list or a tuple; put it in square brackets"),
        ({"tasks": "rooms"}, "study levers: tasks='rooms': must be a list or a tuple; put it in square brackets"),
        ({"seeds": ("0",)}, "levers / ours / rooms: seed=0: must be int"),
        ({"variants": ["ours"]}, "study levers: variants=['ours']: must be a mapping; give settings by the variant's"),
        ({"variants": {}}, "study levers: variants={}: must not be empty; add one, or leave the study out"),
        ({"seeds": ()}, "study levers: seeds=(): must not be empty"),
        ({"tasks": ()}, "study levers: tasks=(): must not be empty"),
        ({"variants": {"a": None}}, "levers / a / rooms: settings=None: must be settings by name (or a ModelOf); give "
         "{} to change nothing"),
        ({"variants": {"a": "gcbc"}}, "levers / a / rooms: settings='gcbc': must be settings by name (or a ModelOf)"),
        ({"variants": {"a": ModelOf("gcbcx")}}, "levers / a / rooms: preset=gcbcx: must be one of tiny, "),
        ({"variants": {"a": ModelOf("gcbcx")}}, "; did you mean gcbc?"),
        ({"variants": {"a": {"eval.goal_offset": 20}}}, "levers / a / rooms: eval.goal_offset=20: must be below the "
         "task's episode_length, 20; lower it, or collect longer episodes"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(study: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        table(**study)


def test_data_that_cannot_be_collected_is_refused() -> None:
    def made(**data: Any) -> Table:
        return Table(tasks={"rooms": TaskData(**({"task": "two-room", "episodes": 6} | data))}, studies={})

    with pytest.raises(ValueError, match=r"task rooms: task=tow-room: must be one of .*did you mean two-room\?"):
        made(task="tow-room")
    with pytest.raises(ValueError, match="task rooms: episodes=1: must be at least 2"):
        made(episodes=1)
    for name, value in (("episodes", 40.5), ("episode_length", "100"), ("seed", True), ("image_size", 64.0)):
        with pytest.raises(ValueError, match=rf"task rooms: {name}={value!r}: must be an integer; give a whole number"):
            made(**{name: value})
    with pytest.raises(ValueError, match=r"^studies={}: must not be empty; add a Study$"):
        made()
    with pytest.raises(ValueError, match="preset=tinny"):
        Table(tasks={}, studies={}, preset="tinny")


def test_selection() -> None:
    assert select(TABLE) == list(TABLE.jobs())
    chosen = select(TABLE, studies=["levers"], variants=["slow", "pooled"], tasks=["rooms"], seeds=[1])
    assert [(job.variant, job.seed) for job in chosen] == [("slow", 1), ("pooled", 1)]
    for given, told in (
        ({"studies": ["lever"]}, "study=lever: must be one of levers, again; did you mean levers?"),
        ({"variants": ["fast"]}, "variant=fast: must be one of ours, slow, pooled, the same"),
        ({"studies": ["again"], "variants": ["slow"]}, "variant=slow: must be one of the same"),
        ({"seeds": [7]}, "seed=7: must be one of 0, 1; give one of them"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            select(TABLE, **given)  # pyright: ignore[reportArgumentType]


def test_table_is_read_from_a_python_file(tmp_path: Path) -> None:
    assert [job.label for job in load_table(Path(__file__).with_name("ablation_fixture.py")).jobs()] == [
        job.label for job in TABLE.jobs()
    ]
    with pytest.raises(ValueError, match=r"nothing\.py: no such file"):
        load_table(tmp_path / "nothing.py")
    (tmp_path / "empty.py").write_text("TABEL = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.py: defines no TABLE; write TABLE ="):
        load_table(tmp_path / "empty.py")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\ny = (\n", "line 2: SyntaxError: '(' was never closed"),
        (
            "from lewm.research import Study\n\nStudy(variant={})\n",
            "line 3: TypeError: Study.__init__() got an unexpected",
        ),
        ("def fail():\n    return {}['a']\n\nfail()\n", "line 2: KeyError: 'a'"),
        ("raise RuntimeError('one\\ntwo')\n", "line 1: RuntimeError: one two"),
        ("import no_such\n", "line 1: ModuleNotFoundError: No module named 'no_such'"),
    ],
)
def test_mistake_in_a_table_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "studies.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"table={path}: {told}")) as error:
        load_table(path)
    assert str(error.value).endswith("; mend the file")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_studies_of_the_project_are_sound() -> None:
    """Every job has been validated by then; in a study on Two-Room, no two variants are the same."""
    jobs = select(load_table(BENCHMARK), tasks=["two-room"], seeds=[0])
    assert {job.study for job in jobs} >= {"recipe", "rivals", "cost", "budget", "data", "claims"}
    for study in {job.study for job in jobs}:
        keys = [job.key for job in jobs if job.study == study]
        assert len(set(keys)) == len(keys), study


@pytest.mark.slow
def test_the_project_compares_the_article_at_the_size_of_tiny() -> None:
    tiny = preset("tiny").model
    jobs = [job for job in load_table(BENCHMARK).jobs() if job.config.model.family == "article"]
    assert {job.study for job in jobs} == {"recipe", "recipe-push-t", "rivals", "claims"}
    for name in ("image_size", "width", "depth", "num_heads", "stem_channels", "predictor_width", "predictor_depth"):
        assert {getattr(job.config.model, name) for job in jobs} == {getattr(tiny, name)}

"""The closed loop: warm start, history, and driving a toy world to the goals of pictures."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from controllers import BOTH, MOVES, SCALE, Servo, Toy, controller, picture, place_read, seeded, settings
from lewm.config import ActionConfig, PlanConfig
from lewm.plan import ActionSpace, LatentController, RecedingHorizon, action_space, cost

B = 3
both = pytest.mark.parametrize("kind", BOTH)
"""Of tests that both controllers must pass; the others are of what PyTorch's alone has."""


@both
@pytest.mark.parametrize("planner", ["cem", "mppi"])
@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize(("discrete", "execute"), [(False, 1), (False, 2), (True, 1), (True, 2)])
def test_each_environment_reaches_its_goal(kind: str, planner: str, hold: bool, discrete: bool, execute: int) -> None:
    config = settings(discrete=discrete, planner=planner, hold=hold, execute=execute, over="sum")
    _, drive = controller(kind, config)
    points = np.array([[20.0, 20.0], [30.0, 30.0], [10.0, 40.0]])
    goals = np.array([[28.0, 16.0], [30.0, 20.0], [16.0, 46.0]])
    drive.reset(picture(goals))
    frames = picture(points)
    for _ in range(8):
        actions = drive.act(frames)
        assert actions.shape == ((B, 2 * execute) if discrete else (B, 2 * execute, 2))
        assert actions.dtype == (np.int64 if discrete else np.float32)
        moves = MOVES[actions] if discrete else actions
        path = points[:, None] + moves.cumsum(1)
        points = path[:, -1]
        frames = picture(path[:, 1::2])  # one frame a model step
    assert np.linalg.norm(points - goals, axis=-1).max() < 1.5, points


@both
@pytest.mark.parametrize("planner", ["cem", "mppi"])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("over", ["last", "sum"])
def test_every_environment_moves_into_the_region_and_stays(kind: str, planner: str, discrete: bool, over: str) -> None:
    config = settings(discrete=discrete, planner=planner, over=over, execute=2)
    model, drive = controller(kind, config)
    low, high = np.array([24.0, -np.inf]), np.array([28.0, 30.0])
    drive.reset(place_read(low, high, scale=5.0))
    assert model.encoded == []  # there is no picture to encode
    points = np.array([[16.0, 20.0], [35.0, 36.0], [26.0, 10.0]])  # left of it, beyond a corner, and inside
    for _ in range(6):
        actions = drive.act(picture(points))
        points = points + (MOVES[actions] if discrete else actions).sum(1)
    outside = np.maximum(low - points, 0) + np.maximum(points - high, 0)
    assert outside.max() <= 0.5 / SCALE, points  # as far as a picture tells
    drive.reset(picture(np.full((B, 2), 12.0)))
    assert model.encoded[-1] == B  # and pictures are pursued again


@both
def test_history_and_past_actions_line_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "CPU_ROLLOUT_BATCH", B * 64)  # all candidates in one call
    config = settings(history=3, execute=2)
    model, drive = controller(kind, config)
    drive.reset(picture(np.full((B, 2), 30.0)))
    steps, executed = [np.full((B, 2), 20.0)], []
    frames = picture(steps[0])
    for call in range(3):
        model.rollouts.clear()
        actions = drive.act(frames)
        seen = min(1 + 2 * call, 3)
        tokens, given = model.rollouts[0]
        assert tokens.shape == (B * 64, seen, 1, 2)
        assert given.shape == (B * 64, seen - 1 + 4, 4)
        shown = np.stack(steps[-seen:], axis=1)  # (B, T, 2)
        np.testing.assert_allclose(tokens[::64, :, 0], np.round(shown * SCALE) / SCALE)
        if call:
            np.testing.assert_array_equal(given[::64, :2], np.stack(executed[-2:], axis=1))
        for model_action in np.split(actions, 2, axis=1):  # (B, f, A)
            executed.append(model_action.reshape(B, 4))
            steps.append(steps[-1] + model_action.sum(1))
        frames = picture(np.stack(steps[-2:], axis=1))


@both
def test_frames_older_than_the_history_are_not_encoded(kind: str) -> None:
    model, drive = controller(kind, settings(history=1, execute=3))
    drive.reset(picture(np.ones((B, 2))))
    drive.act(picture(np.ones((B, 2))))
    drive.act(picture(np.ones((B, 3, 2))))
    drive.act(picture(np.ones((B, 2))))  # the newest alone is enough
    assert model.encoded == [B] * 4


def test_imagined_follows_the_plan() -> None:
    _, drive = controller("pytorch", settings(hold=True))
    drive.reset(picture(np.full((B, 2), 12.0)))
    assert drive.last_plan is None
    start = np.full((B, 2), 10.0)
    actions = drive.act(picture(start))
    assert drive.last_plan is not None
    assert drive.last_plan.actions.shape == (B, 4, 4)
    assert drive.last_plan.searched.shape == (B, 4, 2)
    np.testing.assert_array_equal(actions, drive.last_plan.searched[:, :1].repeat(1, 2, 1))
    path = start[:, None] + 2 * drive.last_plan.searched.cumsum(1).numpy()
    imagined = drive.imagined()
    assert imagined.shape == (B, 4, 1, 2)
    np.testing.assert_allclose(imagined[:, :, 0], path, rtol=1e-5)


@both
def test_reset_forgets_the_episode(kind: str) -> None:
    model, drive = controller(kind, settings(history=2))
    goal, start = picture(np.full((B, 2), 12.0)), picture(np.full((B, 2), 10.0))
    drive.reset(goal)
    drive.act(start)
    drive.act(start)
    drive.reset(goal)
    with pytest.raises(ValueError, match="no frame was looked at in this episode"):
        _ = drive.reached
    model.rollouts.clear()
    drive.act(start)
    states, actions = model.rollouts[0]
    assert states.shape[1] == 1
    assert actions[0].eq(0).all()  # and the search begins in the centre


@both
@pytest.mark.parametrize("planner", ["cem", "mppi"])
@pytest.mark.parametrize("execute", [1, 2])
def test_a_search_goes_on_from_the_plan_before(kind: str, planner: str, execute: int) -> None:
    config = settings(planner=planner, execute=execute, over="sum", hold=False)
    model, drive = controller(kind, config, batch=1)
    drive.reset(picture(np.full((1, 2), 30.0)))
    done = torch.from_numpy(drive.act(picture(np.full((1, 2), 20.0)))).unflatten(1, (execute, -1)).flatten(2)
    tried = torch.cat([actions for _, actions in model.rollouts])  # (C, H, f*A)
    plan = next(actions for actions in tried if torch.equal(actions[:execute], done[0]))
    model.rollouts.clear()
    drive.act(picture(np.full((1, 2), 22.0)))
    first = model.rollouts[0][1][0]
    assert torch.equal(first, torch.cat((plan[execute:], torch.zeros(execute, 4))))


@pytest.mark.parametrize("planner", ["cem", "mppi"])
@pytest.mark.parametrize("discrete", [False, True])
def test_kept_environments_go_on_with_what_is_theirs(discrete: bool, planner: str) -> None:
    config = settings(history=3, discrete=discrete, planner=planner, over="sum")
    model, drive = controller("pytorch", config)
    starts, goals = np.array([[20.0, 20.0], [30.0, 30.0], [10.0, 40.0]]), np.array([[26.0, 20], [30, 24], [10, 46]])
    drive.reset(picture(goals))

    def move(points: np.ndarray) -> np.ndarray:
        actions = drive.act(picture(points))
        return points + (MOVES[actions] if discrete else actions).sum(1)

    after = move(starts)
    drive.keep(np.array([0, 2]))
    with pytest.raises(ValueError, match="of 2 environments"):
        drive.act(picture(after))
    kept = drive.last_plan
    assert kept is not None
    first_call = len(model.rollouts)
    points = move(after[[0, 2]])
    # what was seen and done is that of the same environments, and the first candidate is the rest of their plans
    tokens, actions = model.rollouts[first_call]
    count = config.plan.candidates
    np.testing.assert_allclose(tokens[::count, :, 0], np.stack([starts, after], axis=1)[[0, 2]], atol=0.5 / SCALE)
    np.testing.assert_array_equal(actions[::count, :4].flatten(1), kept.actions.flatten(1))
    drive.keep(np.array([1]))
    points = points[1:]
    for _ in range(3):
        points = move(points)
    assert np.linalg.norm(points - goals[2], axis=-1).max() < 1.5, points
    drive.reset(picture(goals[:1]))  # new episodes are of as many
    assert len(drive.act(picture(starts[:1]))) == 1


def test_keeping_needs_environments_that_there_are() -> None:
    _, drive = controller("pytorch", settings())
    for index in ([], [-1], [3], [1, 0], [1, 1]):
        with pytest.raises(ValueError, match=r"index=\[.*\]: must be increasing numbers of 3 environments"):
            drive.keep(np.array(index, dtype=np.int64))
    drive.reset(place_read([0.0, 0.0], [1.0, 1.0]))
    drive.keep(np.array([1]))  # before anything was planned, and with the goal of all
    assert len(drive.act(picture(np.ones((1, 2))))) == 1


def test_receding_horizon_resumes_after_what_was_executed() -> None:
    space = ActionSpace(kind="continuous", size=1, low=-torch.ones(1), high=torch.ones(1))
    receding = RecedingHorizon(PlanConfig(horizon=5, execute=2), space, batch=2, generator=seeded())
    first_mean: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        first_mean.append(actions[:, 0])
        return (actions - torch.linspace(-0.8, 0.8, 5)[:, None]).square().sum((-2, -1))

    plan = receding.plan(cost)
    assert receding.last_plan is plan
    first_mean.clear()
    receding.plan(cost)
    assert torch.equal(first_mean[0], torch.cat((plan.actions[:, 2:], torch.zeros(2, 2, 1)), dim=1))
    receding.reset()
    first_mean.clear()
    receding.plan(cost)
    assert first_mean[0].eq(0).all()


@both
def test_bad_use(kind: str) -> None:
    _, drive = controller(kind, settings(history=2, execute=3))
    start = picture(np.ones((B, 2)))
    with pytest.raises(ValueError, match=r"goal=None: there is no goal; call (reset|set_goal)\(goal\) first"):
        drive.act(start)
    with pytest.raises(ValueError, match=r"^goal: got float32 of 0 to 3\.6, and pictures are 0 to 1 or 0 to 255"):
        drive.reset(np.float32(0.9) * start)
    with pytest.raises(ValueError, match="of 3 environments"):
        drive.reset(start[:2])
    drive.reset(start)
    with pytest.raises(ValueError, match="frames: got 2 a call, must be 1;"):
        drive.act(picture(np.ones((B, 2, 2))))
    drive.act(start)
    for count in (1, 4):
        with pytest.raises(ValueError, match=f"frames: got {count} a call, must be 2 to 3;"):
            drive.act(picture(np.ones((B, count, 2))))
    with pytest.raises(ValueError, match=r"^frames: got uint8\(1, 16, 16, 3\), must be pictures of 3 environments"):
        drive.act(start[0])


def test_no_more_is_carried_out_than_is_planned() -> None:
    with pytest.raises(ValueError, match=r"plan.execute=9: must be 1 to plan.horizon=4"):
        RecedingHorizon(
            PlanConfig(horizon=4, execute=9), action_space(settings(), device="cpu"), batch=B, generator=seeded()
        )


@pytest.mark.parametrize("planner", ["cem", "mppi"])
def test_arrival_is_not_put_off_when_only_the_last_step_counts(planner: str) -> None:
    config = settings(planner=planner, iterations=3, horizon=5, frame_skip=5, hold=True)
    space = action_space(config, device="cpu")
    angle = torch.linspace(0, 6, 40)
    position, goal = torch.zeros(40, 2), 15 * torch.stack((angle.cos(), angle.sin()), dim=-1)
    receding = RecedingHorizon(config.plan, space, batch=40, generator=seeded())

    def cost(actions: Tensor) -> Tensor:
        end = position[:, None] + space.to_env(space.expand(actions)).sum((2, 3))
        return (end - goal[:, None]).norm(dim=-1)

    nearest = torch.full((40,), torch.inf)
    for _ in range(10):
        moves = space.to_env(receding.plan(cost).actions[:, 0])
        position = position + moves.sum(1)
        nearest = torch.minimum(nearest, (position - goal).norm(dim=-1))
    assert (nearest < 2).float().mean() > 0.9


def told_where_to_be(
    kind: str, model: Servo | None = None, *, offset: float = 0.0, looks: int = 12, goal: float = 2.0, **plan: object
) -> tuple[np.ndarray, bool]:
    """Drive servos from 0 to 2; return the commands of every look, (looks, f, 2), and whether it is reached."""
    config = settings(frame_skip=2, over="sum", cost="tokens", reached_below=0.02, **plan)  # type: ignore[arg-type]
    action = ActionConfig(
        kind="continuous", size=2, control_mode="position", low=(-4.0, -4.0), high=(4.0, 4.0), max_change=(0.25, 0.25)
    )
    config = dataclasses.replace(config, action=action)
    _, drive = controller(kind, config, model=model or Servo(), batch=1)
    drive.reset(picture(np.full((1, 2), 2.0)), command=[0.0, 0.0])
    place, commands = np.zeros((1, 2)), []
    for _ in range(looks):
        commands.append(drive.act(picture(place))[0])
        place = commands[-1][-1:] + offset
    return np.array(commands), bool(drive.reached[0])


@both
def test_commands_lead_on_from_the_present_one_and_hold_the_goal(kind: str) -> None:
    commands, reached = told_where_to_be(kind)
    rows = np.concatenate([np.zeros((1, 2)), commands.reshape(-1, 2)])
    assert np.abs(np.diff(rows, axis=0)).max() <= 0.25 + 1e-6
    np.testing.assert_allclose(rows[14:], 2.0, atol=0.1)
    assert np.abs(np.diff(rows[-8:], axis=0)).max() < 0.05
    assert reached


@both
def test_what_the_model_does_not_know_of_is_corrected(kind: str) -> None:
    """With pictures of a quarter of a unit a level, an offset of half a unit shows as two levels."""
    corrected, reached = told_where_to_be(kind, offset=0.5, looks=20)
    np.testing.assert_allclose(corrected[-1, -1] + 0.5, 2.0, atol=0.13)
    assert reached
    believed, reached = told_where_to_be(kind, offset=0.5, looks=20, correction=0.0)
    np.testing.assert_allclose(believed[-1, -1], 2.0, atol=0.1)
    assert not reached


@both
def test_an_error_of_every_step_does_not_add_up_along_the_horizon(kind: str) -> None:
    """The model sees points drift on from where they are by 0.25 a step. They stay, and the goal is held."""

    class Drifting(Servo):
        def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
            told = super().rollout(states, past_actions, actions)
            return told + 0.25 * torch.arange(1, told.shape[1] + 1)[:, None, None]

    for execute in (1, 2):
        commands, reached = told_where_to_be(kind, Drifting(), looks=20, execute=execute)
        np.testing.assert_allclose(commands[-1, -1], 2.0, atol=0.13)
        assert reached


@both
def test_positions_need_the_present_command(kind: str) -> None:
    config = settings(cost="tokens")
    action = ActionConfig(kind="continuous", size=2, control_mode="position", max_change=(0.5, 0.5))
    config = dataclasses.replace(config, action=action)
    _, drive = controller(kind, config, model=Servo(), batch=1)
    goal = picture(np.ones((1, 2)))
    for command, told in (
        (None, "command=None: these actions are positions"),
        ([90.0, 45.0], r"command=\[\[90\.0, 45\.0\]\]: is far beyond .* in the recording's own unit"),
        ("a", "command=.?a.?: must be numbers"),
        ([1.0], r"command=\[\[1\.0\]\]: must be finite numbers of shape \(1, 2\)"),
        ([np.nan, 0.0], r"command=\[\[nan, 0\.0\]\]: must be finite numbers of shape \(1, 2\)"),
    ):
        with pytest.raises(ValueError, match=told):
            drive.reset(goal, command=command)
    drive.reset(goal, command=[1.2, 0.0])  # a joint may be a little beyond
    _, plain = controller(kind, settings(discrete=True))
    with pytest.raises(ValueError, match=r"command: (these actions are no positions|discrete actions have none)"):
        plain.reset(picture(np.ones((B, 2))), command=np.zeros((B, 2)))


def test_what_pytorchs_controller_is_made_of() -> None:
    config = settings(cost="tokens")
    space = action_space(config, device="cpu")
    with pytest.raises(ValueError, match="model=object: is no world model"):
        LatentController(object(), config, space, batch=1, generator=seeded())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch=0: must be at least 1"):
        LatentController(Servo(), config, space, batch=0, generator=seeded())
    _, plain = controller("pytorch", config)
    with pytest.raises(ValueError, match="command: these actions are no positions"):
        plain.reset(picture(np.ones((B, 2))), command=np.zeros((B, 2)))


def test_a_learnt_cost_must_be_given_for_pictures() -> None:
    config = settings()
    space = action_space(config, device="cpu")
    told = r"^plan\.cost=steps_to_go: this cost was not learnt; .* give the run's cost=run\.cost, or use plan\.cost"
    drive, start = LatentController(Toy(), config, space, batch=B, generator=seeded()), picture(np.ones((B, 2)))
    with pytest.raises(ValueError, match=told) as error:
        drive.reset(start)
    assert len(str(error.value)) <= 300
    drive.reset(place_read([0.0, 0.0], [2.0, 2.0]))  # a region is its own cost
    drive.act(start)
    assert drive.reached.all()
    LatentController(Toy(), settings(cost="tokens"), space, batch=B, generator=seeded()).reset(start)


def test_bounds_of_one_look() -> None:
    _, drive = controller("pytorch", settings())
    drive.reset(picture(np.full((B, 2), 3.0)))
    actions = drive.act(picture(np.zeros((B, 2))), low=[-0.1, -0.1], high=[0.1, 0.2])
    largest = actions.max((0, 1))
    assert (largest > np.array([0.08, 0.17])).all()
    assert (largest <= np.array([0.1, 0.2]) + 1e-6).all()
    assert drive.act(picture(actions.sum(1))).max() > 0.5  # of that look alone


@both
def test_reached_needs_a_look_and_a_cost(kind: str) -> None:
    _, drive = controller(kind, settings(cost="tokens"))
    drive.reset(picture(np.full((B, 2), 3.0)))
    with pytest.raises(ValueError, match="no frame was looked at"):
        _ = drive.reached
    drive.act(picture(np.zeros((B, 2))))
    with pytest.raises(ValueError, match="reached_below=None: training had too few held-out frames"):
        _ = drive.reached
    _, drive = controller(kind, settings(cost="tokens", reached_below=0.5))
    drive.reset(picture(np.array([[0.0, 0.0], [1.5, 0.0], [0.5, 0.5]])))
    drive.act(picture(np.zeros((B, 2))))
    assert drive.reached.tolist() == [True, False, True]
    if kind == "pytorch":
        drive.keep(np.array([1, 2]))
        assert drive.reached.tolist() == [False, True]


@both
def test_a_region_is_reached_where_it_is_read_to_be(kind: str) -> None:
    _, drive = controller(kind, settings())
    drive.reset(place_read([0.5, 0.5], [2.0, 2.0]))
    drive.act(picture(np.array([[1.0, 1.0], [0.0, 1.0], [2.0, 0.5]])))
    assert drive.reached.tolist() == [True, False, True]

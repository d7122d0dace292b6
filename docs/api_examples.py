"""An example for every public object, shown on its page; `lewm` is imported in all of them.

They are given in a folder with a LeRobot data set `recordings/so100`, a store `data/two-room` and a run
`runs/two-room` that was trained on it. A test runs them all in small.
"""

EXAMPLES = {
    "TASKS": 'print(", ".join(lewm.TASKS))  # the names that `lewm collect` takes',
    "Task": """
task = lewm.make_task("two-room", 64)
frame, _ = task.reset(seed=0)
frame, reward, terminated, truncated, info = task.step(task.action_space.sample())
print(frame.shape)  # (64, 64, 3) uint8
""",
    "make_task": """
task = lewm.make_task("two-room", 64)  # frames of 64 x 64 pixels
print(task.state_names)
""",
    "collect": """
store = lewm.collect("two-room", "data/more", episodes=4, image_size=32, workers=1, progress=False)
print(store.num_episodes)
""",
    "record": """
import gymnasium

env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
store = lewm.record(env, "data/cart-pole", episodes=2)  # of random actions
print(store.num_episodes)
""",
    "Recorder": """
import gymnasium

with lewm.Recorder(gymnasium.make("CartPole-v1", render_mode="rgb_array"), "data/by-hand") as env:
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())  # here acts whoever you like
""",
    "import_recording": """
options = lewm.ImportOptions(cameras=("top",), image_size=64)
imported = lewm.import_recording("recordings/so100", "data/so100", options=options, workers=1, progress=False)
print(imported.skipped)  # episodes that could not be read, and why
""",
    "ImportOptions": """
options = lewm.ImportOptions(cameras=("top", "wrist"), image_size=128, fit="pad", frame_skip=2)
print(options.tiles)  # where each camera lies in the square frame
""",
    "FrameFit": 'fit = lewm.FrameFit(image_size=64, fit="pad")  # the whole frame, with bars beside it',
    "FrameFitter": """
import numpy as np

fitter = lewm.FrameFitter(lewm.FrameFit(image_size=64))
print(fitter(np.zeros((480, 640, 3), np.uint8)).shape)  # (64, 64, 3)
""",
    "CameraFitter": """
import numpy as np

fitter = lewm.CameraFitter(lewm.FrameFit(image_size=64))  # of a run: lewm.CameraFitter.of(run.spec)
print(fitter(np.zeros((480, 640, 3), np.uint8)).shape)  # one picture a camera; (64, 64, 3)
""",
    "Store": """
store = lewm.Store("data/two-room")
rows = store.episode(0)
print(store.frames[rows].shape, store.actions[rows].shape)  # (L, height, width, 3) uint8, (L, A) float32
""",
    "StoreMeta": """
meta = lewm.StoreMeta(task="mine", image_size=64, action_kind="continuous", action_size=2, fps=10.0)
""",
    "StoreWriter": """
import numpy as np

meta = lewm.StoreMeta(task="mine", image_size=64, action_kind="continuous", action_size=2)
with lewm.StoreWriter("data/mine", meta) as writer:  # an episode of 30 frames, without states
    writer.append(np.zeros((30, 64, 64, 3), np.uint8), np.zeros((30, 2), np.float32), None, seed=0)
""",
    "ClipSampler": """
store = lewm.Store("data/two-room")
sampler = lewm.ClipSampler(store, range(store.num_episodes), clip_frames=2, frame_skip=3, batch_size=8)
clips = sampler.batch(0)
print(clips.frames.shape, clips.actions.shape)  # (8, 2, height, width, 3), (8, 1, 6)
""",
    "check_store": """
result = lewm.check_store(lewm.Store("data/two-room"))
for finding in result.findings:
    print(finding.severity, finding.message)
""",
    "measure_lag": """
from lewm.data.thumbnails import thumbnails

store = lewm.Store("data/two-room")
rows = [store.episode(number) for number in range(store.num_episodes)]
curve = lewm.measure_lag([thumbnails(store.frames[part]) for part in rows], [store.actions[part] for part in rows])
print(curve)  # None where the store is too small to tell
""",
    "preset": 'config = lewm.preset("tiny", {"train.steps": 500, "model.slowness": 0.5})',
    "Config": """
config = lewm.preset("tiny")
print(config.model.family, config.model.image_size, config.train.learning_rate)
""",
    "train_run": 'lewm.train_run(lewm.preset("tiny"), "data/two-room", "runs/new")',
    "resume_run": 'lewm.resume_run("runs/two-room")  # from its last checkpoint',
    "load_run": """
run = lewm.load_run("runs/two-room")
print(run.model.num_parameters, run.spec.task)
""",
    "LoadedRun": """
run = lewm.load_run("runs/two-room")
model, config, spec = run.model, run.config, run.spec
""",
    "load_spec": """
spec = lewm.load_spec("runs/two-room")
print(spec.action_size, spec.low, spec.high)
""",
    "RunSpec": 'print(lewm.load_spec("runs/two-room").in_words())',
    "load_pretrained": 'run = lewm.load_pretrained("two-room")',
    "WorldModel": """
import torch

run, task = lewm.load_pretrained("two-room", "cpu"), lewm.make_task("two-room", 64)
frame, _ = task.reset(seed=0)
states = run.model.encode(frame[None])[:, None]  # (B=1, T=1, N, D)
actions = torch.zeros(1, 4, run.config.model_action_size)  # (B, H=4, f*A)
print(run.model.rollout(states, actions[:, :0], actions).shape)  # (1, 4, N, D)
""",
    "action_space": """
run = lewm.load_pretrained("two-room", "cpu")
space = lewm.action_space(run.config, run.spec.low, run.spec.high, device="cpu")
print(space.size)  # numbers that are searched for each model step
""",
    "LatentController": """
import torch

run, task = lewm.load_pretrained("two-room", "cpu"), lewm.make_task("two-room", 64)
space = lewm.action_space(run.config, run.spec.low, run.spec.high, device="cpu")
controller = lewm.LatentController(
    run.model, run.config, space, cost=run.cost, batch=1, generator=torch.Generator().manual_seed(0)
)
frame, _ = task.reset(seed=0)
goal, _ = task.reset(seed=1)
controller.reset(goal[None])
print(controller.act(frame[None]).shape)  # (1, environment steps, A)
""",
    "distill_run": 'print(lewm.distill_run("runs/two-room", steps=200)["error"])',
    "evaluate_run": 'print(lewm.evaluate_run("runs/two-room")["verdict"])',
    "evaluate_env": """
import numpy as np


def success(env, goal):  # the environment as it was made, and an EnvGoal
    return np.linalg.norm(env.unwrapped.state - goal.state) < 0.07


results = lewm.evaluate_env("runs/two-room", lambda: lewm.make_task("two-room"), success=success, episodes=10)
print(results["verdict"])
""",
    "plan_run": 'print(lewm.plan_run("runs/two-room", video="plan.mp4")["success_rate"])',
    "plan_once": 'print(lewm.plan_once("runs/two-room", goal="state:0.7,0.5")["actions"])',
    "write_report": 'print(lewm.write_report("runs/two-room"))',
}
"""Code by the public name that it shows."""

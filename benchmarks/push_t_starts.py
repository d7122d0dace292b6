"""List the starts and goals of Push-T that come with the package: moments of held-out human demonstrations.

    python benchmarks/push_t_starts.py --demos pusht_cchi_v7_replay.zarr

The demonstrations that a store of `lewm collect push-t --behaviour demos` holds out by default, as far as it has all of
them, are replayed without noise from their beginning. From these replays starts are drawn as an evaluation draws
them, for each protocol: `episode` is the demonstration, `row` and `goal_row` are steps of it. The last line is JSON.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from lewm.config import DataConfig, EvalProtocol
from lewm.data.store import Store, StoreWriter, split_episodes
from lewm.envs import PushT
from lewm.envs.collector import task_meta
from lewm.envs.push_t_demos import Demonstration, Replay, read_demonstrations
from lewm.evaluate.pretrained import LISTED_OFFSET
from lewm.evaluate.starts import Starts, digest, make_starts, starts_text
from lewm.files import write_text
from lewm.pretrained import FOLDER

COUNT = 200
IMAGE = 16  # the frames of this store are not looked at


def replay_store(folder: Path, demonstrations: list[Demonstration], chosen: NDArray[np.int64]) -> Store:
    """Write exact replays of demonstrations, as an episode each whose group is the demonstration's number."""
    task = PushT(IMAGE)
    with StoreWriter(folder, task_meta(PushT, image_size=IMAGE, source="exact replays")) as writer:
        for number in chosen.tolist():
            demonstration = demonstrations[number]
            replay = Replay(demonstration, 0, 0.0, np.random.default_rng(0))
            task.set_state(replay.start)
            states, actions = [], []
            for _ in demonstration.targets:
                states.append(task.state)
                actions.append(replay.act(task))
                task.advance(actions[-1])
            frames = np.zeros((len(states), IMAGE, IMAGE, 3), np.uint8)
            writer.append(frames, np.stack(actions), np.stack(states), group=number)
    return Store(folder)


def of_demonstrations(starts: Starts, store: Store) -> Starts:
    """Return starts whose episodes are demonstrations, and whose rows are counted from their beginning."""
    episode = starts.episodes(store)
    begin = store.episodes.start[episode]
    assert starts.goal_index is not None
    return dataclasses.replace(
        starts,
        episode=store.episodes.group[episode],
        index=starts.index - begin,
        goal_index=starts.goal_index - begin,
    )


def main() -> None:
    """Replay, draw and write a list for each protocol."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demos", type=Path, required=True, help="the public pusht_cchi_v7_replay.zarr")
    parser.add_argument("--out", type=Path, default=FOLDER / PushT.name, help="folder of the lists")
    arguments = parser.parse_args()
    try:
        demonstrations = read_demonstrations(arguments.demos)
    except ValueError as error:
        parser.error(str(error))
    split = DataConfig()
    _, held_out = split_episodes(len(demonstrations), held_out=split.held_out, seed=split.split_seed)
    lists = {}
    with tempfile.TemporaryDirectory() as folder:
        store = replay_store(Path(folder) / "store", demonstrations, held_out)
        for protocol in get_args(EvalProtocol):
            starts = make_starts(
                store,
                np.arange(store.num_episodes),
                count=COUNT,
                goal_offset=LISTED_OFFSET,
                seed=0,
                protocol=protocol,
                rule=PushT(IMAGE).rule(protocol),
            )
            text = starts_text(of_demonstrations(starts, store), store, protocol=protocol, seed=0)
            write_text(arguments.out / f"starts-{protocol}.json", text)
            drawn = {"starts": len(starts.index), "of": starts.candidates, "presolved": starts.presolved}
            lists[protocol] = drawn | {"sha256": digest(text)}
    print(json.dumps({"benchmark": "push_t_starts", "demonstrations": held_out.tolist(), **lists}))


if __name__ == "__main__":
    main()

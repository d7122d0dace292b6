"""What is not imported is named, with the nearest way, in one line."""

from pathlib import Path

import pytest

from lewm.data.importing import detect_format

CASES = {
    "a.bag": "is a recording of ROS 1; export",
    "ros/a_0.db3": "holds a_0.db3, which is a recording of ROS 2; export",
    "a.mcap": "is a recording of ROS 2 or Foxglove; export",
    "a.pkl": "is a pickle, which can run code when it is read, so is not read; write its frames",
    "calvin/episode_0000.npz": "holds episode_0000.npz, which holds arrays of NumPy; write its frames",
    "rlds/1.0.0/set-train.tfrecord-00000-of-00002": "is a TFRecord set such as RLDS; import the set's LeRobot version",
    "a.tar.gz": "is a compressed archive; unpack",
    "a.zip": "is an archive; unpack",
    "droid/2023/success/trajectory.h5": "holds DROID's raw form (2023/success/trajectory.h5), with pictures in",
    "sets/one/meta/info.json": "has a LeRobot set in one; give that folder",
    "sets/one/meta/other/info.json": "looks like none of",
    "tree/deep/run.mp4": "has videos in deep; give that folder",
    "tree/push/a.zarr/.zgroup": "has a zarr store in push/a.zarr; give that folder",
    "pictures/1.png": "has pictures without class folders and without a table; make a folder",
    "pictures/a/b/1.png": "has pictures as deep as a/b/1.png; give a folder of class folders",
    "tables/a.csv": "has tables and no videos or pictures; put those beside",
    "tables/._a.bag": "looks like none of",
    "a.txt": "looks like none of",
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "here" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    path = file if "/" not in name else tmp_path / "here" / Path(name).parts[0]
    with pytest.raises(ValueError) as error:  # noqa: PT011 the message is what is checked
        detect_format(path)
    text = str(error.value)
    assert text.startswith(f"{path}: {CASES[name]}")
    assert "\n" not in text
    assert ";" in text
    assert len(text) - len(str(path)) < 220


def test_large_folders_are_glanced_at(tmp_path: Path) -> None:
    for k in range(2500):
        (tmp_path / f"{k}.txt").touch()
    (tmp_path / "z.bag").touch()
    with pytest.raises(ValueError, match="looks like none of"):
        detect_format(tmp_path)

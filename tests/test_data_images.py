"""Images into a store: every image comes once, with its class; sizes, modes and orientations; and files to distrust."""

import os
from pathlib import Path

import numpy as np
import pytest

from image_fixture import (
    BROKEN,
    OPTIONS,
    SIZE,
    gather,
    import_images,
    labels,
    make_folder,
    make_shard,
    numbered,
    numbers,
    samples,
)
from lewm.data import Store
from lewm.data.importers import images
from lewm.data.importers.images import ImageFolderSource
from lewm.data.importing import ImportOptions, open_source


def test_folder_becomes_a_store(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"dog": 13, "Cat": 9, "eel": 3}, kinds=("png", "bmp", "webp"))
    store = gather(root, tmp_path / "store")
    meta = store.meta
    assert (meta.task, meta.action_kind, meta.action_size, meta.state_names) == ("pets", "none", 0, ("label",))
    assert meta.origin["classes"] == ["Cat", "dog", "eel"]
    assert (meta.origin["format"], meta.origin["images"]) == ("images", 25)
    assert store.actions.shape == (25, 0)
    assert store.num_episodes == 9  # of 3 images: a tenth of 25, rounded up
    assert store.episodes.length.tolist() == [3] * 8 + [1]
    found = numbers(store)
    assert sorted(found) == list(range(25))
    assert found != sorted(found)
    of_class = [1] * 13 + [0] * 9 + [2] * 3  # by number, in the order in which they were written
    assert labels(store) == [of_class[number] for number in found]
    assert any(len(set(labels(store)[k : k + 3])) > 1 for k in range(0, 25, 3))  # groups mix classes


def test_order_depends_on_the_names_alone(tmp_path: Path) -> None:
    one = gather(make_folder(tmp_path / "one" / "pets", {"cat": 8, "dog": 8}), tmp_path / "a")
    other = tmp_path / "other" / "pets"
    for name in ("dog", "cat"):  # made in another order
        (other / name).mkdir(parents=True)
    for file in sorted((tmp_path / "one" / "pets").rglob("*.png"), reverse=True):
        (other / file.parent.name / file.name).write_bytes(file.read_bytes())
    two = gather(other, tmp_path / "b")
    np.testing.assert_array_equal(one.frames, two.frames)
    assert labels(one) == labels(two)


@pytest.mark.parametrize(
    ("count", "groups"), [(1, [1]), (2, [1, 1]), (10, [1] * 10), (11, [2] * 5 + [1]), (234, [24] * 9 + [18])]
)
def test_groups(tmp_path: Path, count: int, groups: list[int]) -> None:
    (tmp_path / "root" / "all").mkdir(parents=True)
    for number in range(count):
        (tmp_path / "root" / "all" / f"{number}.jpg").touch()
    source = ImageFolderSource(tmp_path / "root", OPTIONS)
    assert [source.length(index) for index in range(source.num_episodes)] == groups


def test_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST_GROUP", 4)
    source = ImageFolderSource(make_folder(tmp_path / "root", {"a": 50}), OPTIONS)
    assert [source.length(index) for index in range(source.num_episodes)] == [4] * 12 + [2]


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_store(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root", {"a": 5, "b": 6})
    one = gather(root, tmp_path / "one")
    two = gather(root, tmp_path / "two", workers=2)
    np.testing.assert_array_equal(one.frames, two.frames)
    assert one.meta == two.meta


def test_images_of_any_size_are_fitted(tmp_path: Path) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    for number, size in enumerate([(40, 20), (20, 40), (5, 9), (SIZE, SIZE)] * 3):
        numbered(number, size).save(tmp_path / "root" / "a" / f"{number}.png")
    done = import_images(tmp_path / "root", tmp_path / "store")
    assert sorted(numbers(done.store)) == list(range(12))
    assert done.fitted == f"images of any size, scaled to {SIZE}x{SIZE} (crop)"


@pytest.mark.slow
def test_a_broken_image_is_left_out_alone_and_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root", {"a": 20, "b": 1})
    for number, data in ((7, BROKEN["cut PNG"]), (12, b"")):
        (root / "a" / f"{number:05d}.png").write_bytes(data)
    done = import_images(root, tmp_path / "store")
    assert done.skipped == ()
    assert sorted(done.left_out)[0].startswith(f"{root / 'a' / '00007.png'}: is no usable image (")
    assert len(done.left_out) == 2
    found = numbers(done.store)
    assert sorted(found) == [number for number in range(21) if number not in (7, 12)]
    assert labels(done.store) == [int(number == 20) for number in found]
    two = import_images(root, tmp_path / "two", workers=2)
    assert two.left_out == done.left_out


def test_a_group_without_one_good_image_is_skipped(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root", {"a": 4})  # groups of one
    (root / "a" / "00002.png").write_bytes(b"")
    done = import_images(root, tmp_path / "store")
    ((_, reason),) = done.skipped
    assert "00002.png: is no usable image" in reason
    assert sorted(numbers(done.store)) == [0, 1, 3]


def test_only_broken_images_are_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root", {"a": 30})
    for file in (root / "a").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^[^\n]*root: none of its 10 episodes can be [^\n]*is no usable"):
        import_images(root, tmp_path / "store")


def make_splits(root: Path, splits: dict[str, dict[str, int]]) -> list[tuple[str, str, int]]:
    """Write numbered images and return the split, the class and the number of each."""
    rows = []
    for split, classes in splits.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for _ in range(count):
                numbered(len(rows)).save(root / split / name / f"{len(rows)}.png")
                rows.append((split, name, len(rows)))
    return rows


@pytest.mark.parametrize(
    "names",
    [("train", "val"), ("training", "validation", "test"), ("Train", "Test"), ("train",), ("test2017", "val_set")],
)
def test_splits_are_imported_and_named(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = tmp_path / "set"
    rows = make_splits(root, {name: {"cat": 6, "dog": 5 - k} for k, name in enumerate(names)})
    (root / "readme").mkdir()
    (root / "labels.csv").write_text("file,label")
    store = gather(root, tmp_path / "store")
    assert store.meta.origin["format"] == "images"
    assert store.meta.origin["classes"] == ["cat", "dog"]
    assert all(name in store.meta.source for name in names)
    assert store.meta.origin["splits"] == {name: 11 - k for k, name in enumerate(names)}
    found = numbers(store)
    assert sorted(found) == list(range(len(rows)))
    assert labels(store) == [["cat", "dog"].index(rows[number][1]) for number in found]
    for episode in range(store.num_episodes):
        split, _, rest = store.episodes.source[episode].partition(": ")
        assert rest.startswith("images ")
        assert {rows[number][0] for number in found[store.episode(episode)]} == {split}
    assert store.episodes.source[0].startswith(f"{names[0] if names[0] != 'test2017' else 'val_set'}: images 0 to ")


def test_images_in_the_folders_of_splits_have_no_class(tmp_path: Path) -> None:
    store = gather(make_folder(tmp_path / "set", {"train": 6, "val": 3}), tmp_path / "store")
    assert (store.states, store.meta.origin["classes"]) == (None, [])
    assert store.meta.origin["splits"] == {"train": 6, "val": 3}
    assert sorted(numbers(store)) == list(range(9))


def test_class_folders_beside_splits_are_refused(tmp_path: Path) -> None:
    make_splits(tmp_path / "set", {"train": {"cat": 2}})
    make_folder(tmp_path / "set", {"dog": 2})
    with pytest.raises(ValueError, match=r"set: has images in class folders \(dog/.*splits \(train/cat/.*; give the"):
        ImageFolderSource(tmp_path / "set", OPTIONS)


def test_only_images_of_class_folders_count(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root", {"a": 2, ".hidden": 1})
    for name in ("root.png", "a/notes.txt", "a/._00000.png", "a/.b.jpg"):
        (root / name).write_bytes(b"x")
    (root / "a" / "deep.png").mkdir()
    (root / "empty").mkdir()
    os.mkfifo(root / "a" / "pipe.png")  # reading it would wait for ever
    assert numbers(gather(root, tmp_path / "store")) in ([0, 1], [1, 0])
    assert Store(tmp_path / "store").meta.origin["classes"] == ["a"]


def test_folders_above_and_below_are_told(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set" / "any", {"a": 2, "b": 2})
    assert ImageFolderSource.matches(root)
    assert not ImageFolderSource.matches(tmp_path / "set")
    assert gather(root, tmp_path / "store").num_frames == 4
    with pytest.raises(ValueError, match=r"set: has no images in class folders .*; give the folder that holds the"):
        ImageFolderSource(tmp_path / "set", OPTIONS)


@pytest.mark.parametrize("what", ["class", "image"])
def test_links_that_lead_out_are_refused(tmp_path: Path, what: str) -> None:
    root = make_folder(tmp_path / "root", {"a": 2})
    outside = make_folder(tmp_path / "outside", {"secret": 1})
    if what == "class":
        (root / "b").symlink_to(outside / "secret")
    else:
        (root / "a" / "x.png").symlink_to(outside / "secret" / "00000.png")
    with pytest.raises(ValueError, match=r"^[^\n]*: is a link that leads out of [^\n]*; put the file itself there$"):
        ImageFolderSource(root, OPTIONS)


def test_links_inside_are_followed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root", {"a": 2})
    (root / "b").mkdir()
    (root / "b" / "x.png").symlink_to(root / "a" / "00001.png")
    store = gather(root, tmp_path / "store")
    assert sorted(zip(numbers(store), labels(store), strict=True)) == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize("kind", ["images", "webdataset"])
def test_cameras_are_refused(tmp_path: Path, kind: str) -> None:
    root = make_folder(tmp_path / "root", {"a": 2})
    make_shard(root / "x.tar", samples(0, 2))
    with pytest.raises(ValueError, match=r"^cameras=top: images have no cameras; leave it out$"):
        open_source(root, ImportOptions(cameras=("top",)), kind)  # pyright: ignore[reportArgumentType]
    for name in ("action", "state"):
        with pytest.raises(ValueError, match=rf"^{name}=x, y: images have no {name}; leave it out$"):
            open_source(root, ImportOptions(**{name: ("x", "y")}), kind)  # pyright: ignore[reportArgumentType]


def test_nothing_to_import(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: has no images in class folders \(empty/<class>/\*"):
        open_source(tmp_path / "empty", OPTIONS, "images")
    with pytest.raises(ValueError, match=r"empty: has no \*\.tar shard; give"):
        open_source(tmp_path / "empty", OPTIONS, "webdataset")

"""Shards into a store: every image comes once, with its class, and what is damaged costs itself alone."""

import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from image_fixture import (
    BROKEN,
    OPTIONS,
    encoded,
    gather,
    import_images,
    labels,
    make_shard,
    numbered,
    numbers,
    samples,
)
from lewm.data.importers.images import ImageFolderSource
from lewm.data.importers.webdataset import WebDatasetSource, read_index


@pytest.mark.parametrize(("shards", "episodes"), [(1, 10), (3, 12), (10, 10), (12, 12)])
def test_shards_become_a_store(tmp_path: Path, shards: int, episodes: int) -> None:
    for k in range(shards):
        make_shard(tmp_path / "set" / f"part-{k:02d}.tar", samples(20 * k, 20))
    store = gather(tmp_path / "set", tmp_path / "store")
    assert WebDatasetSource.matches(tmp_path / "set")
    assert not ImageFolderSource.matches(tmp_path / "set")
    assert (store.meta.task, store.meta.action_kind, store.meta.state_names) == ("set", "none", ("label",))
    assert store.meta.origin["shards"] == shards
    assert numbers(store) == list(range(20 * shards))  # in the order of the shards, which are shuffled by their maker
    assert labels(store) == [number % 7 for number in range(20 * shards)]
    assert store.num_episodes == episodes
    source = WebDatasetSource(tmp_path / "set", OPTIONS)
    assert [source.length(k) for k in range(source.num_episodes)] == store.episodes.length.tolist()


def test_one_shard_without_classes(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "set.tar", samples(0, 3, labelled=False))
    assert WebDatasetSource.matches(shard)
    assert not ImageFolderSource.matches(shard)
    store = gather(shard, tmp_path / "store")
    assert store.states is None
    assert (store.meta.task, store.num_episodes, numbers(store)) == ("set", 3, [0, 1, 2])


def test_members_are_grouped_up_to_the_first_dot(tmp_path: Path) -> None:
    image = encoded(numbered(5))
    members = [
        ("./x.y/1.png", image), ("./x.y/1.cls", b"4"), ("./x.y/1.other.png", image),
        ("z/1.JPEG", image), ("z/1.cls", b" 6 "), ("readme.txt", b"hello"),
    ]  # fmt: skip
    found = read_index(make_shard(tmp_path / "a.tar", members))
    assert found.problems == ()
    assert [(sample.name, sample.label) for sample in found.samples] == [("./x.y/1.png", 4), ("z/1.JPEG", 6)]


def special(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("1.png")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(special(kind))
    with pytest.raises(ValueError, match=r"a\.tar: is no usable shard \(member '1.png' is a link, a device or"):
        WebDatasetSource(tmp_path / "a.tar", OPTIONS)


def test_large_members_are_refused_unread(tmp_path: Path) -> None:
    member = tarfile.TarInfo("1.png")
    member.size = 2**40
    (tmp_path / "a.tar").write_bytes(member.tobuf() + b"\0" * 1024)
    with pytest.raises(ValueError, match=r"member '1.png' has 1099511627776 bytes, more than 67108864"):
        WebDatasetSource(tmp_path / "a.tar", OPTIONS)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


IMAGE = encoded(numbered(1)).ljust(512, b"\0")
SHARDS = {
    "text": b"hello",
    "empty": b"",
    "no image": header("1.json", 3) + b"{}\n".ljust(512, b"\0") + b"\0" * 1024,
    "compressed": zlib.compress(b"x" * 2000),
    "cut": header("1.png", 400) + IMAGE[:300],
    "garbage after a member": header("1.png", 400) + IMAGE + b"\1" * 2000,
    "negative size": header("1.png", 400) + IMAGE + header("2.png", -1024) + b"\0" * 1024,
    "bad class": header("1.png", 400) + IMAGE + header("1.cls", 3) + b"cat".ljust(512, b"\0") + b"\0" * 1024,
    "long class": header("1.cls", 600) + b"1".ljust(1024, b" ") + header("1.png", 400) + IMAGE + b"\0" * 1024,
    "two images": header("1.png", 400) + IMAGE + header("1.jpg", 400) + IMAGE + b"\0" * 1024,
    "long names without end": header("x", 1, tarfile.GNUTYPE_LONGNAME) + (b"x".ljust(512, b"\0") +
                              header("x", 1, tarfile.GNUTYPE_LONGNAME)) * 3000,
    "bad pax": header("x", 20, tarfile.XHDTYPE) + b"20 size=-99999999\n".ljust(512, b"\0") + header("1.png", 400) +
               IMAGE,
}  # fmt: skip


@pytest.mark.parametrize("name", SHARDS)
def test_broken_shards_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.tar").write_bytes(SHARDS[name])
    if name in ("garbage after a member", "negative size"):
        done = import_images(tmp_path / "a.tar", tmp_path / "store")
        assert numbers(done.store) == [1]
        (text,) = done.left_out
        assert "a.tar: is damaged or cut off (" in text
    else:
        refused = r"a\.tar: (.*is no usable (shard|image) \(|has no images |.*is left out \()"
        with pytest.raises(ValueError, match=refused) as error:
            import_images(tmp_path / "a.tar", tmp_path / "store")
        text = str(error.value)
    assert "\n" not in text
    assert ";" in text


def test_damage_anywhere_is_an_index_or_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = np.frombuffer(make_shard(tmp_path / "a.tar", samples(0, 3)).read_bytes()[: 512 * 18], np.uint8)
    refused = 0
    for _ in range(100):
        damaged = whole.copy()
        block = 512 * rng.integers(18)
        places = block + rng.integers(0, 512, 3)
        damaged[places] = rng.integers(0, 256, 3)
        (tmp_path / "a.tar").write_bytes(damaged.tobytes())
        try:
            read_index(tmp_path / "a.tar")
        except ValueError as error:
            refused += "a.tar: " in str(error)
    assert refused > 5


@pytest.mark.parametrize("shards", [2, 11])
def test_a_broken_shard_is_left_out_and_named(tmp_path: Path, shards: int) -> None:
    for k in range(shards):
        make_shard(tmp_path / "set" / f"{k:02d}.tar", samples(10 * k, 10))
    (tmp_path / "set" / "00.tar").write_bytes(b"hello")
    done = import_images(tmp_path / "set", tmp_path / "store")
    ((index, reason),) = done.skipped
    assert index == 0
    assert "00.tar: is no usable shard" in reason
    assert numbers(done.store) == list(range(10, 10 * shards))


@pytest.mark.parametrize("first", [True, False])
def test_images_have_a_class_all_or_none(tmp_path: Path, first: bool) -> None:
    for k in range(10):
        make_shard(tmp_path / "set" / f"{k}.tar", samples(3 * k, 3, labelled=first == (k < 9)))
    done = import_images(tmp_path / "set", tmp_path / "store")
    ((index, reason),) = done.skipped
    assert index == 9
    assert ("has no class (cls), which others have" if first else "has classes (cls) and the first none") in reason


def without(numbers_: range, *missing: int) -> list[int]:
    return [number for number in numbers_ if number not in missing]


@pytest.mark.parametrize("shards", [1, 12])
def test_one_bad_image_costs_one_image(tmp_path: Path, shards: int) -> None:
    for k in range(shards):
        members = dict(samples(20 * k, 20))
        if k == 0:
            members["a/00003.png"] = BROKEN["truncated"]
            members["a/00005.png"] = b""
            members["a/00007.cls"] = b"cat"
            members["a/00011.jpg"] = members["a/00011.png"]  # which of both?
            del members["a/00013.cls"]
        make_shard(tmp_path / "set" / f"{k:02d}.tar", members.items())
    done = import_images(tmp_path / "set", tmp_path / "store")
    assert done.skipped == ()
    found = numbers(done.store)
    assert found == without(range(20 * shards), 3, 5, 7, 11, 13)
    assert labels(done.store) == [number % 7 for number in found]
    for reason, what in zip(
        done.left_out,
        ("00003.png: is no usable", "00005.png: is no usable", "'a/00007.cls' is not the number", "images of one",
         "00013.png: is left out (has no class"),
        strict=True,
    ):  # fmt: skip
        assert what in reason
        assert "00.tar: " in reason
        assert "\n" not in reason


@pytest.mark.parametrize("shards", [1, 12])
def test_what_lies_before_the_end_of_a_cut_shard_is_kept(tmp_path: Path, shards: int) -> None:
    for k in range(shards):
        shard = make_shard(tmp_path / "set" / f"{k:02d}.tar", samples(20 * k, 20, labelled=False))
        if k == 0:  # in the middle of image 8, behind its json
            data = shard.read_bytes()
            shard.write_bytes(data[: data.index(b"a/00008.png") + 512 + 30])
    done = import_images(tmp_path / "set", tmp_path / "store")
    assert done.skipped == ()
    assert numbers(done.store) == [*range(8), *range(20, 20 * shards)]
    cut, end = done.left_out
    assert "00.tar: member 'a/00008.png' is cut off; it is left out" in cut
    assert "00.tar: is damaged or cut off (" in end


def test_what_lies_before_a_bad_header_is_kept(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a.tar", samples(0, 20))
    data = bytearray(shard.read_bytes())
    place = data.index(b"a/00012.png")
    data[place : place + 512] = b"\xff" * 512
    shard.write_bytes(data)
    done = import_images(shard, tmp_path / "store")
    assert numbers(done.store) == list(range(12))
    (reason,) = done.left_out
    assert "a.tar: is damaged or cut off (no header at byte" in reason


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_costs_itself_alone(tmp_path: Path, kind: bytes) -> None:
    make_shard(tmp_path / "a.tar", samples(0, 4, labelled=False))
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        tar.addfile(special(kind))
    done = import_images(tmp_path / "a.tar", tmp_path / "store")
    assert numbers(done.store) == [0, 1, 2, 3]
    (reason,) = done.left_out
    assert "member '1.png' is a link, a device or a sparse file; it is left out" in reason


def test_links_to_shards_outside_are_refused(tmp_path: Path) -> None:
    make_shard(tmp_path / "set" / "a.tar", samples(0, 2))
    (tmp_path / "set" / "b.tar").symlink_to(make_shard(tmp_path / "b.tar", samples(0, 2)))
    with pytest.raises(ValueError, match=r"b\.tar: is a link that leads out of"):
        WebDatasetSource(tmp_path / "set", OPTIONS)

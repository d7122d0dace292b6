"""Images into a store: every image comes once, with its class; sizes, modes and orientations; and files to distrust."""

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lewm.data import Store, images
from lewm.data.images import ImageFolderSource, WebDatasetSource, read_image, read_index
from lewm.data.importing import Imported, ImportOptions, import_recording, open_source

SIZE = 16
OPTIONS = ImportOptions(image_size=SIZE)
RED, WHITE = (255, 0, 0), (255, 255, 255)
Members = Iterable[tuple[str, bytes]]


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def numbered(number: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """Return an image that carries its number in its pixels."""
    return Image.new("RGB", size, (number % 256, number // 256, 77))


def numbers(store: Store) -> list[int]:
    """Return the number of each image of a store; all its pixels must say the same."""
    assert (store.frames == store.frames[:, :1, :1]).all()
    assert (store.frames[..., 2] == 77).all()
    return [int(red) + 256 * int(green) for red, green, _ in store.frames[:, 0, 0]]


def make_folder(root: Path, counts: dict[str, int], *, kinds: tuple[str, ...] = ("png",)) -> Path:
    """Write numbered images into class folders, one class after the other."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for _ in range(count):
            kind = kinds[number % len(kinds)]
            settings: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
            numbered(number).save(root / name / f"{number:05d}.{kind}", **settings)
            number += 1
    return root


def make_shard(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(first: int, count: int, *, labelled: bool = True) -> Members:
    for number in range(first, first + count):
        yield f"a/{number:05d}.png", encoded(numbered(number))
        if labelled:
            yield f"a/{number:05d}.cls", b"%d\n" % (number % 7)
        yield f"a/{number:05d}.json", b"{"  # not even looked at


def import_images(path: Path, out: Path, *, workers: int = 1) -> Imported:
    kind = "webdataset" if WebDatasetSource.matches(path) else "images"
    return import_recording(path, out, options=OPTIONS, format_=kind, workers=workers, progress=False)


def gather(path: Path, out: Path, *, workers: int = 1) -> Store:
    done = import_images(path, out, workers=workers)
    assert done.skipped == ()
    done.store.validate()
    return done.store


def labels(store: Store) -> list[int]:
    assert store.states is not None
    return store.states[:, 0].astype(int).tolist()


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


def decode(image: Image.Image, kind: str = "PNG", **settings: Any) -> np.ndarray:
    return read_image(io.BytesIO(encoded(image, kind, **settings)), "here")


def test_modes_become_rgb() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    grey = rgb[..., 0]
    np.testing.assert_array_equal(decode(Image.fromarray(rgb)), rgb)
    for mode, values in (("L", grey), ("1", (grey > 127) * np.uint8(255))):
        expected = np.repeat(values[..., None], 3, axis=2)
        np.testing.assert_array_equal(decode(Image.fromarray(values).convert(mode)), expected)
    deep = grey.astype(np.uint16) * 256 + 17
    np.testing.assert_array_equal(decode(Image.fromarray(deep)), np.repeat(grey[..., None], 3, axis=2))
    palette = Image.fromarray(rgb).quantize(16)
    np.testing.assert_array_equal(decode(palette), np.asarray(palette.convert("RGB")))
    cmyk = decode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    assert np.abs(cmyk.astype(int) - RED).max() <= 3


def test_what_is_transparent_lies_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert decode(image).tolist() == [[list(RED), list(WHITE)]]
    assert decode(image, "WEBP", lossless=True).tolist() == [[list(RED), list(WHITE)]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, 0, 0, 9])
    palette.putpixel((1, 0), 1)
    assert decode(palette, transparency=1).tolist() == [[list(RED), list(WHITE)]]
    assert decode(Image.new("LA", (1, 1), (0, 0))).tolist() == [[list(WHITE)]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: image, 2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1], 5: image.T, 6: image[::-1].T,
        7: image[::-1, ::-1].T, 8: image[:, ::-1].T,
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(decode(Image.fromarray(image), exif=exif)[..., 0], turned)


def png_of_size(width: int, height: int) -> bytes:
    """Return a small PNG that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


BROKEN = {
    "empty": b"",
    "text": b"<html>404</html>",
    "truncated": encoded(Image.effect_noise((64, 64), 50), "JPEG")[:900],
    "cut PNG": encoded(Image.effect_noise((64, 64), 50))[:900],
    "bomb": png_of_size(10_000, 10_000),
    "larger bomb": png_of_size(100_000, 100_000),
    "strip": encoded(Image.new("L", (60_001, 1))),
    "GIF": encoded(Image.new("L", (4, 4)), "GIF"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"^here: is no usable image \(.+\); repair it or take it out$") as error:
        read_image(io.BytesIO(BROKEN[name]), "here")
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)  # no object's address


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_damage_anywhere_is_an_image_or_one_line(kind: str) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 100, zip=True)
    more = {"PNG": {"exif": exif, "pnginfo": text}, "JPEG": {"exif": exif}, "WEBP": {"exif": exif}, "BMP": {}}[kind]
    whole = np.frombuffer(encoded(Image.effect_noise((24, 24), 60).convert("RGB"), kind, **more), np.uint8)
    refused = 0
    for _ in range(100):
        damaged = whole.copy()
        places = rng.integers(0, min(len(whole), 200), 1 + rng.integers(4))
        damaged[places] = rng.integers(0, 256, len(places))
        try:
            read_image(io.BytesIO(damaged.tobytes()), "here")
        except ValueError as error:
            refused += str(error).startswith("here: is no usable image (")
    assert refused > 5


def test_a_broken_image_leaves_out_its_group_and_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root", {"a": 20})
    (root / "a" / "00007.png").write_bytes(BROKEN["cut PNG"])
    done = import_images(root, tmp_path / "store")
    ((_, reason),) = done.skipped
    assert reason.startswith(f"{root / 'a' / '00007.png'}: is no usable image (")
    assert len(numbers(done.store)) == 18
    assert 7 not in numbers(done.store)


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
    root = make_folder(tmp_path / "set" / "train", {"a": 2, "b": 2})
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
    assert [(sample.name, sample.label) for sample in found] == [("./x.y/1.png", 4), ("z/1.JPEG", 6)]


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
    with pytest.raises(ValueError, match=r"^[^\n]*a\.tar: (is no usable shard \([^\n]+\)|has no images [^\n]*); ") as e:
        WebDatasetSource(tmp_path / "a.tar", OPTIONS)
    assert "\n" not in str(e.value)


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
    assert ("without a class" if first else "has classes (cls) and the first shard none") in reason


def test_a_broken_image_of_a_shard_is_named(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a.tar", [*samples(0, 19, labelled=False), ("b.jpg", BROKEN["truncated"])])
    done = import_images(shard, tmp_path / "store")
    ((index, reason),) = done.skipped
    assert index == 9
    assert "a.tar: b.jpg: is no usable image" in reason
    assert numbers(done.store) == list(range(18))


def test_links_to_shards_outside_are_refused(tmp_path: Path) -> None:
    make_shard(tmp_path / "set" / "a.tar", samples(0, 2))
    (tmp_path / "set" / "b.tar").symlink_to(make_shard(tmp_path / "b.tar", samples(0, 2)))
    with pytest.raises(ValueError, match=r"b\.tar: is a link that leads out of"):
        WebDatasetSource(tmp_path / "set", OPTIONS)


def test_nothing_to_import(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: has no images in class folders \(empty/<class>/\*"):
        open_source(tmp_path / "empty", OPTIONS, "images")
    with pytest.raises(ValueError, match=r"empty: has no \*\.tar shard; give"):
        open_source(tmp_path / "empty", OPTIONS, "webdataset")

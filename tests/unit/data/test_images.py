"""Pictures from anywhere: the same pixels from a folder, a zip, a tar and a URL; stored pixels, RGB; broken
files have reasons.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import socket
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from spr.data.images import ImageStore, open_store, safe_path
from spr.errors import DataError, ImageError, StaleRunError, UnfinishedError
from tests.unit.data.worlds import picture

SIZE = (64, 48)


def roots(tmp_path: Path) -> list[str]:
    folder = tmp_path / "folder"
    picture(folder / "a" / "x.png")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as z:
        z.write(folder / "a" / "x.png", "a/x.png")
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as t:
        t.add(folder / "a" / "x.png", "a/x.png")
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as z:
        z.write(folder / "a" / "x.png", "val2017/a/x.png")
    fsspec.filesystem("memory").pipe("/spr-images/a/x.png", (folder / "a" / "x.png").read_bytes())
    return [
        str(folder),
        f"{tmp_path}/all.zip",
        f"{tmp_path}/all.tar.gz",
        f"zip://val2017::{tmp_path}/deep.zip",
        "memory://spr-images",
    ]


@pytest.mark.parametrize("which", range(5), ids=["folder", "zip", "tar", "folder-in-zip", "url"])
def test_the_same_picture_from_everywhere(tmp_path: Path, which: int) -> None:
    store = open_store(roots(tmp_path)[which])
    expected = np.asarray(Image.open(tmp_path / "folder" / "a" / "x.png").convert("RGB"))
    assert np.array_equal(np.asarray(store.load("a/x.png")), expected)
    assert store.problem("a/x.png", *SIZE) is None
    with pytest.raises(ImageError, match="missing_image"):
        store.load("a/y.png")
    with pytest.raises(ImageError, match="missing_image"):
        store.load("a")
    other = pickle.loads(pickle.dumps(store))  # workers get their own
    assert np.array_equal(np.asarray(other.load("a/x.png")), expected)


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("a.jpg", "a.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ("a..b/c...jpg", "a..b/c...jpg"),  # dots in a name are no way up
        ("..", None),
        ("a/../../b", None),
        ("a/../b", None),  # harmless, but not what a data set writes
        ("a\\..\\b", None),
        ("/etc/passwd", None),
        ("\\\\host\\x", None),
        ("C:\\x", None),
        ("s3://bucket/x", None),
        ("a\x00b", None),
        ("", None),
        (".", None),
    ],
)
def test_paths_stay_below_the_root(tmp_path: Path, path: str, plain: str | None) -> None:
    assert safe_path(path) == plain
    if plain is None:
        with pytest.raises(ImageError, match="path_outside_root"):
            ImageStore(str(tmp_path)).read(path)


def test_a_missing_root_is_one_line(tmp_path: Path) -> None:
    for root in (str(tmp_path / "none"), str(tmp_path / "none.zip"), "", "nosuchscheme://x"):
        with pytest.raises(DataError, match=r"^data\.images: [^\n]*$"):
            open_store(root)
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="found no readable zip archive"):
        open_store(str(tmp_path / "bad.zip"))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that only claims a size: what a decompression bomb looks like from outside."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    picture(path, *SIZE, exif=exif)


def cut_short(path: Path) -> None:
    data = picture(path, 400, 300, quality=95).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def animated(path: Path) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def sixteen_bit(path: Path) -> None:
    Image.fromarray(np.full((SIZE[1], SIZE[0]), 0x8012, np.uint16)).save(path)


BAD = [
    ("gone.jpg", lambda path: None, SIZE, "missing_image"),
    ("empty.jpg", lambda path: path.write_bytes(b""), SIZE, "unreadable_image"),
    ("text.jpg", lambda path: path.write_bytes(b"<html>404</html>"), SIZE, "unreadable_image"),
    ("cut.jpg", cut_short, (400, 300), "truncated_image"),
    (
        "cut.png",
        lambda p: p.write_bytes(picture(p, 200, 200).read_bytes()[:-60]),
        (200, 200),
        "truncated_image",
    ),
    ("other.png", lambda p: picture(p, 60, 40), SIZE, "size_differs"),
    ("turned.jpg", rotated, (48, 64), "size_differs_exif"),  # annotated on the rotated picture
    ("cmyk.jpg", lambda p: picture(p, *SIZE, mode="CMYK"), SIZE, "cmyk"),
    ("palette.png", lambda p: picture(p, *SIZE, mode="P"), SIZE, "palette"),
    ("deep.png", sixteen_bit, SIZE, "sixteen_bit"),
    ("moving.gif", animated, SIZE, "animated"),
    ("moving.webp", animated, SIZE, "animated"),
    (
        "bomb.png",
        lambda p: p.write_bytes(png_of_size(10_000, 10_000)),
        (10_000, 10_000),
        "decompression_bomb",
    ),
    (
        "huge.png",
        lambda p: p.write_bytes(png_of_size(60_000, 60_000)),
        (60_000, 60_000),
        "decompression_bomb",
    ),
]


@pytest.mark.parametrize(("name", "make", "size", "reason"), BAD, ids=[b[0] for b in BAD])
def test_every_broken_file_has_its_reason(
    tmp_path: Path, name: str, make: object, size: tuple[int, int], reason: str
) -> None:
    make(tmp_path / name)  # type: ignore[operator]
    with warnings.catch_warnings():
        # as users have it: a warning that nobody reads
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        problem = open_store(str(tmp_path)).problem(name, *size)
    assert problem is not None
    assert problem.reason == reason
    assert "\n" not in str(problem)


def test_what_a_picture_with_an_odd_mode_becomes_when_accepted(tmp_path: Path) -> None:
    """The stated conversions: 16 bit / 256, first frame, palette and CMYK as Pillow converts."""
    sixteen_bit(tmp_path / "deep.png")
    animated(tmp_path / "moving.gif")
    picture(tmp_path / "cmyk.jpg", *SIZE, mode="CMYK")
    Image.new("LA", SIZE, (90, 10)).save(tmp_path / "alpha.png")
    store = open_store(str(tmp_path))
    for name, oddity in [("deep.png", "sixteen_bit"), ("moving.gif", "animated"), ("cmyk.jpg", "cmyk")]:
        assert store.problem(name, *SIZE, accept=("palette",)) is not None
        assert store.problem(name, *SIZE, accept=(oddity,)) is None
        assert store.load(name).mode == "RGB"
    assert store.load("deep.png").getpixel((0, 0)) == (0x80, 0x80, 0x80)
    assert store.load("moving.gif").getpixel((0, 0)) == (255, 0, 0)
    assert store.load("alpha.png").getpixel((0, 0)) == (90, 90, 90)  # alpha is dropped, not blended


def test_exif_is_reported_and_never_applied(tmp_path: Path) -> None:
    """The annotated size equals the stored one: fine, and the pixels are the stored ones."""
    rotated(tmp_path / "turned.jpg")
    store = open_store(str(tmp_path))
    assert store.problem("turned.jpg", *SIZE) is None
    assert store.header("turned.jpg").orientation == 6
    assert store.load("turned.jpg").size == SIZE


def test_the_cache_is_bounded_and_serves_again(tmp_path: Path) -> None:
    """Three pictures of 64 x 48 x 3 = 9216 bytes, room for two."""
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    store = ImageStore(str(tmp_path), cache_bytes=2 * 9216)
    first = store.load("a.png")
    store.load("b.png")
    assert store.load("a.png") is first
    store.load("c.png")  # b is the oldest now
    for name in "abc":
        (tmp_path / f"{name}.png").unlink()
    assert store.load("a.png") is first
    assert store.load("c.png").size == SIZE
    with pytest.raises(ImageError, match="missing_image"):
        store.load("b.png")


def test_sizes_come_from_headers(tmp_path: Path) -> None:
    data = picture(tmp_path / "a.jpg", 400, 300).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:700])
    found = open_store(str(tmp_path)).sizes(["cut.jpg", "none.jpg", "a.jpg"])
    assert found[0] == found[2] == (400, 300)
    assert isinstance(found[1], ImageError)


def test_each_of_two_shards_at_work_hears_of_its_own_images(tmp_path: Path) -> None:
    """Their images files are the same whether they are done at once or one after the other; one that both
    show is in both.
    """
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    store = open_store(str(tmp_path))
    first = store.watch.expect(["a.png", "b.png"], {})
    second = store.watch.expect(["b.png", "c.png"], {})
    for name in "cba":
        store.load(f"{name}.png")
    assert [seen.image for seen in first.new()] == ["a.png", "b.png"]
    assert [seen.image for seen in second.new()] == ["b.png", "c.png"]
    known = {"a.png": "another"}
    store.watch.expect(["b.png"], {})
    third = store.watch.expect(["a.png", "b.png"], known)
    store.load("b.png")
    with pytest.raises(StaleRunError, match=r"a\.png: this image was changed"):
        store.load("a.png")
    assert [seen.image for seen in third.new()] == ["b.png"]
    store.load("a.png")  # nobody expects it any more


def test_a_png_in_memory_is_what_it_is() -> None:
    """The hand-made PNG header is valid, so that the bombs above are refused for their size only."""
    assert Image.open(io.BytesIO(png_of_size(100, 50))).size == (100, 50)


class Sick:
    """A file system that fails with an error the first few times."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.left = error, times

    def cat_file(self, name: str) -> bytes:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return png()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "PNG")
    return buffer.getvalue()


class HttpError(Exception):
    """As aiohttp's: a status, and no OSError."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def coded(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error",
    [
        *(coded(n) for n in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ECONNREFUSED)),
        *(TimeoutError(), ConnectionResetError(), socket.gaierror(-3, "no name")),
        *(HttpError(n) for n in (429, 500, 503)),
    ],
    ids=repr,
)
def test_what_may_come_back_is_no_bad_picture(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is down for a minute made every picture of that minute a drop for good."""
    monkeypatch.setattr("spr.data.images.PAUSES", (0.0, 0.0))
    store = open_store(str(tmp_path))
    store._fs = Sick(error, 2)
    assert store.load("a.png").size == (4, 3)
    store._fs = Sick(error, 99)
    with pytest.raises(UnfinishedError, match=r"b\.png: cannot be reached .*; the same command goes on"):
        store.load("b.png")


@pytest.mark.parametrize(
    "error",
    [
        *(coded(n) for n in (errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EINVAL)),
        *(HttpError(403), zipfile.BadZipFile("Bad CRC-32"), zlib.error("bad")),
        UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed"),
    ],
    ids=repr,
)
def test_what_stays_bad_is_that_pictures_reason(error: Exception, tmp_path: Path) -> None:
    """Symlink loops, over-long and unreadable names, damaged archives ended the run in a traceback."""
    store = open_store(str(tmp_path))
    store._fs = Sick(error, 99)
    with pytest.raises(ImageError) as caught:
        store.load("a.png")
    assert caught.value.reason == "unreadable_image"
    assert "\n" not in str(caught.value)


def test_real_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("a.png", png())
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(png()[:40], png()[:39] + b"!", 1))
    for root, name in (
        ("", "loop.png"),
        ("", f"{'long' * 100}.png"),
        ("", "odd\udc80.png"),
        ("a.zip", "a.png"),
    ):
        with pytest.raises(ImageError):
            open_store(str(tmp_path / root)).load(name)

"""Where images come from: a folder, a zip or tar file, or an object store, all through fsspec.

In: the image root of the data set and the path of an image in it (`ImageRecord.path`, `Region.image`,
`Query.image`: a POSIX path relative to the root). Out: RGB pictures. Pixels are the *stored* ones: an EXIF
rotation is reported, never applied, because annotations are drawn on stored pixels. RGB conversion: grey is
repeated, a palette is looked up, alpha is dropped, CMYK goes through Pillow's plain conversion (no colour
profile), 16-bit grey is divided by 256, of an animation the first frame is taken. `problem` says which of
these are set aside before a picture is used. A picture that cannot be reached now, but perhaps later (a store
that is down, a file server that is gone), is no bad picture: it is tried again, then UnfinishedError ends the
run. Known gap: a symbolic link inside the root is followed, as
people link to other disks; only the path itself must stay inside.
"""

from __future__ import annotations

import contextlib
import errno
import io
import posixpath
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import fsspec
import numpy as np
from PIL import Image, ImageFile

from spr.data.rows import ROWS, RowFiles
from spr.errors import DataError, ImageError, SprError, StaleRunError, UnfinishedError, said_by
from spr.store.digests import digest
from spr.types import SeenImage

Oddity: TypeAlias = Literal["cmyk", "palette", "sixteen_bit", "animated"]
# Pillow's own limit (a quarter of a gigabyte of RGB): more is taken for a decompression bomb
MAX_PIXELS = 89_478_485
PAUSES = (0.5, 2.0, 8.0)  # ours: seconds before another try of what cannot be reached
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY", "ENOMEM", "EMFILE", "ENFILE"),
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE", "ENETDOWN", "ENETUNREACH", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
)
CACHE_BYTES = 192 << 20  # ours: decoded pictures kept in memory
_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_EXIF_ORIENTATION = 0x0112
_ARCHIVES = {".zip": "zip", ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar"}
_BAD_PATH = re.compile(r"^/|^[A-Za-z]:|://|\x00|^$")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says about its picture before it is decoded. `orientation` is the EXIF value (1 = as
    stored).
    """

    width: int
    height: int
    mode: str
    orientation: int
    frames: int


def safe_path(path: str) -> str | None:
    """The path in its plain form ("./a//b.jpg" -> "a/b.jpg"), or None when it is absolute, a URL, empty, or
    leaves the root.
    """
    if _BAD_PATH.search(path) or path.startswith("\\") or ".." in re.split(r"[/\\]", path):
        return None
    plain = posixpath.normpath(path)
    return None if plain == "." else plain


def oddity_of(header: ImageHeader) -> Oddity | None:
    """Which conversion to RGB would lose something, if any."""
    if header.frames > 1:
        return "animated"
    if header.mode == "CMYK":
        return "cmyk"
    if header.mode == "P":
        return "palette"
    return "sixteen_bit" if header.mode.startswith(("I", "F")) else None


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB, by the rules at the top of this file."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, dtype=np.int64) // 256, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return image.convert("RGB")


class Watch:
    """Which images were opened, and whether they are the ones that were seen before. Safe to use from
    threads. `stage`: the verb of what opens them first.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._expected: list[ExpectedImages] = []

    def expect(self, images: Iterable[str], known: Mapping[str, str]) -> ExpectedImages:
        """The images of a shard that is begun, with the digests of those that were seen before. Several
        shards may be at work.
        """
        expected = ExpectedImages(self, set(images), known)
        self._expected = [*self._expected, expected]
        return expected

    def forget(self, expected: ExpectedImages) -> None:
        """A shard is done."""
        self._expected = [other for other in self._expected if other is not expected]

    def see(self, image: str, size: int, found: str) -> None:
        """An image is opened. Raises StaleRunError when it is not the one that was seen before."""
        for expected in self._expected:
            if image not in expected.images:
                continue
            if expected.known.get(image, found) != found:
                raise StaleRunError(
                    f"{image}: this image was changed since it was first opened; put the old one back, or "
                    f"use --overwrite {self._stage}"
                )
            expected.seen[image] = SeenImage(image, size, found)


@dataclass(eq=False, slots=True)
class ExpectedImages:
    """The images of a shard, the digests of those that were seen before, and what is `seen` of them."""

    watch: Watch
    images: set[str]
    known: Mapping[str, str]
    seen: dict[str, SeenImage] = field(default_factory=dict)

    def new(self) -> list[SeenImage]:
        """Those that were opened and had not been seen before, sorted. None of them is expected any more."""
        self.watch.forget(self)
        return [self.seen[image] for image in sorted(self.seen.keys() - self.known.keys())]


class ImageStore:
    """Pictures by their path below a root. Keeps recently decoded ones (they are shared: do not draw on
    them); safe to use from threads. `watch` hears of every image that is opened.
    """

    def __init__(self, root: str, cache_bytes: int = CACHE_BYTES) -> None:
        self.root = root
        self.watch, self.prefix = Watch("regions"), ""  # what the watch calls an image: prefix + path
        self._fs, self._base = _file_system(root)
        self._limit = cache_bytes
        self._cache: OrderedDict[str, tuple[Image.Image, int, str]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        shared = _archive(root) or "::" in root or root.startswith(ROWS)
        self._reading = threading.Lock() if shared else None  # an archive has one file position

    def __reduce__(self) -> tuple[type[ImageStore], tuple[str, int]]:
        return ImageStore, (self.root, self._limit)

    def read(self, path: str) -> bytes:
        """The bytes of an image file. Raises ImageError (path_outside_root, missing_image, unreadable_image),
        UnfinishedError when it cannot be reached.
        """
        plain = safe_path(path)
        if plain is None:
            raise ImageError(path, "path_outside_root", f"expected a path below {self.root}")
        name = f"{self._base}/{plain}" if self._base else plain
        pauses = list(PAUSES)
        while True:
            try:
                with self._reading or contextlib.nullcontext():
                    return bytes(self._fs.cat_file(name))
            except (FileNotFoundError, KeyError, IsADirectoryError, NotADirectoryError):
                raise ImageError(path, "missing_image", f"no such file below {self.root}") from None
            except SprError:
                raise
            except Exception as e:
                if not may_pass(e, _remote(self.root)):
                    raise ImageError(path, "unreadable_image", said_by(e)) from None
                if not pauses:
                    raise unreachable(f"{self.root}: {path}", e) from None
                time.sleep(pauses.pop(0))

    def paths(self) -> list[str]:
        """The paths of all image files (by their endings), sorted."""
        found = (str(p)[len(self._base) + 1 if self._base else 0 :] for p in self._fs.find(self._base))
        return sorted(p for p in found if p.lower().endswith(_ENDINGS))

    def header(self, path: str) -> ImageHeader:
        """Size, mode, EXIF orientation and frames, without decoding. Raises ImageError."""
        return _header(path, _open(path, self.read(path)))

    def load(self, path: str) -> Image.Image:
        """The picture in RGB, stored pixels. Raises ImageError (missing_image, unreadable_image,
        truncated_image, decompression_bomb, …).
        """
        with self._lock:
            known = self._cache.get(path)
            if known is not None:
                self._cache.move_to_end(path)
        if known is not None:
            self.watch.see(self.prefix + path, *known[1:])
            return known[0]
        data = self._watched(path)
        image = to_rgb(_decoded(path, _open(path, data[0])))
        with self._lock:
            if path not in self._cache:
                self._cache[path] = (image, *data[1:])
                self._held += 3 * image.width * image.height
            while self._held > self._limit and len(self._cache) > 1:
                old = self._cache.popitem(last=False)[1][0]
                self._held -= 3 * old.width * old.height
        return image

    def _watched(self, path: str) -> tuple[bytes, int, str]:
        """The bytes of an image that is opened, their number and their digest."""
        data = self.read(path)
        size, found = len(data), digest(data)
        self.watch.see(self.prefix + path, size, found)
        return data, size, found

    def problem(self, path: str, width: int, height: int, accept: Collection[str] = ()) -> ImageError | None:
        """Why this image must not be used with boxes drawn for (width, height), or None. Decodes it whole.

        `accept` names the oddities (cmyk, palette, sixteen_bit, animated) that may be converted.
        """
        try:
            data = _open(path, self._watched(path)[0])
            header = _header(path, data)
            oddity = oddity_of(header)
            if oddity is not None and oddity not in accept:
                return ImageError(
                    path,
                    oddity,
                    f"mode {header.mode}, {header.frames} frame(s); `data.accept` would take it, converted "
                    "to RGB",
                )
            if (header.width, header.height) != (width, height):
                return _size_problem(path, header, width, height)
            _decoded(path, data)
        except ImageError as e:
            return e
        return None

    def sizes(self, paths: Sequence[str]) -> list[tuple[int, int] | ImageError]:
        """(width, height) of each image, or why there is none; a few files at a time."""

        def size(path: str) -> tuple[int, int] | ImageError:
            try:
                return size_of(path, self.read(path))
            except ImageError as e:
                return e

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(size, paths))


def size_of(path: str, data: bytes) -> tuple[int, int] | ImageError:
    """(width, height) of an encoded image, or why there is none; from its header."""
    try:
        header = _header(path, _open(path, data))
    except ImageError as e:
        return e
    return (header.width, header.height)


def open_store(root: str) -> ImageStore:
    """The images below `root`. Raises DataError when there is no such folder or archive."""
    return ImageStore(root)


def unreachable(what: str, e: Exception) -> UnfinishedError:
    """The one line about something that could not be reached now."""
    return UnfinishedError(
        f"{what}: cannot be reached ({said_by(e)}); what has come is kept; the same command goes on"
    )


def _remote(root: str) -> bool:
    """Whether pictures come over a network."""
    return "://" in root and not root.startswith((ROWS, "file://"))


def may_pass(e: Exception, remote: bool) -> bool:
    """Whether an error says nothing about the file: the next try may find it well."""
    status = getattr(e, "status", None)  # of HTTP, in aiohttp's errors and their kin
    if isinstance(status, int):
        return status in (408, 425, 429) or status >= 500
    if isinstance(e, TimeoutError | ConnectionError | socket.gaierror):
        return True
    if isinstance(e, PermissionError | ValueError | ImportError):
        return False
    if isinstance(e, OSError) and e.errno is not None:
        return e.errno in _PASSING
    return remote


def _archive(root: str) -> str | None:
    return next((kind for ending, kind in _ARCHIVES.items() if root.lower().endswith(ending)), None)


def _file_system(root: str) -> tuple[Any, str]:
    if not root:
        raise DataError(
            "data.images: found nothing, expected a folder, a .zip or .tar file, or a URL (s3://, gs://, "
            "hf://)"
        )
    try:
        fs, base = (
            (RowFiles(root.removeprefix(ROWS)), "") if root.startswith(ROWS) else fsspec.core.url_to_fs(root)
        )
        found = fs.exists(base)
    except Exception as e:
        if may_pass(e, _remote(root)):
            raise unreachable(f"data.images: {root}", e) from None
        raise DataError(f"data.images: {root}: cannot be opened ({said_by(e)})") from None
    if not found:
        raise DataError(
            f"data.images: {root}: no such folder or archive, expected the images of the data set"
        )
    kind = _archive(root)
    if kind is None or "::" in root:
        return fs, str(base).rstrip("/")
    try:
        return fsspec.filesystem(kind, fo=root, skip_instance_cache=True), ""
    except Exception as e:
        raise DataError(f"data.images: {root}: found no readable {kind} archive ({e})") from None


def _open(path: str, data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as e:
        raise ImageError(path, "decompression_bomb", str(e)) from None
    except MemoryError:
        raise
    except Exception as e:  # a broken picture may raise anything
        reason = "empty file" if not data else str(e).replace("\n", " ")
        raise ImageError(
            path, "unreadable_image", reason if len(reason) < 200 else type(e).__name__
        ) from None
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            path,
            "decompression_bomb",
            f"{image.width} x {image.height} pixels, expected at most {MAX_PIXELS}",
        )
    return image


def _header(path: str, image: Image.Image) -> ImageHeader:
    try:
        # Pillow would decode the pixels to look for it behind them
        late = image.format == "PNG" and "exif" not in image.info
        orientation = 1 if late else image.getexif().get(_EXIF_ORIENTATION, 1)
        # MPO: a camera's JPEG with a thumbnail behind it
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except MemoryError:
        raise
    except Exception as e:
        raise ImageError(path, "unreadable_image", f"broken header ({said_by(e)})") from None
    return ImageHeader(
        image.width, image.height, image.mode, orientation if isinstance(orientation, int) else 1, int(frames)
    )


def _decoded(path: str, image: Image.Image) -> Image.Image:
    """The picture with its pixels read. Raises ImageError; a file that breaks off is never padded with
    grey.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, expected it unset: truncated images would pass as "
            "whole ones"
        )
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as e:
        reason = (
            "truncated_image"
            if "truncated" in str(e).lower() or isinstance(e, EOFError)
            else "unreadable_image"
        )
        raise ImageError(path, reason, said_by(e)) from None
    return image


def _size_problem(path: str, header: ImageHeader, width: int, height: int) -> ImageError:
    found = f"stored {header.width} x {header.height}, annotated {width} x {height}"
    if header.orientation in (5, 6, 7, 8) and (header.height, header.width) == (width, height):
        return ImageError(
            path,
            "size_differs_exif",
            f"{found}: the EXIF rotation (orientation {header.orientation}) explains it",
        )
    return ImageError(path, "size_differs", f"{found}: no EXIF rotation explains it")

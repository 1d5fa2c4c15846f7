"""Real photographs, boxes drawn by hand, from annotations to the picture of the regions: real JPEGs, real
aspect ratios, a grey PNG.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import skimage
import sklearn
from PIL import Image

from spr.boxes import enclosing, inside, iou
from spr.cli import run_cli
from spr.data.index import open_index
from spr.store.run import Run
from spr.types import Region

BOXES = Path(__file__).with_name("photographs.json")
SOURCES = {
    "china.jpg": Path(sklearn.__file__).parent / "datasets" / "images",
    "flower.jpg": Path(sklearn.__file__).parent / "datasets" / "images",
    "rocket.jpg": Path(skimage.__file__).parent / "data",
    "coins.png": Path(skimage.__file__).parent / "data",
    "motorcycle_left.png": Path(skimage.__file__).parent / "data",
}
CONFIG = """
run: run
data: {format: coco, annotations: photographs.json, images: photographs}
model: {folder: none}
regions: {regions_per_image: 2}
"""


class Page(HTMLParser):
    """Collects the tags, addresses and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def spr(*arguments: str) -> int:
    """The command line, in this process; returns the exit code."""
    with pytest.raises(SystemExit) as e:
        run_cli(list(arguments))
    return int(e.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs with their annotations, indexed, checked, and with regions drawn."""
    base = tmp_path_factory.mktemp("photographs")
    (base / "photographs").mkdir()
    for name, source in SOURCES.items():
        shutil.copy(source / name, base / "photographs" / name)
    shutil.copy(BOXES, base / "photographs.json")
    (base / "config.yaml").write_text(CONFIG)
    assert spr("index", str(base / "config.yaml"), "--check") == 0
    assert spr("regions", str(base / "config.yaml"), "--preview", str(base / "regions.html")) == 0
    return base


def test_the_index_holds_every_box(folder: Path) -> None:
    index = open_index(str(folder / "run" / "index"))
    images = index.images()
    boxes = index.annotations_of([i.image_id for i in images])
    assert {i.image_id: (i.width, i.height, len(boxes[i.image_id])) for i in images} == {
        "china.jpg": (640, 427, 10),
        "coins.png": (384, 303, 24),
        "flower.jpg": (640, 427, 4),
        "motorcycle_left.png": (741, 500, 16),
        "rocket.jpg": (640, 427, 13),
    }
    assert index.rejected() == {}
    assert [i.image_id for i in index.images("objects > 10 AND NOT list_contains(categories, 'coin')")] == [
        "motorcycle_left.png",
        "rocket.jpg",
    ]


def test_the_check_finds_nothing(folder: Path) -> None:
    text = (folder / "run" / "index" / "check" / "summary.txt").read_text()
    assert re.search(r"usable +5\n  set aside +0\n", text)


def test_the_regions_are_sound(folder: Path) -> None:
    """The flower has four objects, and four are too few; the motorcycle fills its picture, so that every
    region is like the first.
    """
    run = Run(str(folder / "run"))
    regions = run.read_stage(Region, "regions")
    summary = run.summary("regions")
    assert summary is not None
    assert summary.dropped == {"no_new_region": 1, "too_few_objects": 1}
    drawn = [
        "china.jpg#0",
        "china.jpg#1",
        "coins.png#0",
        "coins.png#1",
        "motorcycle_left.png#0",
        "rocket.jpg#0",
        "rocket.jpg#1",
    ]
    assert [r.region_id for r in regions] == drawn
    for region in regions:
        assert len(region.objects) >= 5
        assert inside([o.box for o in region.objects], region.box).all()
        (seed,) = [o for o in region.objects if o.annotation_id == region.seed_annotation_id]
        assert enclosing([seed.box, region.box]) == region.box
    assert all(iou(regions[n].box, regions[n + 1].box) < 0.7 for n in (0, 2, 5))


def test_the_picture_is_complete_in_itself(folder: Path) -> None:
    """One file: every picture is embedded, in its own aspect ratio; objects are labelled; the drop reasons
    are counted.
    """
    text = (folder / "regions.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.links) == 7
    assert "script" not in page.tags
    assert "url(" not in text
    sizes = set()
    for link in page.links:
        head, _, data = link.partition(",")
        assert head == "data:image/jpeg;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        picture.load()
        sizes.add((picture.mode, picture.size))
    # 741 x 500 is shown with 640 pixels
    assert sizes == {("RGB", (640, 427)), ("RGB", (384, 303)), ("RGB", (640, 432))}
    assert {"coin", "rocket", "too_few_objects"} <= set(page.words)
    assert page.tags.count("article") == 7

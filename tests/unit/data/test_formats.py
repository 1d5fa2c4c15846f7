"""One set of scenes in every form gives one index; pycocotools is the oracle of the COCO form, `datasets`
writes the Hugging Face forms.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from pycocotools.coco import COCO

from spr.data.config import DataConfig, HFColumns
from spr.data.images import open_store
from spr.data.index import Index
from spr.errors import DataError
from spr.scenes.files import SplitFiles, write_split
from spr.types import Annotation, ImageRecord
from tests.support import exports
from tests.unit.data.worlds import index, picture, set_aside

SIDE = 448  # pixels of the longer side of an embedded scene


def records(found: Index) -> tuple[list[ImageRecord], dict[str, list[Annotation]]]:
    images = found.images()
    return images, {k: list(v) for k, v in found.annotations_of([i.image_id for i in images]).items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SplitFiles:
    """Twelve scenes of the embedded world, as its own recipe writes them."""
    return write_split(tmp_path_factory.mktemp("world"), "shifted", 12)


@pytest.fixture(scope="module")
def coco_index(world: SplitFiles, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return index(DataConfig("coco", str(world.coco), str(world.images)), tmp_path_factory.mktemp("index"))[1]


def check_with_pycocotools(file: str, found: Index, path_of: Callable[[dict[str, object]], str]) -> int:
    """Every image, and every box in source order, is what pycocotools has. Returns how many boxes there
    are.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO(file)
    images, annotations = records(found)
    assert sorted(i.image_id for i in images) == sorted(path_of(i) for i in oracle.imgs.values())
    names = {n: c["name"] for n, c in oracle.cats.items()}
    boxes = 0
    for number, row in oracle.imgs.items():
        expected = [
            (names[a["category_id"]], a["bbox"], bool(a.get("iscrowd", 0))) for a in oracle.imgToAnns[number]
        ]
        got = annotations[path_of(row)]
        assert [(a.category, a.crowd, a.annotation_id) for a in got] == [
            (c, crowd, str(n)) for n, (c, _, crowd) in enumerate(expected)
        ]
        for a, (_, (x, y, w, h), _) in zip(got, expected, strict=True):
            assert a.box == (x, y, x + w, y + h)
        boxes += len(got)
    return boxes


def test_the_embedded_world_is_what_pycocotools_reads(world: SplitFiles, coco_index: Index) -> None:
    assert check_with_pycocotools(str(world.coco), coco_index, lambda i: str(i["file_name"])) > 80


def test_an_lvis_file_is_what_pycocotools_reads(tmp_path: Path) -> None:
    """LVIS: no file_name, polygons, floats with long tails, many categories with gaps, annotations of images
    interleaved.
    """
    rng = random.Random(3)
    ids = rng.sample(range(600_000), 50)
    images = [
        {
            "id": i,
            "width": rng.randint(300, 640),
            "height": rng.randint(300, 640),
            "coco_url": f"http://images.cocodataset.org/{rng.choice(['train', 'val'])}2017/{i:012d}.jpg",
            "not_exhaustive_category_ids": [1, 2],
            "neg_category_ids": [],
        }
        for i in ids
    ]
    annotations = []
    for n in range(700):
        row = rng.choice(images)
        w, h = rng.uniform(0.1, 300), rng.uniform(0.1, 300)
        x, y = rng.uniform(0, int(row["width"]) - w), rng.uniform(0, int(row["height"]) - h)
        polygon = [
            [round(rng.uniform(0, 300), 2) for _ in range(rng.randint(3, 40) * 2)]
            for _ in range(rng.randint(1, 3))
        ]
        category = rng.choice([1, 7, 500, 1203])
        annotations.append(
            {
                "bbox": [x, y, w, h],
                "category_id": category,
                "image_id": row["id"],
                "id": n + 1,
                "segmentation": polygon,
                "area": w * h,
            }
        )
    categories = [
        {
            "id": c,
            "name": f"thing {c}",
            "synset": "a.n.01",
            "synonyms": ["a{", "}, {"],
            "def": '"quoted", {"id": 1}',
        }
        for c in (1, 7, 500, 1203)
    ]
    file = tmp_path / "lvis.json"
    file.write_text(
        json.dumps(
            {
                "info": {},
                "annotations": annotations,
                "images": images,
                "licenses": [],
                "categories": categories,
            }
        )
    )
    summary, found = index(DataConfig("coco", str(file), str(tmp_path)), tmp_path / "out")
    assert summary.rejected == {}
    assert (
        check_with_pycocotools(str(file), found, lambda i: "/".join(str(i["coco_url"]).split("/")[-2:]))
        == 700
    )


def hf_rows(images: list[ImageRecord], annotations: dict[str, list[Annotation]], folder: Path) -> Dataset:
    """The usual detection data set of the hub: embedded images, xywh, ClassLabel."""
    names = exports.category_names(annotations)
    rows = [
        {
            "image": {"path": None, "bytes": (folder / i.path).read_bytes()},
            "objects": {
                "bbox": [
                    [a.box[0], a.box[1], a.box[2] - a.box[0], a.box[3] - a.box[1]]
                    for a in annotations[i.image_id]
                ],
                "category": [names.index(a.category) for a in annotations[i.image_id]],
            },
        }
        for i in images
    ]
    features = Features(
        {
            "image": Image(),
            "objects": {"bbox": List(List(Value("float64"))), "category": List(ClassLabel(names=names))},
        }
    )
    return Dataset.from_list(rows, features=features)


FORMS = {
    # form: largest difference of a coordinate in pixels (float32 nowhere; six decimals of 448 pixels are 1e-4
    # of a pixel)
    "coco": 1e-6,
    "open_images": 1e-6,
    "voc": 1.0,
    "yolo": 1e-4 * SIDE,
    "hf-parquet": 1e-6,
    "hf-arrow": 1e-6,
    "hf-folder": 1e-6,
}


def export(
    form: str, out: Path, pictures: Path, images: list[ImageRecord], annotations: dict[str, list[Annotation]]
) -> DataConfig:
    """Write the form into `out`; returns the configuration that reads it."""
    root = str(pictures)
    match form:
        case "coco":
            exports.write_coco(images, annotations, out / "x.json")
            return DataConfig("coco", str(out / "x.json"), root)
        case "open_images":
            exports.write_open_images(images, annotations, out / "x.csv")
            return DataConfig("open_images", str(out / "x.csv"), root, str(out / "class-descriptions.csv"))
        case "voc":
            exports.write_voc(images, annotations, out / "Annotations")
            return DataConfig("voc", str(out / "Annotations"), root)
        case "yolo":
            exports.write_yolo(images, annotations, out / "labels")
            return DataConfig("yolo", str(out / "labels"), root, str(out / "labels" / "classes.txt"))
        case "hf-parquet":
            hf_rows(images, annotations, pictures).to_parquet(
                out / "data" / "train.parquet" if (out / "data").mkdir() is None else ""
            )
            return DataConfig("hf", str(out / "data"))
        case "hf-arrow":
            hf_rows(images, annotations, pictures).save_to_disk(out / "data")
            return DataConfig("hf", str(out / "data"))
        case _:
            lines = [
                {
                    "file_name": i.path,
                    "objects": {
                        "bbox": [list(a.box) for a in annotations[i.image_id]],
                        "categories": [a.category for a in annotations[i.image_id]],
                    },
                }
                for i in images
            ]
            (out / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            return DataConfig("hf", str(out), root, hf=HFColumns(category="categories", boxes="xyxy"))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_scenes_gives_the_same_index(
    form: str, tmp_path: Path, world: SplitFiles, coco_index: Index
) -> None:
    """Equal image ids (rows of a data set: in order), sizes, ordinals, categories and flags; boxes equal
    within what the form can say.
    """
    images, annotations = records(coco_index)
    config = export(form, tmp_path, world.images, images, annotations)
    summary, found = index(config, tmp_path / "index")
    assert summary.rejected == {}
    got_images, got = records(found)
    by_row = form in ("hf-parquet", "hf-arrow")
    order = sorted(got_images, key=lambda i: int(i.path.rpartition("/")[2])) if by_row else got_images
    assert [(i.width, i.height) for i in order] == [(i.width, i.height) for i in images]
    if not by_row:
        assert [i.image_id for i in order] == [i.image_id for i in images]
    for theirs, ours in zip(images, order, strict=True):
        expected = annotations[theirs.image_id]
        assert [
            (a.annotation_id, a.category, a.crowd, a.ignore, a.difficult) for a in got[ours.image_id]
        ] == [(a.annotation_id, a.category, a.crowd, a.ignore, a.difficult) for a in expected]
        for a, b in zip(got[ours.image_id], expected, strict=True):
            assert a.box == pytest.approx(b.box, abs=FORMS[form])
        store = open_store(config.images)
        assert store.problem(ours.path, ours.width, ours.height) is None
        assert store.read(ours.path) == (world.images / theirs.path).read_bytes()


def test_the_same_images_from_a_zip_file(tmp_path: Path, world: SplitFiles, coco_index: Index) -> None:
    """Formats that take sizes from headers read them through the store, wherever the images are."""
    images, annotations = records(coco_index)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as z:
        for i in images:
            z.write(world.images / i.path, i.path)
    exports.write_yolo(images, annotations, tmp_path / "labels")
    config = DataConfig(
        "yolo", str(tmp_path / "labels"), str(tmp_path / "all.zip"), str(tmp_path / "labels" / "classes.txt")
    )
    assert records(index(config, tmp_path / "index")[1])[0] == images


def test_visual_genome(tmp_path: Path) -> None:
    """Both files, and objects.json alone (the sizes come from the headers then)."""
    picture(tmp_path / "images" / "VG_100K" / "1.jpg", 800, 600)
    url = "https://cs.stanford.edu/people/rak248/VG_100K/1.jpg"
    objects = [
        {
            "x": 10,
            "y": 20,
            "w": 30,
            "h": 40,
            "names": ["clock", "time piece"],
            "object_id": 5,
            "synsets": ["clock.n.01"],
            "merged_object_ids": [],
        },
        {
            "x": 10,
            "y": 20,
            "w": 30,
            "h": 40,
            "names": [],
            "object_id": 6,
            "synsets": [],
            "merged_object_ids": [],
        },
    ]
    (tmp_path / "objects.json").write_text(
        json.dumps([{"image_id": 1, "objects": objects, "image_url": url}])
    )
    (tmp_path / "image_data.json").write_text(
        json.dumps([{"image_id": 1, "url": url, "width": 800, "height": 600, "coco_id": None}])
    )
    both = DataConfig(
        "visual_genome",
        (str(tmp_path / "objects.json"), str(tmp_path / "image_data.json")),
        str(tmp_path / "images"),
    )
    alone = DataConfig("visual_genome", str(tmp_path / "objects.json"), str(tmp_path / "images"))
    for n, config in enumerate((both, alone)):
        summary, found = index(config, tmp_path / f"index{n}")
        images, annotations = records(found)
        assert images == [ImageRecord("VG_100K/1.jpg", "VG_100K/1.jpg", 800, 600)]
        assert [(a.annotation_id, a.category, a.box) for a in annotations["VG_100K/1.jpg"]] == [
            ("0", "clock", (10.0, 20.0, 40.0, 60.0))
        ]
        assert summary.rejected == {"unknown_category": 1}  # an object without a name


# --- what is broken in these forms ----------------------------------------------------------------


def test_broken_voc_files(tmp_path: Path) -> None:
    """VOC counts from 1: xmin 1 is the left edge. A file that is no XML, a box without numbers, and an image
    without size are set aside.
    """
    size = "<size><width>64</width><height>48</height></size>"
    good = f"<annotation><filename>a.jpg</filename>{size}{{}}</annotation>"
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>48</ymax>"
    box = f"<object><name>cat</name><difficult>1</difficult><bndbox>{corners}</bndbox></object>"
    folder = tmp_path / "xml"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.xml").write_text(
        good.format(box.format(64) + box.format("wide") + "<object><bndbox/></object>")
    )
    (folder / "b.xml").write_text(good.format(box.format(64))[:-30])
    (folder / "c.xml").write_text("<annotation><filename>c.jpg</filename></annotation>")
    (folder / "sub" / "d.xml").write_text(good.format(""))
    summary, found = index(DataConfig("voc", str(folder), str(tmp_path)), tmp_path / "index")
    images, annotations = records(found)
    assert [i.image_id for i in images] == ["a.jpg", "sub/a.jpg"]
    assert [(a.box, a.difficult) for a in annotations["a.jpg"]] == [((0.0, 0.0, 64.0, 48.0), True)]
    assert summary.rejected == {
        "box_not_finite": 1,
        "image_without_size": 1,
        "unknown_category": 1,
        "unreadable_annotation": 1,
    }


def test_broken_yolo_files(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", 100, 50)
    picture(tmp_path / "images" / "empty.png", 100, 50)
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.txt").write_text(
        "0 0.5 0.5 0.2 0.2\n\n1 nan 0.5 0.2 0.2\n7 0.5 0.5 0.1 0.1\n0 0.1 0.1 0.9 0.1 0.5 0.9\ndog 0.5 0.5 "
        "0.1 0.1\n"
    )
    (labels / "bad.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (labels / "gone.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    config = DataConfig("yolo", str(labels), str(tmp_path / "images"), str(tmp_path / "data.yaml"))
    summary, found = index(config, tmp_path / "index")
    images, annotations = records(found)
    assert [(i.image_id, len(annotations[i.image_id])) for i in images] == [("a.png", 1), ("empty.png", 0)]
    assert annotations["a.png"][0].box == pytest.approx((40.0, 20.0, 60.0, 30.0))
    assert summary.rejected == {
        "box_not_finite": 2,
        "image_set_aside": 2,
        "missing_image": 1,
        "unknown_category": 2,
        "unreadable_image": 1,
    }
    with pytest.raises(
        DataError, match=r"data\.categories: found nothing, expected the names of YOLO's classes"
    ):
        index(DataConfig("yolo", str(labels), str(tmp_path / "images")), tmp_path / "index2")


def test_broken_open_images_rows(tmp_path: Path) -> None:
    """Rows of an image need not be neighbours; a group box is a crowd; a label that the descriptions lack is
    an unknown category.
    """
    picture(tmp_path / "a.jpg", 200, 100)
    picture(tmp_path / "b.jpg", 100, 100)
    header = ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsGroupOf"]
    rows = [
        ["a", "xclick", "/m/1", 1, 0.1, 0.2, 0.3, 0.5, 0],
        ["b", "xclick", "/m/1", 1, 0, 1, 0, 1, 1],
        ["a", "xclick", "/m/1", 1, 0.5, 1, 0.5, 1, 0],
        ["a", "xclick", "/m/2", 1, 0.5, 1, 0.5, 1, 0],
        ["a", "xclick", "/m/1", 1, "", 1, 0.5, 1, 0],
        ["c", "xclick", "/m/1", 1, 0, 1, 0, 1, 0],
    ]
    with (tmp_path / "boxes.csv").open("w", newline="") as f:
        csv.writer(f).writerows([header, *rows])
    (tmp_path / "names.csv").write_text("/m/1,Cat\n")
    summary, found = index(
        DataConfig("open_images", str(tmp_path / "boxes.csv"), str(tmp_path), str(tmp_path / "names.csv")),
        tmp_path / "index",
    )
    annotations = records(found)[1]
    assert [a.box for a in annotations["a.jpg"]] == [
        pytest.approx((20, 30, 40, 50)),
        pytest.approx((100, 50, 200, 100)),
    ]
    assert [a.annotation_id for a in annotations["a.jpg"]] == ["0", "1"]
    assert [(a.category, a.crowd) for a in annotations["b.jpg"]] == [("Cat", True)]
    assert summary.rejected == {
        "box_not_finite": 1,
        "image_set_aside": 1,
        "missing_image": 1,
        "unknown_category": 1,
    }
    (tmp_path / "boxes.csv").write_text("ImageID,LabelName\na,b\n")
    with pytest.raises(
        DataError, match=r"boxes\.csv: found columns ImageID, LabelName, expected also XMin, XMax, YMin, YMax"
    ):
        index(DataConfig("open_images", str(tmp_path / "boxes.csv"), str(tmp_path)), tmp_path / "index2")


def test_broken_hugging_face_files(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    lines = [
        {"file_name": "a.png", "objects": {"bbox": [[0, 0, 5, 5], [1, 1]], "category": ["cat", "dog"]}},
        {"file_name": "gone.png", "objects": {"bbox": [[0, 0, 5, 5]], "category": ["cat"]}},
        {"file_name": "../x.png", "objects": {"bbox": [], "category": []}},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    summary, found = index(DataConfig("hf", str(tmp_path), str(tmp_path)), tmp_path / "index")
    assert [(a.category, a.box) for a in records(found)[1]["a.png"]] == [("cat", (0.0, 0.0, 5.0, 5.0))]
    assert summary.rejected == {
        "box_not_finite": 1,
        "image_set_aside": 1,
        "missing_image": 1,
        "path_outside_root": 1,
        "unreadable_annotation": 1,
    }
    assert {d.item_id for d in set_aside(found)} >= {"metadata.jsonl:4", "gone.png", "../x.png", "a.png#1"}
    Dataset.from_dict({"text": ["x"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"found columns text, expected also objects, an image column; see `data\.hf`"
    ):
        index(DataConfig("hf", str(tmp_path / "x.parquet"), str(tmp_path)), tmp_path / "index2")

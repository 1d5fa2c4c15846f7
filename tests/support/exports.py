"""The same annotated images in the forms that other tools write: COCO, VOC, YOLO, Open Images, Visual Genome,
rows of Hugging Face data sets.

In: image and annotation records. Out: annotation files beside images that exist already. What a form cannot
say is lost: VOC has whole pixels (counted from 1), YOLO six decimals of a side, Open Images only images named
`<id>.jpg` in one folder.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq

from spr.boxes import to_cxcywh_unit, to_xywh, to_xyxy_unit
from spr.types import Annotation, Frame, ImageRecord

Annotations: TypeAlias = Mapping[str, Sequence[Annotation]]  # by image id


def category_names(annotations: Annotations) -> list[str]:
    """The categories that occur, sorted."""
    return sorted({a.category for some in annotations.values() for a in some})


def write_coco(images: Sequence[ImageRecord], annotations: Annotations, file: Path) -> None:
    """One JSON file. Ids count from 1, as the published files do."""
    names = category_names(annotations)
    rows: list[dict[str, object]] = []
    for number, image in enumerate(images, 1):
        for a in annotations[image.image_id]:
            x, y, w, h = to_xywh([a.box])[0].tolist()
            row = {
                "id": len(rows) + 1,
                "image_id": number,
                "category_id": names.index(a.category) + 1,
                "bbox": [x, y, w, h],
            }
            rows.append(row | {"area": w * h, "iscrowd": int(a.crowd)})
    content = {
        "images": [
            {"id": n, "file_name": i.path, "width": i.width, "height": i.height}
            for n, i in enumerate(images, 1)
        ],
        "annotations": rows,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
    }
    file.write_text(json.dumps(content), encoding="utf-8")


def write_voc(images: Sequence[ImageRecord], annotations: Annotations, folder: Path) -> None:
    """An XML file per image; pixels counted from 1, both ends inside."""
    for image in images:
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = posixpath.basename(image.path)
        size = ElementTree.SubElement(root, "size")
        for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
            ElementTree.SubElement(size, tag).text = str(value)
        for a in annotations[image.image_id]:
            element = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(element, "name").text = a.category
            ElementTree.SubElement(element, "difficult").text = str(int(a.difficult))
            x1, y1, x2, y2 = (round(v) for v in a.box)
            box = ElementTree.SubElement(element, "bndbox")
            for tag, value in (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2)):
                ElementTree.SubElement(box, tag).text = str(value)
        file = (folder / image.path).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(root).write(file, encoding="utf-8")


def write_yolo(images: Sequence[ImageRecord], annotations: Annotations, folder: Path) -> None:
    """A text file per image, and classes.txt."""
    names = category_names(annotations)
    for image in images:
        lines = []
        for a in annotations[image.image_id]:
            cx, cy, w, h = to_cxcywh_unit([a.box], Frame(image.width, image.height))[0].tolist()
            lines.append(f"{names.index(a.category)} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n")
        file = (folder / image.path).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines), encoding="utf-8")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def write_open_images(images: Sequence[ImageRecord], annotations: Annotations, file: Path) -> None:
    """A CSV row per box, and class-descriptions.csv beside it (labels /m/0, /m/1, …)."""
    names = category_names(annotations)
    header = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
        "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    with file.open("w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(header.split(","))
        for image in images:
            for a in annotations[image.image_id]:
                x1, y1, x2, y2 = to_xyxy_unit([a.box], Frame(image.width, image.height))[0].tolist()
                label = f"/m/{names.index(a.category)}"
                writer.writerow(
                    [
                        posixpath.splitext(image.path)[0],
                        "xclick",
                        label,
                        1,
                        x1,
                        x2,
                        y1,
                        y2,
                        0,
                        0,
                        int(a.crowd),
                        0,
                        0,
                    ]
                )
    with (file.parent / "class-descriptions.csv").open("w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows(
            [["LabelName", "DisplayName"], *([f"/m/{n}", name] for n, name in enumerate(names))]
        )


def write_visual_genome(images: Sequence[ImageRecord], annotations: Annotations, file: Path) -> None:
    """objects.json alone, with the addresses of the images."""
    rows = []
    for number, image in enumerate(images, 1):
        objects = []
        for k, a in enumerate(annotations[image.image_id]):
            x, y, w, h = (round(v) for v in to_xywh([a.box])[0].tolist())
            objects.append(
                {"object_id": k, "names": [a.category], "synsets": [], "x": x, "y": y, "w": w, "h": h}
            )
        rows.append({"image_id": number, "image_url": image.path, "objects": objects})
    file.write_text(json.dumps(rows), encoding="utf-8")


def write_hf(
    images: Sequence[ImageRecord], annotations: Annotations, pictures: Path, kind: str, folder: Path
) -> None:
    """`kind`: metadata.jsonl with the names of the pictures, or a Parquet or Arrow file that holds them."""
    rows: list[dict[str, object]] = []
    for image in images:
        some = annotations[image.image_id]
        objects = {"bbox": to_xywh([a.box for a in some]).tolist(), "category": [a.category for a in some]}
        rows.append({"file_name": image.path, "objects": objects})
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
        return
    for row, image in zip(rows, images, strict=True):
        row["image"] = {"bytes": (pictures / image.path).read_bytes(), "path": image.path}
    table = pa.Table.from_pylist(rows)
    if kind == "parquet":
        pq.write_table(table, folder / "train.parquet")
    else:
        with pa.ipc.new_stream(folder / "train.arrow", table.schema) as writer:
            writer.write_table(table)

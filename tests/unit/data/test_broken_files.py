"""Files that once ended in a traceback, each with what comes out now: rows and reasons, or one line. The kind
is tests/properties/test_files.py; these are its first members.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spr.data.config import DataConfig, Format
from spr.data.images import open_store
from spr.data.index import Index
from spr.errors import DataError, UnfinishedError
from tests.unit.data.worlds import CATEGORIES, box, coco, image, index, picture, set_aside

GOOD = (
    "<annotation><filename>1.png</filename><size><width>64</width><height>48</height></size>{}</annotation>"
)
CORNERS = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
OBJECT = "<object><name>{}</name>" + CORNERS + "</object>"
ROW = {"objects": {"bbox": [[0.0, 0.0, 9.0, 9.0]], "category": ["cat"]}}


def reasons(found: Index) -> set[str]:
    return {dropped.reason for dropped in set_aside(found)}


def build(folder: Path, form: Format, name: str, data: bytes, **more: Any) -> Index:
    """An index of one good picture and this annotation file."""
    picture(folder / "images" / "1.png")
    file = folder / "annotations" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    one = form in ("coco", "open_images", "visual_genome")
    config = DataConfig(form, str(file if one else file.parent), str(folder / "images"), **more)
    return index(config, folder / "index")[1]


def voc(folder: Path, data: bytes) -> Index:
    """A VOC folder with one good file beside this one."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "0.xml").write_text(GOOD.format(OBJECT.format("cat")))
    return build(folder, "voc", "1.xml", data)


@pytest.mark.parametrize("encoding", ["gbk", "big5", "shift_jis", "euc-kr", "utf-16", "iso-8859-1"])
def test_voc_in_any_encoding_that_python_knows(tmp_path: Path, encoding: str) -> None:
    """Annotation tools on Windows write the encoding of the country; expat itself reads one byte a letter."""
    name = "Stra\xdfe" if encoding == "iso-8859-1" else "\u4e2d"
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + GOOD.format(OBJECT.format(name))
    found = build(tmp_path, "voc", "1.xml", text.encode(encoding))
    assert [a.category for a in found.annotations_of(["1.png"])["1.png"]] == [name]


@pytest.mark.parametrize(
    "data",
    [
        b'<?xml version="1.0" encoding="klingon"?><annotation/>',
        b'<?xml version="1.0" encoding="gbk"?><annotation>\xff\xff</annotation>',
        b"<annotation>",
        b"",
        b"\xff\xfe\x00",
    ],
)
def test_a_voc_file_that_cannot_be_read_is_set_aside(tmp_path: Path, data: bytes) -> None:
    assert reasons(voc(tmp_path, data)) >= {"unreadable_annotation"}


def test_a_label_folder_in_place_of_a_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    os.symlink("loop.xml", tmp_path / "annotations" / "loop.xml")
    found = build(tmp_path, "voc", "1.xml", GOOD.format(OBJECT.format("cat")).encode())
    assert len(found.images()) == 1


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("99999999999999999999", "unknown_category"),
        ("9" * 5000, "unknown_category"),
        ("-1", "unknown_category"),
    ],
)
def test_a_yolo_class_beyond_any_list_is_unknown(tmp_path: Path, number: str, reason: str) -> None:
    (tmp_path / "names.txt").write_text("cat\n")
    text = f"0 0.5 0.5 0.1 0.1\n{number} 0.5 0.5 0.1 0.1\n"
    found = build(tmp_path, "yolo", "1.txt", text.encode(), categories=str(tmp_path / "names.txt"))
    assert found.rejected() == {reason: 1}


OPEN_IMAGES = "ImageID,LabelName,XMin,XMax,YMin,YMax\n"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1,/m/\xff,0,1,0,1\n", "unreadable_annotation"),
        (b"1\n", "unreadable_annotation"),
        (b"1,/m/0\n", "unreadable_annotation"),
        (b'1,"/m/0,0,1,0,1\n1,/m/0,0,1,0,1\n', "csv_broken"),
        (b'1,"/m/0' + b"x" * 200_000, "csv_broken"),
    ],
)
def test_an_open_images_row_that_is_not_whole(tmp_path: Path, row: bytes, reason: str) -> None:
    """A quote that nobody closes would swallow the rows behind it without a word."""
    picture(tmp_path / "images" / "1.jpg")
    good = b"1,/m/0,0,0.5,0,0.5\n"
    found = build(tmp_path, "open_images", "a.csv", OPEN_IMAGES.encode() + good + row)
    assert found.rejected() == {reason: 1}
    assert len(found.annotations_of(["1.jpg"])["1.jpg"]) == 1


VG_BOX = {"names": ["cat"], "x": 1, "y": 1, "w": 5, "h": 5}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"objects": None}, "not_an_annotation"),
        ({"objects": [None]}, "not_an_annotation"),
        ({"objects": [{**VG_BOX, "names": 5}]}, "unknown_category"),
        ({"objects": [{**VG_BOX, "x": "1"}]}, "box_not_finite"),
        ({"objects": [{**VG_BOX, "w": 10**400}]}, "box_not_finite"),
        ({"objects": [{**VG_BOX, "w": 1e308, "x": 1e308}]}, "box_not_finite"),
        ({"width": "800"}, "image_without_size"),
        ({"width": 2**70}, "image_without_size"),
    ],
)
def test_visual_genome_values_of_another_type(tmp_path: Path, entry: dict[str, Any], reason: str) -> None:
    rows = [
        {"image_id": 1, "url": "a/1.png", "width": 64, "height": 48},
        {"image_id": 1, "objects": [VG_BOX]},
        {"image_id": 2**70 if "width" in entry else 1, "url": "a/2.png", "width": 64, "height": 48, **entry},
    ]
    picture(tmp_path / "images" / "a" / "1.png")
    found = build(tmp_path, "visual_genome", "a.json", json.dumps(rows).encode())
    assert reason in found.rejected()
    assert len(found.annotations_of(["a/1.png"])["a/1.png"]) >= 1


@pytest.mark.parametrize("number", [2**62, 2**63 - 1, 2**63, 10**30, -(2**63), -(10**30)])
def test_an_id_of_any_size_is_an_id(tmp_path: Path, number: int) -> None:
    """Ids from 2^62 on went missing, or ended the run, by the place in the file where they stood."""
    for odd in ({}, {"bbox": None}):  # an element of another type turns the batch to the slower path
        extra = [{**box(1, 1, [0, 0, 5, 5]), **odd}] if odd else []
        config = coco(
            tmp_path / str(len(odd)),
            [image(1), {**image(2), "id": number}],
            [box(7, number, [1, 1, 5, 5]), *extra],
        )
        found = index(config, tmp_path / f"index{len(odd)}")[1]
        assert len(found.annotations_of(["2.png"])["2.png"]) == 1
        assert "annotation_without_image" not in found.rejected()


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({"bbox": [10**30, 1, 10**30, 1]}, "box_outside"),
        ({"bbox": [10**400, 1, 1, 1]}, "box_not_finite"),
        ({"bbox": [1e308, 1, 1e308, 1]}, "box_not_finite"),
        ({"category_id": 10**30}, "unknown_category"),
        ({"bbox": "x"}, "box_not_finite"),
        ("x", "not_an_annotation"),
        ([[]], "not_an_annotation"),
    ],
)
def test_a_coco_annotation_of_any_value(tmp_path: Path, annotation: object, reason: str) -> None:
    odd = {**box(2, 1, [0, 0, 5, 5]), **annotation} if isinstance(annotation, dict) else annotation
    found = index(coco(tmp_path, [image(1)], [box(1, 1, [0, 0, 5, 5]), odd]), tmp_path / "index")[1]
    assert set(found.rejected()) == {reason}


@pytest.mark.parametrize(
    "deep",
    ["[" * 200_000, "[" * 200_000 + "]" * 200_000, '{"a":' * 200_000, "9" * 5000, '"' + "\\ud800" * 9 + '"'],
)
def test_a_coco_file_nested_without_end_breaks_there(tmp_path: Path, deep: str) -> None:
    annotations = json.dumps([box(1, 1, [0, 0, 5, 5])])[:-1]
    before = f'{{"images":[{json.dumps(image(1))}],"categories":{json.dumps(CATEGORIES)},"annotations":'
    found = build(tmp_path, "coco", "a.json", f"{before}{annotations},{deep}]}}".encode())
    assert reasons(found) & {"json_broken", "not_an_annotation"}
    assert len(found.annotations_of(["1.png"])["1.png"]) == 1


# --- rows of Hugging Face data sets ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ("x", "not_an_annotation"),
        (5, "not_an_annotation"),
        ({"bbox": "x", "category": ["cat"]}, "not_an_annotation"),
        ({"bbox": [[0, 0, 5, 5]], "category": 5}, "not_an_annotation"),
        ([None], "unknown_category"),
        ({"bbox": [["0", "0", "5", "5"]], "category": ["cat"]}, "box_not_finite"),
    ],
)
def test_objects_that_are_none(tmp_path: Path, objects: object, reason: str) -> None:
    rows = [{"file_name": "1.png", **ROW}, {"file_name": "2.png", "objects": objects}]
    picture(tmp_path / "images" / "2.png")
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert reason in reasons(build(tmp_path, "hf", "metadata.jsonl", data))


def test_one_latin_1_line_is_set_aside(tmp_path: Path) -> None:
    """And U+2028 inside a text ends no line."""
    line = json.dumps({"file_name": "1.png", "note": "a\u2028b", **ROW}, ensure_ascii=False).encode()
    found = build(tmp_path, "hf", "metadata.jsonl", line + b"\n" + b'{"file_name": "\xe9.png"}\n' + b"5\n")
    assert [d.reason for d in set_aside(found)] == ["unreadable_annotation"] * 2
    assert len(found.images()) == 1


def written(kind: str, rows: list[dict[str, Any]]) -> bytes:
    """A Parquet file, an Arrow stream, or an Arrow file."""
    out, table = pa.BufferOutputStream(), pa.Table.from_pylist(rows)
    if kind == "parquet":
        pq.write_table(table, out)
    else:
        with (pa.ipc.new_file if kind == "arrow-file" else pa.ipc.new_stream)(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
    return bytes(out.getvalue())


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrow-file"])
@pytest.mark.parametrize("cut", [0, 3, 100, -40, None])
def test_a_broken_shard_does_not_stop_the_others(tmp_path: Path, kind: str, cut: int | None) -> None:
    """Broken, cut, or an Arrow file in place of a stream: its sound rows count, the rest is a reason."""
    data = picture(tmp_path / "p.png").read_bytes()
    rows = [{"image": {"bytes": data, "path": "p.png"}, **ROW}] * 3
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "good.parquet").write_bytes(written("parquet", rows))
    name = f"odd.{kind.partition('-')[0]}"
    found = build(tmp_path, "hf", name, written(kind, rows)[:cut])
    assert len([i for i in found.images() if i.image_id.startswith("good")]) == 3
    if cut is None:
        assert len(found.images()) == 6
    else:
        assert "rows_broken" in reasons(found)


# --- pictures -------------------------------------------------------------------------------------


def _bad_crc(folder: Path) -> str:
    file = folder / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(picture(folder / "x.png"), "1.png")
    data = bytearray(file.read_bytes())
    data[60] ^= 0xFF
    file.write_bytes(data)
    return str(file)


def _loop(folder: Path) -> str:
    (folder / "images").mkdir()
    os.symlink("1.png", folder / "images" / "1.png")
    return str(folder / "images")


def _folder(folder: Path) -> str:
    (folder / "images" / "1.png").mkdir(parents=True)
    return str(folder / "images")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (_bad_crc, "1.png"),
        (_loop, "1.png"),
        (_folder, "1.png"),
        (_folder, "x" * 300 + ".png"),
        (_folder, "\ud800.png"),
        (_folder, "a\x00.png"),
    ],
)
def test_a_picture_that_cannot_be_opened_is_one_reason(
    tmp_path: Path, make: Callable[[Path], str], name: str
) -> None:
    store = open_store(make(tmp_path))
    problem = store.problem(name, 64, 48)
    assert problem is not None
    assert problem.reason in ("unreadable_image", "missing_image", "path_outside_root")
    assert not isinstance(store.sizes([name])[0], tuple)


def test_a_name_that_utf_8_cannot_write_is_set_aside(tmp_path: Path) -> None:
    """It would be kept as "?.png", and be another image."""
    odd = [{**image(2), "file_name": "\ud800.png"}]
    found = index(coco(tmp_path, [image(1), *odd], [box(1, 1, [0, 0, 5, 5])]), tmp_path / "index")[1]
    assert [(d.item_id, d.reason) for d in set_aside(found)] == [("'\\ud800.png'", "path_outside_root")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", b"names: [" * 3000),
        ("a.yaml", b"names: {0: cat, 0: dog}"),
        ("a.yaml", b"5"),
        ("a.yaml", b"\xff"),
        ("a.txt", b"caf\xe9\n"),
    ],
)
def test_a_list_of_categories_that_is_none_is_one_line(tmp_path: Path, name: str, text: bytes) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(DataError, match=r"data\.categories"):
        build(tmp_path, "yolo", "1.txt", b"0 0.5 0.5 0.1 0.1\n", categories=str(tmp_path / name))


@pytest.mark.parametrize("error", [ConnectionError("reset"), TimeoutError("slow")])
def test_rows_that_cannot_be_reached_now_are_no_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """They are there tomorrow: an index without them would be finished for good."""

    def fails(*given: object) -> None:
        raise error

    monkeypatch.setattr("spr.data.hf.open_batches", fails)
    with pytest.raises(UnfinishedError, match=r"odd\.parquet: cannot be reached"):
        build(tmp_path, "hf", "odd.parquet", b"x")

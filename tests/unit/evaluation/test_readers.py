"""Readers against files in the published forms, with their traps, and against broken ones."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spr.errors import ConfigError, DataError
from spr.evaluation.config import BenchmarkConfig
from spr.evaluation.items import Item
from spr.evaluation.readers import read_benchmark
from spr.evaluation.readers.flickr30k import read_boxes, read_phrases
from spr.evaluation.readers.hf import NOT_PUBLISHED, size_bucket
from spr.evaluation.readers.refer import load_plain_pickle
from spr.evaluation.stage import size_of
from spr.scenes.files import image_name
from tests.support.benchmark_forms import python2_pickle


def read(form: str, path: Path | str, protocol: str = "rec", **changes: Any) -> list[Item]:
    return both(form, path, protocol, **changes)[0]


def both(form: str, path: Path | str, protocol: str = "rec", **changes: Any) -> tuple[list[Item], list[str]]:
    given: dict[str, Any] = {"check_images": False, "split": "val", **changes}
    return read_benchmark(BenchmarkConfig("b", protocol, form, str(path), **given), size_of)


# --- pickles --------------------------------------------------------------------------------------


class Harmful:
    """What a stranger may put into a pickle: a call of any function."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.target, "w"))


@pytest.mark.parametrize(
    "make",
    [
        lambda target: pickle.dumps([Harmful(target)]),
        lambda target: pickle.dumps([Harmful(target)], protocol=0),
        lambda target: f"c__builtin__\nopen\n(S'{target}'\nS'w'\ntR.".encode(),  # as Python 2 would write it
        lambda target: f"(i__builtin__\nopen\nS'{target}'\nS'w'\n.".encode(),  # the instance opcode
        lambda target: b"cos\nsystem\n(S'true'\ntR.",
        lambda target: pickle.dumps(Path(target)),  # even a harmless class is not a plain container
        # STACK_GLOBAL
        lambda target: b"\x80\x04\x95\x08\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93.",
        lambda target: b"P1\n.",  # an object outside the file
    ],
)
def test_a_malicious_pickle_is_refused_and_nothing_runs(make: Callable[[str], bytes], tmp_path: Path) -> None:
    target, path = tmp_path / "made_by_the_pickle", tmp_path / "refs(unc).p"
    path.write_bytes(make(str(target)))
    with pytest.raises(DataError, match="refused as a pickle of plain containers") as found:
        load_plain_pickle(path)
    assert not target.exists()
    assert "\n" not in str(found.value)


def test_python_2_strings_are_text(tmp_path: Path) -> None:
    """Byte strings of Python 2, as REFER has them: UTF-8, and Latin-1 where that fails."""
    path = tmp_path / "refs.p"
    path.write_bytes(python2_pickle([{"sent": "café", "n": 3, "long": "x" * 300}]))
    assert load_plain_pickle(path) == [{"sent": "café", "n": 3, "long": "x" * 300}]
    path.write_bytes(b"\x80\x02](U\x04caf\xe9e.")
    assert load_plain_pickle(path) == ["café"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02](", b"\x80\x02(U\x05ab."])
def test_a_broken_pickle_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "refs.p"
    path.write_bytes(content)
    with pytest.raises(DataError, match="refused as a pickle"):
        load_plain_pickle(path)


# --- REFER ----------------------------------------------------------------------------------------

REF = {
    "ref_id": 0, "ann_id": 5, "category_id": 1, "image_id": 7, "split": "val", "sent_ids": [0, 1],
    "file_name": "a_16.jpg",
    "sentences": [
        {"raw": "THE MAN!", "sent": "the man", "sent_id": 0, "tokens": ["the", "man"]},
        {"raw": "left", "sent": "left", "sent_id": 1, "tokens": ["left"]},
    ],
}  # fmt: skip


def refer_folder(folder: Path, name: str = "refcoco", **changes: Any) -> Path:
    folder = folder / name
    folder.mkdir()
    (folder / f"refs({'umd' if name == 'refcocog' else 'unc'}).p").write_bytes(
        python2_pickle([{**REF, **changes}])
    )
    instances = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 640, "height": 480}],
        "annotations": [{"id": 5, "image_id": 7, "bbox": [10.5, 20, 30, 40]}],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    return folder


def test_refer(tmp_path: Path) -> None:
    """Two items per ref; the image is that of instances.json (not the ref's own "a_16.jpg"); x2 = x + w,
    without "-1".
    """
    items, notes = both("refer", refer_folder(tmp_path), images="/data")
    assert [(i.item_id, i.expression, i.image, i.gt) for i in items] == [
        ("0/0", "the man", "/data/a.jpg", (10.5, 20.0, 40.5, 60.0)),
        ("0/1", "left", "/data/a.jpg", (10.5, 20.0, 40.5, 60.0)),
    ]
    assert notes == ["refcoco val: found 1 refs with 2 expressions; the published split has 3811 and 10834"]
    assert [i.expression for i in read("refer", tmp_path / "refcoco", reader={"text": "raw"})] == [
        "THE MAN!",
        "left",
    ]


def test_refcocog_is_split_by_umd(tmp_path: Path) -> None:
    assert len(read("refer", refer_folder(tmp_path, "refcocog"), split="refcocog/val")) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ann_id": 6}, r"refs\(unc\).p\[0\]: found ann_id 6, expected an id of instances.json"),
        ({"image_id": 8}, r"found image_id 8, expected an id of instances.json"),
        ({"split": "train"}, r"found splits train, expected the split 'val' among them"),
        ({"sentence": []}, r"unknown column 'sentence' \(did you mean 'sentences'\?\)"),
        ({"sentences": [{"sent": ""}]}, r"sentences\[0\].sent: found '', expected a text"),
    ],
)
def test_wrong_refs(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read("refer", refer_folder(tmp_path, **changes))


# --- MDETR, jsonl ---------------------------------------------------------------------------------


def edit(path: Path, change: Callable[[Any], None]) -> Path:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["annotations"].pop(),
            r"images\[\d+\]: found 0 boxes for image id \d+, expected one annotation per expression",
        ),
        (lambda d: d["annotations"].append(d["annotations"][0]), r"found 2 boxes for image id 0"),
        (lambda d: d["images"][0].update(sent="x"), r"images\[0\]: unknown column 'sent'"),
        (lambda d: d["images"][0].pop("caption"), r"images\[0\]: found keys .*expected 'caption' among them"),
        (
            lambda d: d["annotations"][1].update(bbox=[0, 0, -1, 5]),
            r"annotations\[1\].bbox: found \[0, 0, -1, 5\]",
        ),
        (
            lambda d: d["annotations"][1].update(bbox=[0, 0, float("nan"), 5]),
            r"annotations\[1\].bbox: found \[0, 0, nan, 5\], expected four numbers",
        ),
        (
            lambda d: d["images"][2].update(width="x"),
            r"images\[2\].width: found 'x', expected a whole number",
        ),
        (lambda d: d.pop("images"), r"expected 'images' among them"),
    ],
)
def test_wrong_mdetr_files(forms: Path, change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read("mdetr", edit(forms / "finetune_refcoco_val.json", change))


def jsonl(folder: Path, *rows: Mapping[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n\n")
    return path


def test_jsonl_boxes_are_corners(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "sent": "x", "bbox": [1, 2, 3.5, 4], "width": 10, "height": 10}
    items = read("qwen_jsonl", jsonl(tmp_path, row, {**row, "bbox": None}), "absent_rec")
    assert [i.gt for i in items] == [(1.0, 2.0, 3.5, 4.0), None]


def test_shikra_without_sizes_opens_the_image(tmp_path: Path) -> None:
    Image.new("L", (31, 17)).save(tmp_path / "a.png")
    row = {"img_path": "a.png", "expression": "x", "bbox": [0, 0, 5, 5]}
    item = read("shikra_jsonl", jsonl(tmp_path, row), images=str(tmp_path))[0]
    assert (item.width, item.height) == (31, 17)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"rows.jsonl:1: .*a.png"):
        read("shikra_jsonl", jsonl(tmp_path, row), images=str(tmp_path))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"bbox": [5, 0, 1, 1]}, r"rows.jsonl:1.bbox: found \[5, 0, 1, 1\], expected \[x1, y1, x2, y2\]"),
        ({"bbox": [0, 0, True, 1]}, r"expected four numbers"),
        ({"expression": "x"}, r"rows.jsonl:1: unknown column 'expression'"),
        ({"width": None}, r"rows.jsonl:1.width: found None"),
    ],
)
def test_wrong_lines(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    good = {"image": "a.jpg", "sent": "x", "bbox": [0, 0, 1, 1], "width": 10, "height": 10}
    with pytest.raises(DataError, match=message):
        read("qwen_jsonl", jsonl(tmp_path, {**good, **row}))


# --- the hub --------------------------------------------------------------------------------------


def parquet(path: Path, change: Callable[[list[dict[str, Any]]], Any], out: Path) -> Path:
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out


HF = "val-00000-of-00001.parquet"


def test_jxu124_checks_its_two_boxes_against_each_other(forms: Path, tmp_path: Path) -> None:
    """The column bbox may be corners or x, y, w, h: both agree with raw_anns. Anything else is refused, never
    guessed.
    """
    path = forms / "hf_refcoco" / HF
    truth = [i.gt for i in read("hf_refcoco", path)]

    def as_xywh(rows: list[dict[str, Any]]) -> None:
        for r in rows:
            r["bbox"] = json.loads(r["raw_anns"])["bbox"]

    assert [i.gt for i in read("hf_refcoco", parquet(path, as_xywh, tmp_path / "x.parquet"))] == truth
    with pytest.raises(DataError, match=r"x.parquet\[0\].bbox: found .*expected the box of raw_anns"):
        read(
            "hf_refcoco",
            parquet(path, lambda rows: rows[0].update(bbox=[0, 0, 1, 1]), tmp_path / "x.parquet"),
        )


def test_arrow_files_and_folders_are_read_too(forms: Path, tmp_path: Path) -> None:
    table = pq.read_table(forms / "ref_l4" / HF)
    for name, writer in {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}.items():
        path = tmp_path / f"{name}.arrow"
        with writer(path, table.schema) as sink:
            sink.write_table(table)
        assert (
            read("ref_l4", path) == read("ref_l4", forms / "ref_l4" / HF) == read("ref_l4", forms / "ref_l4")
        )
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"found no .parquet or .arrow file"):
        read("ref_l4", tmp_path / "none")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"broken.parquet: cannot be read as Parquet"):
        read("ref_l4", tmp_path / "broken.parquet")


def test_the_hubs_8811_are_not_the_published_split(forms: Path, tmp_path: Path) -> None:
    """lmms-lab/RefCOCO's "val" has 8,811 refs; UNC's has 3,811: whoever compares with papers must be told."""

    def many(rows: list[dict[str, Any]]) -> None:
        rows[:] = [{**rows[0], "answer": [f"x {k}"]} for k in range(8811)]

    items, notes = both(
        "lmms_refcoco",
        parquet(forms / "lmms_refcoco" / HF, many, tmp_path / "x.parquet"),
        images=str(tmp_path / "pictures"),
    )
    assert len(items) == 8811
    assert notes == [NOT_PUBLISHED[8811]]
    assert "3,811 refs" in notes[0]
    assert both("lmms_refcoco", forms / "lmms_refcoco" / HF, images=str(tmp_path / "pictures"))[1] == []


def test_pictures_are_unpacked_byte_for_byte(forms: Path, tmp_path: Path) -> None:
    path = forms / "lmms_refcoco" / HF
    items = read("lmms_refcoco", path, images=str(tmp_path / "p"))
    rows = {r["file_name"]: r["image"]["bytes"] for r in pq.read_table(path).to_pylist()}
    assert {Path(i.image).name: Path(i.image).read_bytes() for i in items} == rows
    with pytest.raises(ConfigError, match="expected a local folder for the pictures"):
        read("lmms_refcoco", path)


def test_refcoco_m_says_which_convention_its_boxes_have(forms: Path, tmp_path: Path) -> None:
    """Corners read as x, y, w, h leave the image: refused with the name of the option, not repaired."""

    def corners(rows: list[dict[str, Any]]) -> None:
        for s in (s for r in rows for s in r["samples"]):
            x, y, w, h = s["bbox"]
            s["bbox"] = [x, y, x + w, y + h]

    path = parquet(forms / "refcoco_m" / HF, corners, tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"expected a box inside 224x224; see the option `bbox: xywh \| xyxy`"
    ):
        read("refcoco_m", path, images=str(tmp_path / "p"))
    truth = [i.gt for i in read("refcoco_m", forms / "refcoco_m" / HF, images=str(tmp_path / "p"))]
    assert [
        i.gt for i in read("refcoco_m", path, images=str(tmp_path / "p"), reader={"bbox": "xyxy"})
    ] == truth


def test_unknown_and_missing_columns(forms: Path, tmp_path: Path) -> None:
    path = forms / "ref_l4" / HF
    with pytest.raises(DataError, match=r"found columns .*\(unknown: \['mask'\]\)"):
        read("ref_l4", parquet(path, lambda rows: [r.update(mask=1) for r in rows], tmp_path / "x.parquet"))
    with pytest.raises(DataError, match=r"found columns .*\(missing: \['caption'\]\)"):
        read("ref_l4", parquet(path, lambda rows: [r.pop("caption") for r in rows], tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    ("w", "h", "bucket"),
    [(128, 127.9, "small"), (128, 128, "medium"), (256, 256, "medium"), (256, 257, "large")],
)
def test_size_buckets_of_ref_l4(w: float, h: float, bucket: str) -> None:
    """Their script: sqrt(w h) < 128 small, <= 256 medium, else large."""
    assert size_bucket((0, 0, w, h)) == bucket


# --- Flickr30k ------------------------------------------------------------------------------------

XML = """<annotation><filename>1.jpg</filename>
<size><width>500</width><height>375</height><depth>3</depth></size>
<object><name>10</name><name>11</name>
<bndbox><xmin>0</xmin><ymin>1</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object>
<object><name>10</name><bndbox><xmin>100</xmin><ymin>1</ymin><xmax>150</xmax><ymax>60</ymax></bndbox></object>
<object><name>12</name><scene>1</scene><nobndbox>0</nobndbox></object>
<object><name>13</name><scene>0</scene><nobndbox>1</nobndbox></object></annotation>"""
SENTENCE = (
    "[/EN#10/people Two men] and [/EN#11/people/other one man] , outdoors in [/EN#12/scene a park] "
    ", [/EN#0/notvisual the two] smile ."
)


def flickr(folder: Path, xml: str = XML, sentence: str = SENTENCE) -> Path:
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "Annotations" / "1.xml").write_text(xml)
    (folder / "Sentences" / "1.txt").write_text(sentence + "\n[/EN#12/scene A park] .\n")
    (folder / "val.txt").write_text("1\n")
    return folder


def test_flickr30k_chains_names_and_boxes(tmp_path: Path) -> None:
    """An object with two names counts for both chains, two objects with one name are two boxes of it; scenes
    and chain 0 are not asked, and a sentence without any box is no item."""
    items = read("flickr30k", flickr(tmp_path), "phrase_grounding")
    assert [i.item_id for i in items] == ["1_0"]
    assert items[0].expression == "two men, one man"
    assert [(p.phrase, p.group, p.boxes) for p in items[0].phrases] == [
        ("Two men", "people", ((0, 1, 50, 60), (100, 1, 150, 60))),
        ("one man", "people/other", ((0, 1, 50, 60),)),
    ]
    assert (items[0].width, items[0].height) == (500, 375)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation>", r"1.xml: not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + XML, r"1.xml: found a DOCTYPE, expected plain XML"),
        (XML.replace("<xmin>0", "<xmin>a"), r"1.xml: object 0: xmin: found 'a', expected a whole number"),
        (XML.replace("<xmin>0", "<xmin>60"), r"1.xml: object 0: found \[60, 1, 50, 60\]"),
        (XML.replace("<size>", "<s>").replace("</size>", "</s>"), r"1.xml: width: found ''"),
    ],
)
def test_wrong_xml(tmp_path: Path, xml: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_boxes(flickr(tmp_path, xml) / "Annotations" / "1.xml")


def test_sentences() -> None:
    assert read_phrases("no phrase .", "f:1") == []
    assert read_phrases("[/EN#3/other a t-shirt , blue]", "f:1") == [("3", "other", "a t-shirt , blue")]
    with pytest.raises(DataError, match=r"f:1: found '\[/EN#3/other a shirt'"):
        read_phrases("[/EN#3/other a shirt", "f:1")


def test_flickr30k_of_mdetr(tmp_path: Path) -> None:
    """One annotation may carry the spans of two phrases; "man" twice are two phrases; sizes are texts; a
    merged file is named.
    """
    data = {
        "images": [{"id": 0, "file_name": "1.jpg", "height": "375", "width": "500",
        "caption": "a man and a man", "dataset_name": "flickr",
                    "tokens_negative": [[0, 15]], "sentence_id": 0, "original_img_id": 1,
                    "tokens_positive_eval": [[[0, 5]], [[10, 15]]]}],
        "annotations": [
            {"id": 0, "image_id": 0, "bbox": [0, 0, 10, 10], "tokens_positive": [[0, 5], [10, 15]],
                "category_id": 1, "area": 1, "iscrowd": 0},
            {"id": 1, "image_id": 0, "bbox": [20, 0, 10, 10], "tokens_positive": [[10, 15]], "category_id": 1,
                "area": 1, "iscrowd": 0},
        ],
        "categories": [],
    }  # fmt: skip
    path = tmp_path / "final_flickr_mergedGT_val.json"
    path.write_text(json.dumps(data))
    items, notes = both("flickr30k_mdetr", path, "phrase_grounding")
    assert [(p.phrase, p.boxes) for p in items[0].phrases] == [
        ("a man", ((0, 0, 10, 10),)),
        ("a man", ((0, 0, 10, 10), (20, 0, 30, 10))),
    ]
    assert "r1_any equals r1_merged" in notes[0]
    data["annotations"] = []
    path.write_text(json.dumps(data))
    with pytest.raises(
        DataError, match=r"images\[0\].tokens_positive_eval\[0\]: found the phrase 'a man' without a box"
    ):
        read("flickr30k_mdetr", path, "phrase_grounding")


# --- the rest -------------------------------------------------------------------------------------


def test_humanref_domains(tmp_path: Path) -> None:
    Image.new("L", (9, 8)).save(tmp_path / "a.png")
    row = {
        "id": "1",
        "image_name": "a.png",
        "referring": "x",
        "domain": "position",
        "sub_domain": "inner/position",
        "answer_boxes": [[0, 0, 1, 1]],
    }
    rejected = {**row, "id": "2", "domain": "rejection", "sub_domain": "rejection", "answer_boxes": []}
    path = jsonl(tmp_path, row, rejected)
    assert [(i.group, i.gt_boxes) for i in read("humanref", path, "many_boxes", images=str(tmp_path))] == [
        ("position/inner position", ((0, 0, 1, 1),)),
        ("rejection", ()),
    ]
    assert [i.item_id for i in read("humanref", path, "absent_rec", images=str(tmp_path))] == ["2"]
    with pytest.raises(DataError, match=r"found domain 'position' with 0 boxes"):
        read("humanref", jsonl(tmp_path, {**row, "answer_boxes": []}), "many_boxes", images=str(tmp_path))


def test_grefcoco_mixes_no_targets(forms: Path) -> None:
    folder = forms / "grefcoco"
    edit(folder / "grefs(unc).json", lambda refs: refs[0].update(ann_id=[-1, 3]))
    with pytest.raises(DataError, match=r"ann_id: found \[-1, 3\], expected \[-1\] alone, or annotation ids"):
        read("grefcoco", folder, "many_boxes")


def test_pope_labels(tmp_path: Path) -> None:
    Image.new("L", (9, 8)).save(tmp_path / "a.png")
    row = {"question_id": 1, "image": "a.png", "text": "Is there a dog?", "label": "Yes"}
    with pytest.raises(DataError, match=r"rows.jsonl:1.label: found 'Yes', expected 'yes' or 'no'"):
        read("pope", jsonl(tmp_path, row), "pope", images=str(tmp_path))


def test_lvis_offers_the_wrong_name_first_every_second_time(tmp_path: Path) -> None:
    row = {
        "id": 1, "image_path": "a.jpg", "name": "bow_(weapon)", "synonyms": ["bow_(weapon)", "long_bow"],
        "neg_class": "dog", "width": 200, "height": 100, "bbox_norm": [0, 0, 0.5, 0.5],
    }  # fmt: skip
    items = read("ferret_lvis", jsonl(tmp_path, row, {**row, "id": 2}), "region_choice")
    assert [i.choices for i in items] == [("bow_(weapon)", "dog"), ("dog", "bow_(weapon)")]
    assert (items[0].region, items[0].truth) == (
        (0, 0, 100, 50),
        ("bow (weapon)", "bow", "weapon", "long bow"),
    )


def test_coco_regions_take_the_options_of_the_drawing(forms: Path) -> None:
    one = read("coco", forms / "instances.json", "region_description")
    more = read(
        "coco",
        forms / "instances.json",
        "region_description",
        reader={"min_objects": 2, "regions_per_image": 2},
    )
    assert min(len(i.gt_boxes) for i in one) >= 5
    assert len(more) > len(one)
    with pytest.raises(ConfigError, match=r"reader.regions: unknown option 'regions'"):
        read("coco", forms / "instances.json", "region_description", reader={"regions": 2})
    with pytest.raises(DataError, match=r"annotations\[0\].category_id: found 999"):
        read(
            "coco",
            edit(forms / "instances.json", lambda d: d["annotations"][0].update(category_id=999)),
            "region_classification",
        )


def test_captions_from_mdetr_files_group_by_box(forms: Path) -> None:
    """The file has an entry per expression; those of one box are the references of one caption."""
    path = forms / "finetune_refcoco_val.json"
    asked, boxes = read("mdetr", path), read("mdetr", path, "region_caption")
    assert sum(len(b.truth) for b in boxes) == len(asked)
    assert len(boxes) == len({(i.image, i.gt) for i in asked}) < len(asked)
    assert len({(b.image, b.region) for b in boxes}) == len(boxes)


def test_visual_genome_names_a_missing_picture(tmp_path: Path) -> None:
    region = {"region_id": 1, "phrase": "a dog", "x": 0, "y": 0, "width": 5, "height": 5, "image_id": 3}
    path = tmp_path / "region_descriptions.json"
    path.write_text(json.dumps([{"id": 3, "regions": [region]}]))
    with pytest.raises(DataError, match=r"region_descriptions.json\[0\]: found no image .*/3.jpg"):
        read("visual_genome", path, "region_caption", images=str(tmp_path), check_images=True)


@pytest.mark.parametrize(
    "form",
    [
        "mdetr",
        "qwen_jsonl",
        "refer",
        "flickr30k",
        "grefcoco",
        "humanref",
        "pope",
        "coco",
        "regions_json",
        "ref_l4",
    ],
)
def test_a_missing_file_is_named(form: str, tmp_path: Path) -> None:
    protocol = {"flickr30k": "phrase_grounding", "coco": "region_classification"}.get(form, "rec")
    with pytest.raises(DataError, match="nowhere"):
        read(form, tmp_path / "nowhere", protocol)


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("regions_json", "[{", r"file:1:3: not valid JSON"),
        ("regions_json", "{}", r"file: found dict, expected a JSON list"),
        ("regions_json", "[1]", r"file\[0\]: found 1, expected an object"),
        (
            "regions_json",
            '[{"image": "a", "width": 9, "height": 9, "objects": 3}]',
            r"\[0\].objects: found 3, expected a list",
        ),
        ("mdetr", "[]", r"file: found \[\], expected an object"),
        ("coco", "[]", r"file: found list, expected an object with images"),
        (
            "coco",
            '{"images": [{"id": 1}], "annotations": [], "categories": []}',
            r"images\[0\]: found keys \['id'\], expected 'width' among them",
        ),
        ("coco", '{"images": [], "annotations": [], "categories": []}', r"file: found no item for"),
        ("qwen_jsonl", "{", r"file:1: not valid JSON"),
        ("qwen_jsonl", '["a"]', r"file:1: found \['a'\], expected an object"),
    ],
)
def test_broken_files_are_one_line(form: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as found:
        read(
            form,
            path,
            {"regions_json": "region_description", "coco": "region_classification"}.get(form, "rec"),
        )
    assert "\n" not in str(found.value)


def test_annotations_of_no_image_are_refused(forms: Path) -> None:
    with pytest.raises(
        DataError, match=r"annotations: found image_id 0, expected the id of an image of the file"
    ):
        read("coco", edit(forms / "instances.json", lambda d: d["images"].pop(0)), "region_classification")


def test_lvis_names_its_files_by_url(tmp_path: Path) -> None:
    data = {
        "images": [
            {
                "id": 1,
                "coco_url": "http://images.cocodataset.org/val2017/000000397133.jpg",
                "width": 9,
                "height": 9,
            }
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "bow_(weapon)", "synonyms": ["long_bow"]}],
    }
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(data))
    item = read("coco", path, "region_classification", images="/coco")[0]
    assert (item.image, item.truth) == ("/coco/val2017/000000397133.jpg", ("bow", "long bow"))


def test_options_of_forms_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reader.text: unknown value 'row' \(did you mean 'raw'\?\)"):
        read("refer", refer_folder(tmp_path), reader={"text": "row"})
    with pytest.raises(ConfigError, match=r"reader.text: this form has no options"):
        read("qwen_jsonl", jsonl(tmp_path, {}), reader={"text": "raw"})
    with pytest.raises(ConfigError, match=r"reader.min_objects: found 'x', expected a whole number"):
        read("coco", tmp_path / "none", "region_description", reader={"min_objects": "x"})


def test_limits_and_ids(tmp_path: Path, forms: Path) -> None:
    path = forms / "finetune_refcoco_val.json"
    assert len(read("mdetr", path, limit=3)) == 3
    with pytest.raises(ConfigError, match="limit: found 0"):
        read("mdetr", path, limit=0)
    with pytest.raises(ConfigError, match="found both path and paths"):
        read("mdetr", path, paths={"a": "b"})


# --- names of images ------------------------------------------------------------------------------

NAMES = [
    "/etc/passwd", "../x.png", "a/../../x.png", "a\\..\\x.png", "C:\\x.png", "\\\\host\\x.png",
    "file:///x.png", "http://127.0.0.1:9/x.png", "s3://bucket/x.png", "zip://x.png::a.zip", "x.png::http",
    "a\0.png", "\ud800.png",
]  # fmt: skip


def renamed(value: Any, old: str, new: str) -> Any:
    """A tree with another text at every place of one."""
    if isinstance(value, dict):
        return {key: renamed(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, old, new) for inner in value]
    if isinstance(value, str) and value.startswith("{"):
        return json.dumps(renamed(json.loads(value), old, new))
    return new if value == old else value


def rename_in(file: Path, old: str, new: str) -> None:
    """The same in a file of JSON, JSON lines, or Parquet."""
    if file.suffix == ".parquet":
        rows = renamed(pq.read_table(file).to_pylist(), old, new)
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix in (".json", ".jsonl"):
        file.write_text(file.read_text().replace(json.dumps(old), json.dumps(new)))


@pytest.mark.parametrize("name", NAMES)
def test_no_form_opens_an_image_outside_its_folder(
    benchmarks: Mapping[str, BenchmarkConfig], forms: Path, name: str
) -> None:
    """A benchmark comes from a stranger: a name in it must not show a picture of the user's disk, or ask a
    server. The data reader refuses the same names.
    """
    base = Path(benchmarks["mdetr"].path).parent
    tried = 0
    for section in benchmarks.values():
        if section.format in ("flickr30k", "visual_genome"):
            continue  # names of their own: a number, or a line of the listing
        files = [forms / Path(p).relative_to(base) for p in (section.path, *section.paths.values()) if p]
        folders = [file if file.is_dir() else file.parent for file in files]
        inside = [f for folder in folders for f in folder.iterdir() if f.is_file()] if folders else []
        if name == "\ud800.png" and any(file.suffix == ".parquet" for file in files):
            continue  # Parquet cannot hold it
        for file in inside:
            rename_in(file, image_name(0), name)
        changed = dataclasses.replace(
            section,
            path=str(files[0]) if section.path else "",
            paths={split: str(file) for split, file in zip(section.paths, files, strict=False)},
            check_images=False,
        )
        with pytest.raises(DataError, match=r"image name|file_name|a text|expected UTF-8"):
            read_benchmark(changed, lambda path: (224, 224))
        tried += 1
    assert tried >= 10


def test_a_listing_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    flickr(tmp_path)
    (tmp_path / "val.txt").write_text("../../secret\n")
    with pytest.raises(DataError, match="image name"):
        read("flickr30k", tmp_path, "phrase_grounding")


# --- values of another type -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("coco", {"images": [], "categories": [], "annotations": ["x"]}),
        ("coco", {"images": [], "categories": [{"id": 1, "name": "a", "synonyms": 5}], "annotations": []}),
        ("coco", {"images": [{"id": [], "file_name": "a", "width": 1, "height": 1}], "categories": [],
                  "annotations": []}),
        ("mdetr", {"images": [], "annotations": [{"image_id": {}}]}),
        ("visual_genome", [{"id": 10**30, "regions": [1]}]),
        ("regions_json", [{"image": "a", "width": 10**30, "height": 1, "box": [0, 0, 1, 1], "objects": []}]),
    ],
)  # fmt: skip
def test_values_of_another_type_are_one_line(tmp_path: Path, form: str, value: object) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"a\.json.*(expected|found)"):
        read(form, file, "region_caption")


@pytest.mark.parametrize("ids", [[[1]], "x", {"a": 1}, [None], [1.5]])
def test_grefcoco_ids_are_numbers(forms: Path, ids: object) -> None:
    def change(refs: list[dict[str, Any]]) -> None:
        for ref in refs:
            ref["ann_id"] = ids

    edit(forms / "grefcoco" / "grefs(unc).json", change)
    with pytest.raises(DataError, match="ann_id"):
        read("grefcoco", forms / "grefcoco", "many_boxes")


@pytest.mark.parametrize("data", [b"caf\xe9", b"\xff\xfe{\x00}\x00", b"[" * 100_000, b"9" * 5000])
@pytest.mark.parametrize("form", ["qwen_jsonl", "mdetr", "coco"])
def test_another_encoding_or_no_end_is_one_line(tmp_path: Path, form: str, data: bytes) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.json.*(not UTF-8|not valid JSON)"):
        read(form, file)

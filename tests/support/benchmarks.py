"""The embedded world in every published benchmark form, so that the path file -> questions -> answers ->
metrics runs without a download.

In: a folder with the world's images, the objects of its scenes, an empty folder. Out: files in the forms of
`spr.evaluation.readers`, and the benchmark sections that ask them. What is written is what the publishers
write, field by field.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from spr.evaluation.config import BenchmarkConfig
from spr.scenes.files import CATEGORY, image_name
from spr.scenes.language import Part, description
from spr.scenes.world import NOUNS
from spr.types import Box
from tests.support.benchmark_forms import (
    SIZE,
    SPLIT,
    Rows,
    World,
    annotation_ids,
    instances,
    write_hf,
    write_json,
    write_jsonl,
    write_lines,
    write_mdetr,
    write_refer,
    xywh,
)

# Flickr30k's types for the nouns in order
_KINDS = (("animals", 24), ("other", 40), ("vehicles", 50), ("other", len(NOUNS)))

# --- phrases, many boxes, absent objects ----------------------------------------------------------


def _sentence(world: World, index: int) -> list[Part]:
    return description(world.scenes[index])


def _kind(phrase: str) -> str:
    place = list(NOUNS).index(phrase.split(" ", 1)[1])
    return next(kind for kind, end in _KINDS if place < end)


def _xml(objects: Sequence[tuple[str, Box | None]], name: str) -> str:
    rows = []
    for chain, box in objects:
        inner = "<scene>1</scene><nobndbox>1</nobndbox>"
        if box is not None:
            corners = "".join(
                f"<{tag}>{round(v)}</{tag}>"
                for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            inner = f"<bndbox>{corners}</bndbox>"
        rows.append(f"<object><name>{escape(chain)}</name>{inner}</object>")
    size = f"<size><width>{SIZE}</width><height>{SIZE}</height><depth>3</depth></size>"
    return f"<annotation><filename>{escape(name)}</filename>{size}{''.join(rows)}</annotation>"


def write_flickr30k(world: World, out: Path) -> tuple[Path, Path]:
    """The text and XML files of Flickr30k Entities, and MDETR's final_flickr_separateGT_val.json of the same
    sentences.
    """
    root = out / "flickr30k"
    images: Rows = []
    annotations: Rows = []
    for folder in ("Sentences", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(len(world.scenes)):
        marked, plain = "[/EN#0/notvisual Here] : ", ""
        spans: list[tuple[int, int]] = []
        objects: list[tuple[str, Box]] = []
        for part in _sentence(world, i):
            words = part if isinstance(part, str) else part[0]
            if not isinstance(part, str):
                chain = str(100 * i + len(objects) + 1)
                marked += f"[/EN#{chain}/{_kind(words)} {words}]"
                spans.append((len(plain), len(plain) + len(words)))
                objects.append((chain, part[1]))
            else:
                marked += words
            plain += words
        stem = image_name(i).removesuffix(".jpg")
        (root / "Sentences" / f"{stem}.txt").write_text(marked + "\n", encoding="utf-8")
        (root / "Annotations" / f"{stem}.xml").write_text(
            _xml([*objects, ("0", None)], image_name(i)), encoding="utf-8"
        )
        images.append(
            {
                "file_name": image_name(i),
                "height": str(SIZE),
                "width": str(SIZE),
                "id": i,
                "caption": plain,
                "dataset_name": "flickr",
                "tokens_negative": [[0, len(plain)]],
                "sentence_id": 0,
                "original_img_id": i,
                "tokens_positive_eval": [[list(span)] for span in spans],
            }
        )
        annotations += [
            {
                "id": 0,
                "image_id": i,
                "category_id": 1,
                "bbox": xywh(box),
                "area": 1.0,
                "iscrowd": 0,
                "tokens_positive": [list(span)],
            }
            for span, (_, box) in zip(spans, objects, strict=True)
        ]
    names = [image_name(i).removesuffix(".jpg") for i in range(len(world.scenes))]
    (root / f"{SPLIT}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    path = out / "final_flickr_separateGT_val.json"
    write_json(
        path,
        {
            "info": [],
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "object"}],
        },
    )
    return root, path


def write_many(world: World, out: Path) -> tuple[Path, Path]:
    """HumanRef's annotations.jsonl and gRefCOCO's folder: all objects of a noun, and nouns that are not
    there.
    """
    humanref: Rows = []
    grefs: Rows = []
    ids = annotation_ids(world)
    for i, objects in enumerate(world.scenes):
        kinds = {o.noun: [x for x in objects if x.noun == o.noun] for o in objects}
        for noun, members in [*kinds.items(), *((n, []) for n in world.absent(i, 1))]:
            boxes = [list(o.box) for o in members]
            domain = "attribute" if boxes else "rejection"
            text = f"the {noun}"
            humanref.append(
                {
                    "id": len(humanref),
                    "image_name": image_name(i),
                    "referring": text,
                    "domain": domain,
                    "sub_domain": f"{domain}_plain",
                    "answer_boxes": boxes,
                    "candidate_boxes": [list(o.box) for o in objects],
                }
            )
            grefs.append(
                {
                    "ref_id": len(grefs),
                    "ann_id": [ids[i, o.box] for o in members] or [-1],
                    "category_id": [CATEGORY[o.noun] for o in members] or [-1],
                    "image_id": i,
                    "split": SPLIT,
                    "sentences": [{"raw": text, "sent": text, "sent_id": 0, "tokens": text.split()}],
                    "sent_ids": [0],
                    "file_name": f"{i:06d}_0.jpg",
                    "no_target": not boxes,
                }
            )
    write_lines(out / "humanref" / "annotations.jsonl", humanref)
    write_json(out / "grefcoco" / "grefs(unc).json", grefs)
    write_json(out / "grefcoco" / "instances.json", instances(world))
    return out / "humanref" / "annotations.jsonl", out / "grefcoco"


# --- questions about boxes and images -------------------------------------------------------------


def write_lvis(world: World, out: Path) -> Path:
    """Ferret's lvis_eval.jsonl."""
    rows: Rows = []
    for i, objects in enumerate(world.scenes):
        for o, other in zip(objects, world.absent(i, len(objects)), strict=True):
            unit = [v / SIZE for v in o.box]
            rows.append(
                {
                    "id": len(rows),
                    "image_path": image_name(i),
                    "name": o.noun,
                    "synonyms": [o.noun],
                    "neg_class": other,
                    "bbox": xywh(o.box),
                    "bbox_norm": unit,
                    "width": SIZE,
                    "height": SIZE,
                    "sample_point": [round((o.box[0] + o.box[2]) / 2), round((o.box[1] + o.box[3]) / 2)],
                }
            )
    write_lines(out / "lvis_eval.jsonl", rows)
    return out / "lvis_eval.jsonl"


def write_visual_genome(world: World, out: Path) -> Path:
    """region_descriptions.json; its pictures are named by number alone, so they are written again
    beside it.
    """
    rows: Rows = []
    region = 0
    folder = out / "visual_genome" / "VG_100K"
    folder.mkdir(parents=True, exist_ok=True)
    for i, objects in enumerate(world.scenes):
        (folder / f"{i + 1}.jpg").write_bytes((world.images / image_name(i)).read_bytes())
        regions: Rows = []
        for o in objects:
            x, y, w, h = (round(v) for v in xywh(o.box))
            regions.append(
                {
                    "region_id": region,
                    "image_id": i + 1,
                    "phrase": f"a {o.noun}",
                    "x": x,
                    "y": y,
                    "width": w,
                    "height": h,
                }
            )
            region += 1
        rows.append({"id": i + 1, "regions": regions})
    write_json(out / "visual_genome" / "region_descriptions.json", rows)
    return out / "visual_genome" / "region_descriptions.json"


def write_pope(world: World, out: Path) -> dict[str, Path]:
    """coco_pope_{random,popular,adversarial}.json: as many nouns that are there as that are not."""
    paths = {}
    for k, subset in enumerate(("random", "popular", "adversarial")):
        rows: Rows = []
        for i, objects in enumerate(world.scenes):
            here = list(dict.fromkeys(o.noun for o in objects))[:2]
            for noun, label in [
                *((n, "yes") for n in here),
                *((n, "no") for n in world.absent(i, 2 + k)[k : k + len(here)]),
            ]:
                text = f"Is there a {noun} in the image?"
                rows.append(
                    {"question_id": len(rows) + 1, "image": image_name(i), "text": text, "label": label}
                )
        paths[subset] = out / f"coco_pope_{subset}.json"
        write_lines(paths[subset], rows)
    return paths


def write_benchmarks(world: World, out: Path) -> tuple[BenchmarkConfig, ...]:
    """All forms, and the sections that ask them, one per form and protocol."""
    refcoco, refcocog = write_refer(world, out), write_refer(world, out, "refcocog")
    qwen, shikra = write_jsonl(world, out)
    entities, flickr_json = write_flickr30k(world, out)
    humanref, grefcoco = write_many(world, out)
    write_json(out / "instances.json", instances(world))

    def section(
        name: str, protocol: str, form: str, path: Path, images: Path = world.images
    ) -> BenchmarkConfig:
        return BenchmarkConfig(name, protocol, form, str(path), images=str(images), split=SPLIT)

    sections = [
        section("refer", "rec", "refer", refcoco),
        section("mdetr", "rec", "mdetr", write_mdetr(world, out)),
        section("qwen", "rec", "qwen_jsonl", qwen),
        section("shikra", "rec", "shikra_jsonl", shikra),
        *(
            section(
                n, "rec", n, p, out / n / "pictures" if n in ("lmms_refcoco", "refcoco_m") else world.images
            )
            for n, p in write_hf(world, out).items()
        ),
        section("flickr30k", "phrase_grounding", "flickr30k", entities),
        section("flickr30k_mdetr", "phrase_grounding", "flickr30k_mdetr", flickr_json),
        section("humanref", "many_boxes", "humanref", humanref),
        section("grefcoco", "many_boxes", "grefcoco", grefcoco),
        section("absent", "absent_rec", "grefcoco", grefcoco),
        section("refcocog_captions", "region_caption", "refer", refcocog),
        section(
            "vg_captions",
            "region_caption",
            "visual_genome",
            write_visual_genome(world, out),
            out / "visual_genome",
        ),
        section("objects", "region_classification", "coco", out / "instances.json"),
        section("regions", "region_description", "coco", out / "instances.json"),
        section("lvis", "region_choice", "ferret_lvis", write_lvis(world, out)),
        BenchmarkConfig(
            "pope",
            "pope",
            "pope",
            paths={k: str(p) for k, p in write_pope(world, out).items()},
            images=str(world.images),
        ),
    ]
    return tuple(sections)

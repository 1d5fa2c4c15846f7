"""Pascal VOC: a folder with one XML file per image.

Convention: xmin, ymin, xmax, ymax are pixels counted from 1, both inclusive (VOC devkit), so x1 = xmin - 1,
x2 = xmax. Tools that count from 0 are thereby off by one pixel at the left and top. `difficult` is kept as a
column (such objects are used). The image is `filename`, in the same folder below the image root as its XML
file is below the annotations.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from xml.etree import ElementTree

from spr.data.files import Source, parse_xml
from spr.data.spool import NOT_A_BOX, Spool
from spr.errors import DataError
from spr.types import Box


def read_voc(source: Source, spool: Spool, progress: Callable[[int], object]) -> None:
    """Pour the XML files into the spool. One that is not XML is set aside as unreadable_annotation."""
    for file in source.files(".xml"):
        name = file or posixpath.basename(source.path)
        try:
            root = parse_xml(source.read(file))
        except DataError as e:
            spool.reject(name, "unreadable_annotation", e)
            continue
        image = spool.key_of(name)
        filename = (root.findtext("filename") or "").strip()
        path = posixpath.join(posixpath.dirname(file), filename) if filename else None
        spool.image(image, path, *(_number(root.findtext(f"size/{side}")) for side in ("width", "height")))
        objects = root.findall("object")
        for element in objects:
            category = (element.findtext("name") or "").strip() or spool.key_of("")
            spool.box(
                image,
                category,
                _box(element),
                difficult=(element.findtext("difficult") or "0").strip() == "1",
            )
        progress(len(objects))


def _box(element: ElementTree.Element) -> Box:
    values = [_number(element.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax")]
    x1, y1, x2, y2 = (float("nan") if v is None else v for v in values)
    return NOT_A_BOX if None in values else (x1 - 1.0, y1 - 1.0, x2, y2)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) < 1e9 else None

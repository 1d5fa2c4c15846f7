"""Which images of an index are looked at, however it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from spr.data import query
from spr.run.reading import ChosenImages
from spr.stages.regions import RegionsConfig
from tests.unit.data.worlds import box, coco, image, index


@pytest.mark.parametrize("where", ["", "objects > 0", "image_id IN (SELECT image_id FROM annotations)"])
@pytest.mark.parametrize("most", [5, 12, None])
def test_images_are_chosen_part_by_part_as_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, most: int | None
) -> None:
    """Image n has n % 4 objects, one of them a crowd where n is odd; regions need two. 1.7 million names were
    all Python strings at once.
    """
    boxes = [(n, k) for n in range(40) for k in range(n % 4)]
    annotations = [box(i, n, (1, 1, 9, 9), iscrowd=int(k == 0 and n % 2)) for i, (n, k) in enumerate(boxes)]
    found = index(coco(tmp_path, [image(n) for n in range(40)], annotations), tmp_path / "index")[1]
    config = RegionsConfig(min_objects=2, max_images=most)

    def chosen(part: int) -> list[str]:
        monkeypatch.setattr(query, "PART", part)
        images = ChosenImages(found, where, config, 7)
        return [i.image_id for a in range(len(images)) for i in images.batch(a, a + 1)()]

    whole = chosen(1000)
    assert chosen(1) == chosen(7) == whole == sorted(whole)
    everything = [i.image_id for i in found.images(where)]
    assert [i.image_id for i in found.images(where, most)] == everything[:most]
    able = {f"{n}.png" for n in range(40) if n % 4 >= 2 + n % 2}
    assert len(able) == 20
    assert len(whole) == (most or len(everything))
    assert set(whole) <= able if most else set(whole) >= able


def test_no_image_is_no_item(tmp_path: Path) -> None:
    found = index(coco(tmp_path, [image(1)], [box(1, 1, (1, 1, 9, 9))]), tmp_path / "index")[1]
    assert len(ChosenImages(found, "objects > 1", RegionsConfig(), 0)) == 0

"""Adapter + base -> a plain checkpoint, for engines and tools that take no adapter.

In: the base's folder and the adapter's. Out: a folder with merged weights in the base's own dtype and its
processor.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spr.errors import DataError
from spr.models.loading import load_mllm, quiet_peft, read_config, save_checkpoint
from spr.store.files import check_empty, whole
from spr.types import Checkpoint


def merge_adapter(model: str | Checkpoint, adapter_folder: str, out: str) -> None:
    """Write the merged checkpoint to `out`. The sum is made in float32 and rounded once, to the dtype that
    the base is stored in. Changed settings of the image processor are in the merged checkpoint, too.

    Raises DataError when `adapter_folder` holds no adapter, or `out` is not empty.
    """
    from peft import PeftModel

    check_empty(out)
    if not (Path(adapter_folder) / "adapter_config.json").is_file():
        raise DataError(
            f"{adapter_folder}: found no adapter_config.json, expected a finished PEFT adapter (run `spr "
            "train` first)"
        )
    checkpoint = replace(Checkpoint.of(model), dtype="float32", attention="sdpa")
    stored = read_config(checkpoint).dtype
    base, processor = load_mllm(checkpoint)
    with quiet_peft():
        merged = PeftModel.from_pretrained(base, adapter_folder).merge_and_unload()
    if stored is not None:
        merged = merged.to(stored)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as folder:
        save_checkpoint(merged, processor, folder)

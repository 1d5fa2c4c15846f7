"""Adapter + base -> a plain checkpoint, for engines and tools that take no adapter.

In: the base's folder and the adapter's. Out: a folder with merged weights in the base's own dtype and its processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spr.errors import DataError
from spr.models.loading import load_mllm, quiet_peft, read_config, save_checkpoint


def merge_adapter(
    model_folder: str, adapter_folder: str, out: str, trust_remote_code: bool = False, processor_changes: Mapping[str, Any] | None = None
) -> None:
    """Write the merged checkpoint to `out`. The sum is made in float32 and rounded once, to the dtype that the base is stored in.
    `processor_changes`: settings of the image processor that replace the base's, also in the merged checkpoint.

    Raises DataError when `adapter_folder` holds no adapter.
    """
    from peft import PeftModel

    if not (Path(adapter_folder) / "adapter_config.json").is_file():
        raise DataError(f"{adapter_folder}: found no adapter_config.json, expected a finished PEFT adapter (run `spr train` first)")
    stored = read_config(model_folder, trust_remote_code).dtype
    model, processor = load_mllm(model_folder, trust_remote_code=trust_remote_code, processor_changes=processor_changes)
    with quiet_peft():
        merged = PeftModel.from_pretrained(model, adapter_folder).merge_and_unload()
    if stored is not None:
        merged = merged.to(stored)
    save_checkpoint(merged, processor, out)

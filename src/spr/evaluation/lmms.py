"""Results in the form of lmms-eval's `results.json`, so that tables which people already make can take ours
in.

In: the metrics.json of one model on several benchmarks. Out: the mapping that lmms-eval 0.7 writes per model
("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", …). REC under
its default counting has lmms-eval's own names (refcoco_IoU, refcoco_ACC@0.5); every other metric keeps ours.
The numbers are ours: lmms-eval turns an unread answer into a zero box and neither clips nor sorts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spr import __version__

_SMALLER_IS_BETTER = ("false_box_rate", "boxes_outside", "words_outside_per_answer")
_NEITHER = ("boxes_per_answer", "words_per_answer", "objects_per_region", "said_yes")


def _name(metric: str, metrics: Mapping[str, Any]) -> str:
    options = metrics["options"]
    plain = metrics["protocol"] == "rec" and (options["comparison"], options["overlap"], options["box"]) == (
        ">=",
        "iou",
        "first",
    )
    if plain and metric.startswith("acc@"):
        return "refcoco_ACC@" + metric.removeprefix("acc@")
    return "refcoco_IoU" if plain and metric == "mean_iou" else metric


def _task(alias: str, values: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"alias": alias}
    for metric, estimate in values.items():
        name = _name(metric, metrics)
        row[f"{name},none"] = "N/A" if estimate["value"] is None else estimate["value"]
        row[f"{name}_stderr,none"] = "N/A" if estimate["error"] is None else estimate["error"]
    return row


def lmms_results(model: str, benchmarks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One model's results. A task per benchmark, or per split (`<benchmark>_<split>`) where there are
    splits.
    """
    tasks: dict[str, dict[str, Any]] = {}
    about: dict[str, Mapping[str, Any]] = {}
    counts: dict[str, int] = {}
    for benchmark, metrics in benchmarks.items():
        for split, part in (metrics["splits"] or {"": metrics}).items():
            name = f"{benchmark}_{split}" if split else benchmark
            tasks[name], about[name], counts[name] = (
                _task(name, part["values"], metrics),
                metrics,
                int(part["n"]),
            )
    return {
        "results": tasks,
        "group_subtasks": {name: [] for name in tasks},
        "configs": {
            name: {"task": name, "metadata": {"protocol": m["protocol"], "options": m["options"]}}
            for name, m in about.items()
        },
        "versions": dict.fromkeys(tasks, f"spr {__version__}"),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {
            name: {_name(k, m): k not in _SMALLER_IS_BETTER for k in m["values"] if k not in _NEITHER}
            for name, m in about.items()
        },
        "n-samples": {name: {"original": n, "effective": n} for name, n in counts.items()},
        "config": {"model": model},
        "model_name": model,
    }

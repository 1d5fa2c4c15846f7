"""From rows to metrics.json and comparison.json. Nothing but predictions and options goes in, so anybody can
recompute the numbers.

    metrics.json      n, unparsed, failed, cut, images, problems, details (what the problems are); values:
                      {metric: {value, low, high, error}} over all items; splits and groups:
                      {name: {n, unparsed, images, values}}; mean_over_splits: {metric: …}, the unweighted
                      mean, when there are several splits
    comparison.json   reference; models: {model: {differences: {metric: {value, low, high, error,
                      significant}}, splits: {split: {metric: …}},
                      mean_over_splits, changed: {metric: {to_right: [item ids], to_wrong: [item ids]}}}};
                      left_out: models measured earlier on other items

A split is a set of its own: metrics with weights from the evaluated set (CIDEr) take them from the split. A
row of several groups ("people/other") counts in each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from spr.errors import DataError
from spr.evaluation.protocols.base import FAILED, Protocol, failed
from spr.evaluation.statistics import Bootstrap, Estimate, Mask, Part, Table
from spr.types import Prediction

BASE = "base"  # the user's model without an adapter, the reference of comparisons


def _numbers(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(e) for name, e in estimates.items()}


def _answers_with(problems: Iterable[Iterable[str]]) -> dict[str, int]:
    """In how many answers each problem stands, from the problems of each answer."""
    return dict(sorted(Counter(p for of_one in problems for p in set(of_one)).items()))


def _masks(rows: Sequence[Prediction], field: str) -> dict[str, Mask]:
    """Which rows belong to each split or group; nothing when there are no names."""
    values = [
        [v for v in str(getattr(r, field)).split("/") if v] if field == "group" else [str(getattr(r, field))]
        for r in rows
    ]
    names = sorted({v for vs in values for v in vs if v})
    return {name: np.array([name in vs for vs in values], dtype=bool) for name in names}


def _chosen(rows: Sequence[Prediction], mask: Mask) -> list[Prediction]:
    return [r for r, keep in zip(rows, mask, strict=True) if keep]


def _part(rows: Sequence[Prediction], whole: Table, protocol: Protocol, options: Any, mask: Mask) -> Part:
    """The table of some of the rows: cut from that of all, or made anew where the set has a say."""
    return (
        protocol.tabulate(_chosen(rows, mask), options) if protocol.weighs_the_set else whole.only(mask)
    ), mask


def _counts(rows: Sequence[Prediction], protocol: Protocol, options: Any) -> dict[str, int]:
    return {
        "n": len(rows),
        "unparsed": sum(not protocol.reads(r, options) for r in rows),
        "images": len({r.image for r in rows}),
    }


def measure(
    rows: Sequence[Prediction], protocol: Protocol, options: Any, bootstrap: int, seed: int
) -> dict[str, Any]:
    """Everything that metrics.json says about some rows."""
    draws = Bootstrap([r.image for r in rows], bootstrap, seed)
    everything = np.ones(len(rows), dtype=bool)

    whole = protocol.tabulate(rows, options)

    def table(mask: Mask) -> Part:
        return _part(rows, whole, protocol, options, mask)

    def part(mask: Mask) -> dict[str, Any]:
        return {
            **_counts(_chosen(rows, mask), protocol, options),
            "values": _numbers(draws.estimates([table(mask)])),
        }

    splits = _masks(rows, "split")
    result = {
        "protocol": protocol.name,
        "options": asdict(options),
        **part(everything),
        "failed": sum(failed(r) for r in rows),
        "cut": sum("cut" in r.problems for r in rows),
        "problems": _answers_with([p.partition(":")[0] for p in r.problems] for r in rows),
        "details": _answers_with([p for p in r.problems if not p.startswith(FAILED)] for r in rows),
        "splits": {name: part(mask) for name, mask in splits.items()},
        "groups": {name: part(mask) for name, mask in _masks(rows, "group").items()},
        "bootstrap": {"resamples": bootstrap, "unit": "image", "interval": 0.95, "seed": seed},
    }
    if len(splits) > 1:
        result["mean_over_splits"] = _numbers(draws.estimates([table(mask) for mask in splits.values()]))
    return result


def compare(
    rows: Mapping[str, Sequence[Prediction]], protocol: Protocol, options: Any, bootstrap: int, seed: int
) -> dict[str, Any]:
    """Every model against the reference: the base model where there is one, else the first. Raises DataError
    when their items differ.
    """
    reference = BASE if BASE in rows else next(iter(rows))
    base = rows[reference]
    ids = [r.item_id for r in base]
    draws = Bootstrap([r.image for r in base], bootstrap, seed)
    masks = _masks(base, "split")
    everything = np.ones(len(base), dtype=bool)
    before = protocol.tabulate(base, options)
    models: dict[str, Any] = {}
    for model, theirs in rows.items():
        if model == reference:
            continue
        if [r.item_id for r in theirs] != ids:
            raise DataError(
                f"{model}: found other items than those of {reference}, expected the same items in the "
                "same order"
            )

        after = protocol.tabulate(theirs, options)

        def differences(
            chosen: Sequence[Mask], theirs: Sequence[Prediction] = theirs, after: Table = after
        ) -> dict[str, Any]:
            ours = [_part(theirs, after, protocol, options, m) for m in chosen]
            return _differences(
                draws.differences(ours, [_part(base, before, protocol, options, m) for m in chosen])
            )

        models[model] = {
            "differences": differences([everything]),
            "splits": {name: differences([m]) for name, m in masks.items()},
            "changed": changed(before, after, ids),
        }
        if len(masks) > 1:
            models[model]["mean_over_splits"] = differences(list(masks.values()))
    about = {
        "reference": reference,
        "protocol": protocol.name,
        "options": asdict(options),
        "n": len(base),
        "images": len({r.image for r in base}),
    }
    return {
        **about,
        "models": models,
        "bootstrap": {"resamples": bootstrap, "unit": "image", "interval": 0.95, "seed": seed},
    }


def _differences(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {
            **asdict(e),
            "significant": e.low is not None and e.high is not None and not e.low <= 0 <= e.high,
        }
        for name, e in found.items()
    }


def changed(before: Table, after: Table, ids: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Per metric of right and wrong: the items that turned right, and those that turned wrong."""
    found = {}
    for name, was in before.right.items():
        now = after.right[name]
        found[name] = {
            "to_right": [i for i, a, b in zip(ids, was, now, strict=True) if b and not a],
            "to_wrong": [i for i, a, b in zip(ids, was, now, strict=True) if a and not b],
        }
    return found

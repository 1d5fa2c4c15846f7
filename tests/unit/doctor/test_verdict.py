"""The verdict on simulated answers: a planted fault is never "fine", and the line of YAML that is advised
cures it. docs/doctor.md has the counts over many draws (`python -m tests.support.planted`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from spr.dialects import get_dialect
from spr.doctor.readings import Reading
from spr.doctor.verdict import Finding, contract, p_better
from spr.errors import DialectError
from tests.support.planted import FAULTS, OPTIONS, Fault, answers, asked, photos, written

ADVICE = re.compile(r"set (dialect: (?:\{[^}]*\}|[\w:.]+))")
KEPT = 0.02  # the points at IoU 0.9 that a fault may cost and be called fine


def advised(finding: Finding) -> Mapping[str, Any]:
    """What the configuration's `model.dialect` becomes when somebody does as they are told."""
    line = ADVICE.search(finding.found)
    assert line is not None, finding.found
    named = yaml.safe_load(line[1])["dialect"]
    return {"base": named} if isinstance(named, str) else named


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_named_and_its_advice_cures_it(fault: Fault) -> None:
    """Exact answers about twelve photos. What no dialect can say is "look", or "wrong" where the cause is
    known (a crop); 0-999 for 0-1000 costs nothing.
    """
    draw = asked(fault, seed=3, jitter=0.0, images=12, objects=8)
    finding, cost = draw.finding, draw.cost
    if fault.shift is not None:
        assert finding.verdict == ("wrong" if "cropped" in fault.name else "look"), finding
        assert ("set processor: {do_center_crop: false}" in finding.found) == ("cropped" in fault.name)
        return
    if cost <= KEPT and not fault.name.startswith("other"):
        assert finding.verdict == "fine", finding
        return
    assert finding.verdict == "wrong", finding
    cured = replace(draw, fault=replace(fault, assumed=advised(finding)))
    assert cured.finding.verdict == "fine", (finding, cured.finding)
    assert cured.cost == pytest.approx(0, abs=KEPT), finding


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.sampled_from(["qwen3_vl", "qwen2_5_vl", "ferret"]), OPTIONS, OPTIONS, st.integers(0, 99))
def test_no_contract_taken_for_another_is_fine(
    base: str, assumed: dict[str, Any], meant: dict[str, Any], seed: int
) -> None:
    """Any two contracts of one notation: what costs more than two points at IoU 0.9 is not "fine", and
    "wrong" comes with a line that is worth following.
    """
    fault = Fault("", {"base": base, **assumed}, {"base": base, **meant})
    try:
        dialects = fault.dialects
    except DialectError:
        assume(False)
    draw = asked(fault, seed, 0.0, 12, 6)
    finding, cost = draw.finding, draw.cost
    if cost > KEPT:
        assert finding.verdict != "fine", (dialects, finding)
    if finding.verdict == "wrong":
        left = replace(draw, fault=replace(fault, assumed=advised(finding))).cost
        assert left < cost, (dialects, finding, left)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "kosmos2"])
def test_a_right_model_that_is_not_exact_is_not_called_wrong(family: str) -> None:
    """6 % off is fine; at 15 % nobody can be sure of everything, but nothing is wrong."""
    right = Fault("", {"base": family}, {"base": family})
    assert [asked(right, seed, 0.06).finding.verdict for seed in range(4)] == ["fine"] * 4
    assert "wrong" not in [asked(right, seed, 0.15).finding.verdict for seed in range(4)]


def test_too_few_answers_to_decide_are_shown_with_both_readings() -> None:
    """Six boxes of a model that is 15 % off do not tell 0-1000 from 0-1024."""
    fault = Fault("", {"base": "qwen3_vl"}, {"base": "qwen3_vl", "scale": 1024})
    finding = asked(fault, seed=0, jitter=0.15, images=3, objects=2).finding
    assert finding.verdict == "look"
    assert "0-1000 of the original image" in finding.found
    assert "They may as well be 0-" in finding.found
    assert "set dialect: {base: qwen3_vl, scale: " in finding.found


def test_boxes_that_fit_nowhere_say_nothing_about_the_frame() -> None:
    """And half of them must be good before a contract is believed: a median of 0.39 is not fine."""
    rng = np.random.default_rng(0)
    items = photos(rng, 8, 6)
    dialect = get_dialect("qwen3_vl")
    nowhere = [written(dialect, item, (0.0, 0.0, 9.0, 9.0)) for item in items]
    assert contract(dialect, {}, nowhere, items).verdict == "look"
    assert contract(dialect, {}, ["none"] * len(items), items).found.startswith("no box was read")
    right = Fault("", {"base": "kosmos2"}, {"base": "kosmos2"})
    finding = contract(get_dialect("kosmos2"), {}, answers(right, items, 0.35, rng), items)
    assert finding.verdict == "look"
    assert "reach 0.5, too few to call it right" in finding.found


def reading(ious: Sequence[float]) -> Reading:
    return Reading({"base": "x"}, "", np.zeros((len(ious), 4)), np.array(ious))


def test_the_paired_test_is_a_sign_test_with_weights() -> None:
    """Of equal differences it is the sign test, as scipy counts it; answers that two readings read alike
    have no say.
    """
    a, b = reading([0.5] * 40 + [0.9] * 60), reading([0.6] * 28 + [0.4] * 12 + [0.9] * 60)
    exact = stats.binomtest(28, 40, alternative="greater").pvalue
    assert p_better(a, b) == pytest.approx(exact, rel=0.4)
    assert p_better(b, a) == pytest.approx(1 - p_better(a, b))
    assert p_better(a, a) == 1.0
    many_small = reading([0.501] * 30 + [0.3] * 10 + [0.9] * 60)
    assert p_better(a, many_small) > 0.99

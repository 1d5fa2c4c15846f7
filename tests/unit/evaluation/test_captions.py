"""CIDEr and its tokens against the reference implementation; METEOR is refused where it cannot be
computed.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from spr.dialects import get_dialect
from spr.errors import ConfigError
from spr.evaluation.cider import cider, grams
from spr.evaluation.config import BenchmarkConfig
from spr.evaluation.meteor import meteor, require_meteor
from spr.evaluation.ptb import caption_tokens
from spr.evaluation.stage import prepare

GOLDEN = Path(__file__).parents[2] / "golden"


def test_cider_equals_pycocoevalcap_on_200_random_captions() -> None:
    """The golden scores were computed once by pycocoevalcap on the very same tokens."""
    golden = json.loads((GOLDEN / "cider.json").read_text(encoding="utf-8"))
    assert len(golden["scores"]) == 200
    assert cider(golden["captions"], golden["references"]) == pytest.approx(golden["scores"], abs=1e-6)


def test_tokens_equal_the_jars_on_5000_captions() -> None:
    golden = json.loads(gzip.decompress((GOLDEN / "ptb.json.gz").read_bytes()))
    assert len(golden["captions"]) == 5000
    wrong = [
        (c, t)
        for c, t in zip(golden["captions"], golden["tokens"], strict=True)
        if " ".join(caption_tokens(c)) != t
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A dog.", "a dog"),
        ("It isn't a man's T-shirt!", "it is n't a man 's t-shirt"),
        ("they cannot, gonna", "they can not gon na"),
        ("at 5 p.m. near St. Mary", "at 5 p.m. near st. mary"),
        ("No. 5, not no. this", "no. 5 not no this"),
        # pycocoevalcap drops upper-case names of brackets only, so these stay
        ("(left) [right]", "-lrb- left -rrb- -lsb- right -rsb-"),
        ("50% of 1,000 3.5 1/2 12:30 $5", "50 % of 1,000 3.5 1/2 12:30 $ 5"),
        ("“stop” and 'go' -- now…", "stop and go now"),
        ("don’t", "do n't"),
        ("a cat and/or dog & co", "a cat and/or dog & co"),
        ("what!? no!!", "what !? no !!"),
        ("", ""),
        (" \n\t", ""),
    ],
)
def test_tokens(text: str, tokens: str) -> None:
    assert " ".join(caption_tokens(text)) == tokens


def test_cider_by_hand() -> None:
    """Two items, one-word captions. The word stands in one of two items, so its weight is ln 2; cosine 1 for
    n = 1, nothing for n = 2 … 4; a quarter of 1, times ten. The other caption shares no word."""
    assert cider([["dog"], ["cat"]], [[["dog"]], [["bus"]]]) == pytest.approx([2.5, 0.0])


def test_cider_of_a_single_item_is_zero() -> None:
    """All weights are ln(1 / 1) = 0: a set of one says nothing, which is why shards are never averaged."""
    assert cider([["a", "dog"]], [[["a", "dog"]]]) == [0.0]


def test_cider_damps_another_length() -> None:
    """Same bigrams but three more of them: exp(-9 / 72), for every order; and the caption's counts are
    clipped to the reference's.
    """
    short, long = ["a", "b"], ["a", "b", "a", "b", "a"]
    other = [["x", "y"]]
    once = cider([long, ["x"]], [[short], other])[0]
    # n = 1: weights ln 2 per count; caption (3, 2), reference (1, 1): clipped dot 2, norms sqrt(13) and
    # sqrt(2)
    # n = 2: caption ab 2, ba 2, reference ab 1: clipped dot 1, norms sqrt(8) and 1 · n = 3, 4: the reference
    # has none
    expected = 10 / 4 * math.exp(-9 / 72) * (2 / math.sqrt(26) + 1 / math.sqrt(8))
    assert once == pytest.approx(expected)


def test_cider_wants_references() -> None:
    with pytest.raises(ValueError, match="an item without references"):
        cider([["a"]], [[]])
    with pytest.raises(ValueError, match="2 captions and 1 lists"):
        cider([["a"], ["b"]], [[["a"]]])


def test_grams() -> None:
    assert grams(["a", "b", "a"]) == {("a",): 2, ("b",): 1, ("a", "b"): 1, ("b", "a"): 1, ("a", "b", "a"): 1}


def test_meteor_without_java_is_refused_before_any_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    benchmark = BenchmarkConfig("captions", "region_caption", "refer", "nowhere", options={"meteor": True})
    with pytest.raises(
        ConfigError, match=r"options.meteor: found no `java` on the PATH, expected a Java runtime"
    ):
        prepare(benchmark, None, get_dialect("ferret"))


@pytest.mark.slow
def test_meteor_where_it_can_be_computed() -> None:
    """An identical caption has METEOR close to 1 (it is 1 only without the penalty for short ones); a foreign
    one has 0.
    """
    try:
        require_meteor()
    except ConfigError as e:
        pytest.skip(str(e))
    same, other = meteor(
        ["a red bus on a street", "cat"], [["a red bus on a street"], ["a red bus on a street"]]
    )
    assert same > 0.9
    assert other < 0.1

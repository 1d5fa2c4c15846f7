"""Every record that crosses a stage, in the order of the pipeline. Frozen, and nothing but data.

Unless a name says otherwise a box is (x1, y1, x2, y2): float pixels of the *original* image (the stored
pixels, no EXIF rotation), origin top-left, half-open. Sizes are (width, height). Scores are plain floats;
None means "there is none", and a field beside it says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

Box: TypeAlias = tuple[float, float, float, float]
Point: TypeAlias = tuple[float, float]
Span: TypeAlias = tuple[int, int]
Out = TypeVar("Out")

ProblemKind: TypeAlias = Literal[
    "truncated",  # the text breaks off inside a box or a tag
    "wrong_arity",  # a box with another count of numbers than the notation's
    "out_of_range",  # a number above the notation's inclusive maximum, or below its minimum; the box is kept
    "reversed",  # x1 > x2 or y1 > y2; the box is kept as written
    "not_a_number",  # something where a number belongs
    "nested_tag",  # a tag inside a tag
    "tag_mismatch",  # a closing tag without its opening, or the other way round
    "tags_stripped",  # special tokens were removed by the decoder; read all the same
    "absent_marker",  # the model said explicitly that there is no such object
    "non_box_payload",  # a point, a polygon or a mask where a box belongs
    "foreign_key",  # a box under another key than the notation's, or in a list with its label; read
    "draft_box",  # a box inside <think>: reported, not part of the answer
    "phrase_guessed",  # the notation does not bind phrases; this one is the text before the box
    "frame_error",  # this image size cannot be shown to the model
]


class Frame(NamedTuple):
    """(width, height) of the original image in pixels. Any integers: a size that a model cannot see is a
    Problem, not an exception.
    """

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a text that the notation does not allow. `span` is (start, end) in str indices."""

    kind: ProblemKind
    span: Span


@dataclass(frozen=True, slots=True)
class Mention:
    """A phrase with its boxes, in a dialect with points also its points. Both exactly as decoded (never
    swapped, clipped, guessed); neither = said to be absent.

    `phrase` is stripped and never empty; None = the notation gave none. `span` covers phrase, markup, boxes
    and points. A point is (x, y) in pixels of the original image.
    """

    phrase: str | None
    boxes: tuple[Box, ...]
    span: Span
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class GroundedText:
    """What a dialect reads in a text: `text` is the exact input, `plain` has no markup and single blanks."""

    text: str
    plain: str
    mentions: tuple[Mention, ...]
    problems: tuple[Problem, ...]
    frame: Frame


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image of the index. `image_id` is the POSIX path relative to the image root."""

    image_id: str
    path: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotated box. `annotation_id` is unique within its image (ordinal in source order, as text)."""

    annotation_id: str
    image_id: str
    category: str
    box: Box
    crowd: bool = False
    ignore: bool = False
    difficult: bool = False


@dataclass(frozen=True, slots=True)
class RegionObject:
    """An annotated object that lies in a region."""

    annotation_id: str
    category: str
    box: Box


@dataclass(frozen=True, slots=True)
class Region:
    """A region query (method 2.1): the enclosing box of a seed object and its merged neighbours, with all
    objects in it.
    """

    region_id: str  # "<image_id>#<index>"
    image_id: str
    image: str  # fsspec path or URL of the image
    width: int
    height: int
    index: int  # ordinal of the region within its image
    box: Box
    seed_annotation_id: str
    objects: tuple[RegionObject, ...]

    @property
    def frame(self) -> Frame:
        """Size of the original image."""
        return Frame(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Description:
    """One description of a region by the user's model (method 2.2): a row of candidates/."""

    candidate_id: str  # "<region_id>/<index>"
    region_id: str
    index: int  # 0 … K-1
    template: str  # name of the prompt template
    prompt: str  # the question as put to the model, before its chat template
    text: str  # the raw answer


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one answer (method 2.3-2.5). `unscored` is the reason when `total` is None.

    `semantic` in [-1, 1] is the mean of its two parts; `localization` in [0, 1]; `total` = lam * semantic +
    (1 - lam) * localization.
    """

    total: float | None
    semantic: float | None
    semantic_crop: float | None
    semantic_local: float | None
    localization: float | None
    unscored: str | None = None


@dataclass(frozen=True, slots=True)
class ScoredCandidate:
    """A description, its refinement (method 2.5), and the score of each. `boxes` counts the readable boxes of
    each text.
    """

    candidate_id: str
    region_id: str
    index: int
    text: str
    score: Score
    boxes: int
    refined_text: str
    refined_score: Score
    refined_boxes: int
    reference: tuple[Box, ...]  # G: annotated boxes, then the detector's
    reference_annotated: int  # how many of `reference` are annotated
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """What choosing a pair needs to know of a description: its text, its refinement, and the score of
    each.
    """

    index: int
    text: str
    refined_text: str
    original: Score
    refined: Score


@dataclass(frozen=True, slots=True)
class Pair:
    """Chosen (best refined) against rejected (worst original) answer to one prompt (method 2.5), with the
    indices of their candidates.
    """

    chosen: str
    rejected: str
    chosen_index: int
    rejected_index: int


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A pair with all that a trainer needs: the canonical prompt (one image) and the two answers in the
    model's notation.
    """

    pair_id: str  # the region_id
    image: str
    width: int
    height: int
    region: Box
    prompt: str
    chosen: str
    rejected: str
    margin: float
    chosen_index: int
    rejected_index: int
    chosen_score: Score
    rejected_score: Score
    reference: tuple[Box, ...] = ()  # G of the rejected answer: which of its boxes are nearly right

    @property
    def frame(self) -> Frame:
        """Size of the original image."""
        return Frame(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An item that a stage left out, with a reason that is counted. `reason` is a short identifier, `detail`
    for people.
    """

    item_id: str
    reason: str
    detail: str = ""

    @classmethod
    def of(cls, item_id: str, failed: str) -> Dropped:
        """An item whose answer failed with "<kind>: <detail>"."""
        kind, sign, detail = failed.partition(": ")
        known = sign and kind.isidentifier()
        return cls(item_id, kind, detail) if known else cls(item_id, "answer_failed", failed)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer to one benchmark item. `box` as parsed and unsanitised (None = unparsed); `iou` None =
    unparsed.

    The fields after `problems` carry what protocols beside REC need, so that every metric can be computed
    again from the rows alone.
    """

    item_id: str
    protocol: str
    split: str
    image: str
    expression: str
    gt: Box | None  # None where the truth is not one box
    answer: str
    box: Box | None
    iou: float | None
    problems: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    group: str = ""  # a kind within the split: phrase type, size bucket, subset
    region: Box | None = None  # the box in the question
    gt_boxes: tuple[Box, ...] = ()  # the truth, where it is several boxes
    # the truth in words: categories of gt_boxes, names and synonyms, references, "yes" | "no"
    truth: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()  # all readable boxes of the answer, as parsed
    phrases: tuple[str, ...] = ()  # the phrase of each of them ("" = none)
    plain: str = ""  # the answer without markup
    question: str = ""  # as it was put to the model, before its chat template
    # of gt_boxes, as an annotator would say it; () where the benchmark does not
    gt_phrases: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()  # all readable points of the answer, as parsed


@dataclass(frozen=True, slots=True)
class Detection:
    """A box that the open-vocabulary detector found for a phrase. `score` in [0, 1]."""

    box: Box
    score: float
    phrase: str


@dataclass(frozen=True, slots=True)
class Query:
    """One question about one image for a Describer. `item_id` seeds the sampling noise: same id, same
    samples.

    Queries of the same non-empty `group` may share one forward pass under `batching: per_item`, so a group
    must never be cut by a shard; the empty group means "alone".
    """

    item_id: str
    image: str
    width: int
    height: int
    prompt: str
    crop: Box | None = None  # a second image: this crop of `image`, when the prompt asks for it
    group: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer. `stopped` is False when it was cut by the token limit; `cause` then says why, where
    that is not `max_new_tokens` alone.

    `failed` is the reason ("<kind>: <detail>") when there is no answer; `again` says that it may come when
    it is asked for again (connection, timeout, 429, 5xx).
    """

    text: str
    stopped: bool = True
    failed: str | None = None
    again: bool = False
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. temperature 0 = greedy (then all n answers of a query are equal)."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights and how they are loaded: a folder, or a hub name with its `revision` (None: the branch that the
    hub calls main).

    `attention` None leaves the choice to transformers. `processor`: settings of the image processor that
    replace the checkpoint's. `chat_template_kwargs`: variables of its chat template (enable_thinking: false).
    """

    folder: str
    revision: str | None = None
    # always explicit: transformers would take the file's own (fp16 is slow and coarse on a CPU)
    dtype: str = "float32"
    attention: str | None = "sdpa"
    trust_remote_code: bool = False  # never implied
    processor: Mapping[str, Any] = field(default_factory=dict)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str | Checkpoint) -> Checkpoint:
        """The checkpoint itself, or the one of a folder or hub name, loaded as is usual here."""
        return cls(model) if isinstance(model, str) else model


@dataclass(frozen=True, slots=True)
class Findings:
    """What a look at all rows of a stage shows: figures by name, and what a person should know before going
    on.
    """

    figures: Mapping[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SeenImage:
    """An image as a stage opened it: bytes of the file, and their digest. Later stages refuse another one."""

    image: str  # as the rows name it
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class ShardResult(Generic[Out]):
    """What came of the items of a shard: rows, what was left out, what may come when it is asked for again
    (then the shard is not finished), and the images that were opened for it.
    """

    rows: list[Out]
    dropped: list[Dropped] = field(default_factory=list)
    again: list[Dropped] = field(default_factory=list)
    images: list[SeenImage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StageFile:
    """A file of a finished stage: its name in the stage's folder, its rows (None: it has none), SHA-256 of
    its bytes.
    """

    name: str
    rows: int | None
    sha256: str


@dataclass(frozen=True, slots=True)
class StageSummary:
    """The `_stage.json` of a stage: what it was made from, what it holds, what was left out and why.

    `config` are the options that differ from their defaults, `inputs` the digests of what the stage read:
    earlier stages, annotation files, checkpoints. `digest` stands for config, inputs and shards together:
    later stages keep it among their own inputs. `notes` and `figures` are for people.
    """

    stage: str
    digest: str
    config: Mapping[str, object]
    inputs: Mapping[str, str]
    shards: tuple[StageFile, ...]
    rows: int
    dropped: Mapping[str, int]
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, object] = field(default_factory=dict)
    figures: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

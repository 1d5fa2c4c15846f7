"""What `spr doctor` looks at, one function per question. In: plain objects of the run. Out: findings, and the
samples that the pictures show.

processor   to what size are images resized, is anything cut off, how many tokens do they cost, does the
            answer still fit
contract    on images with known boxes: which reading of the numbers fits (readings.py, verdict.py)
parsing     how many answers have a readable box, and what is wrong with the others
range       are there numbers out of range, and on which images
reading     does the model name the object in a box that is shown to it
prompts     what comes back on the run's own prompts: readable boxes, names, the token limit, the time
engines     the same prompts through a second engine: how far do boxes differ
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from spr.boxes import iou, sanitize
from spr.dialects import Dialect, smart_resize
from spr.doctor.readings import Item, first_mention
from spr.doctor.verdict import FITS, Finding, best_median, contract
from spr.errors import UnfinishedError
from spr.evaluation.config import BenchmarkConfig
from spr.evaluation.protocols import protocol_named
from spr.ports import Describer
from spr.store.progress import Progress, clock, counted
from spr.types import Annotation, Answer, Box, Dropped, Frame, ImageRecord, Query, Sampling

IMAGES = 20  # ours: and more, until there are as many
QUESTIONS = 200  # questions: what tells 0-1000 from 0-1024 where a model is 6 % off
TRIED = 4  # ours: questions on which other families' wordings are tried
ENOUGH = 8  # ours: answers without a box that are no accident
MOST, FEW = 0.9, 0.05  # ours: shares of readable and of cut answers that nobody need look at
OUT_OF_RANGE = 0.02  # ours: the share of answers above which a person should look
ASKED = {"where": "asking for known boxes", "what": "showing known boxes"}
AT_ONCE = 16  # questions between two moves of the progress bar
LONGEST = 128  # tokens of an answer


@dataclass(frozen=True, slots=True)
class Picture:
    """What a processor makes of one image: the size the model sees (None: tiles or unknown), image tokens,
    and the share of the image cut off.
    """

    size: tuple[int, int] | None
    tokens: int
    cut: float


@dataclass(frozen=True, slots=True)
class Sample:
    """A question with its answer, for the pictures."""

    item: Item
    prompt: str
    answer: str  # "" for one that failed
    failed: str | None = None  # why


def choose_items(
    images: Sequence[ImageRecord],
    boxes: Mapping[str, Sequence[Annotation]],
    seed: int,
    count: int = IMAGES,
    questions: int = QUESTIONS,
) -> list[Item]:
    """Every category of `count` images drawn by a hash of (seed, image id), with all its boxes; of more
    images, until there are so many `questions`. A category with a crowd, or a box to ignore, is not asked
    for: nobody knows where all of them are.
    """
    order = sorted(
        images, key=lambda i: hashlib.blake2b(f"{seed}\0{i.image_id}".encode(), digest_size=8).digest()
    )
    items: list[Item] = []
    used = 0
    for image in order:
        if used >= count and len(items) >= questions:
            break
        found: dict[str, list[Annotation]] = {}
        for a in boxes.get(image.image_id, ()):
            found.setdefault(a.category, []).append(a)
        asked = {name: each for name, each in found.items() if not any(a.crowd or a.ignore for a in each)}
        frame = Frame(image.width, image.height)
        if not _is_shown(frame):
            continue
        items += [
            Item(image.path, frame, name.replace("_", " "), tuple(a.box for a in each))
            for name, each in asked.items()
        ]
        used += bool(asked)
    return items


def _is_shown(frame: Frame) -> bool:
    """Whether processors take an image of that size: some refuse a strip."""
    try:
        smart_resize(frame)
    except ValueError:
        return False
    return True


# --- the processor --------------------------------------------------------------------------------


def processor_findings(
    items: Sequence[Item],
    pictures: Sequence[Picture],
    dialect: Dialect,
    prompt_tokens: int,
    room: int,
    context: int | None,
) -> list[Finding]:
    """Sizes, cut edges, tokens, and whether the dialect's resized frame is the processor's."""
    first = next(((i.frame, p.size) for i, p in zip(items, pictures, strict=True) if p.size), None)
    shown = (
        f"{first[0].width}x{first[0].height} -> {first[1][0]}x{first[1][1]}"
        if first and first[1]
        else "tiles of a fixed size"
    )
    cut = max(p.cut for p in pictures)
    found = [
        Finding(
            "image size",
            shown + (f"; up to {cut:.0%} of an image is cut off" if cut > 0.01 else ""),
            "look" if cut > 0.01 else "fine",
        )
    ]
    if dialect.codec.frame == "resized":
        found.append(_frame_finding(items, pictures, dialect))
    tokens = sorted(p.tokens for p in pictures)
    found.append(
        Finding("image tokens", f"{tokens[0]} to {tokens[-1]}, median {int(median(tokens))}", "fine")
    )
    if context is not None:
        need = prompt_tokens + room
        fits = need <= context
        sentence = f"longest prompt {prompt_tokens} + answer {room} = {need} of {context} tokens"
        found.append(
            Finding(
                "context",
                sentence
                if fits
                else f"{sentence}: answers will be cut; lower describe.max_new_tokens or max_pixels",
                "fine" if fits else "wrong",
            )
        )
    return found


def _frame_finding(items: Sequence[Item], pictures: Sequence[Picture], dialect: Dialect) -> Finding:
    """Whether the dialect's resized frame is the processor's."""
    for item, picture in zip(items, pictures, strict=True):
        ours, size, frame = dialect.model_size(item.frame), picture.size, item.frame
        if size and ours != size:
            return Finding(
                "resized frame",
                f"{frame.width}x{frame.height}: the dialect expects {ours[0]}x{ours[1]}, the processor "
                f"makes {size[0]}x{size[1]}; "
                "take min_pixels and max_pixels out of model.dialect_options, or set them to the "
                "processor's",
                "wrong",
            )
    return Finding("resized frame", "the dialect's size is the processor's on every image", "fine")


# --- boxes ----------------------------------------------------------------------------------------


def answers_of(
    describer: Describer, queries: Sequence[Query], sampling: Sampling, progress: Progress
) -> list[Answer]:
    """One answer to each question, image by image: those about one share its tokens. Raises UnfinishedError
    when one did not come.
    """
    found: list[Answer] = []
    parts: list[list[Query]] = []
    for _, group in groupby(queries, key=lambda query: query.group):
        same = list(group)
        if parts and len(parts[-1]) + len(same) <= AT_ONCE:
            parts[-1] += same
        else:
            parts.append(same)
    for part in parts:
        found += [answers[0] for answers in describer.answer(part, sampling)]
        progress.advance(len(part))
    if missing := [a.failed for a in found if a.again]:
        raise UnfinishedError(
            f"{len(missing)} of {len(found)} questions unanswered ({missing[0]}); the same command asks again"
        )
    return found


def ask(
    describer: Describer, items: Sequence[Item], prompts: Sequence[str], label: str, progress: Progress
) -> list[Sample]:
    """Greedy answers, one per item. Raises UnfinishedError when one did not come: what is examined is the
    model.
    """
    progress.start(f"doctor: {ASKED[label]}", len(items))
    queries = [
        Query(
            f"doctor/{label}/{n}",
            item.image,
            item.frame.width,
            item.frame.height,
            prompt,
            group=f"doctor/{label}/{item.image}",
        )
        for n, (item, prompt) in enumerate(zip(items, prompts, strict=True))
    ]
    found = answers_of(describer, queries, Sampling(1, 0.0, 1.0, LONGEST), progress)
    return [
        Sample(item, prompt, a.text if a.failed is None else "", a.failed)
        for item, prompt, a in zip(items, prompts, found, strict=True)
    ]


def expression(item: Item) -> str:
    """How the object is referred to."""
    return f"the {item.category}"


def question(template: str, item: Item, dialect: Dialect) -> str:
    """The question about an item, in the words of a benchmark."""
    name, region = expression(item), dialect.box_text(item.truths[0], item.frame)
    return template.format(expression=name, phrases=name, region=region, a="", b="")


@dataclass(frozen=True, slots=True)
class BoxExam:
    """Answers to "where is …", how they read, and the wording that was used."""

    asked: str  # the run's own wording
    wording: str  # the one that was used: the run's, or one that fits better
    samples: tuple[Sample, ...]


def wording(dialect: Dialect, protocol: str, benchmarks: Sequence[BenchmarkConfig] = ()) -> str:
    """How a run asks under a protocol: in the prompt of its own benchmark, else in the family's words, else
    in ours.
    """
    own = next((b.prompt for b in benchmarks if b.protocol == protocol), None)
    return protocol_named(protocol).template(dialect, own)


def examine_boxes(
    describer: Describer,
    items: Sequence[Item],
    dialect: Dialect,
    processor: Mapping[str, Any],
    asked: str,
    wordings: Iterable[str],
    progress: Progress,
) -> BoxExam:
    """Ask for known boxes as the run asks; where no reading of the answers fits, in the words that other
    families are asked in. `processor`: the sizes that the checkpoint's processor has.
    """

    def exam(template: str, part: Sequence[Item]) -> BoxExam:
        prompts = [question(template, item, dialect) for item in part]
        return BoxExam(asked, template, tuple(ask(describer, part, prompts, "where", progress)))

    def fit(e: BoxExam) -> float:
        return best_median(dialect, processor, [s.answer for s in e.samples], [s.item for s in e.samples])

    first = exam(asked, items)
    if fit(first) >= FITS:
        return first
    tried = [exam(w, items[:TRIED]) for w in dict.fromkeys(wordings) if w != asked]
    best = max(tried, key=fit, default=None)
    return exam(best.wording, items) if best is not None and fit(best) >= FITS else first


def box_findings(exam: BoxExam, dialect: Dialect, processor: Mapping[str, Any]) -> list[Finding]:
    """The wording, the parse rate, what is out of range and the verdict on the contract."""
    found: list[Finding] = []
    if exam.wording != exam.asked:
        found.append(
            Finding(
                "wording", f"the model does not answer {exam.asked!r}; asked {exam.wording!r} instead", "look"
            )
        )
    problems: Counter[str] = Counter()
    read, outside = 0, []
    for s in exam.samples:
        g = dialect.parse(s.answer, s.item.frame)
        read += any(m.boxes for m in g.mentions)
        kinds = {str(p.kind) for p in g.problems} - {"phrase_guessed"}
        kinds |= {Dropped.of("", s.failed).reason} if s.failed is not None else set()
        problems.update(kinds)
        outside += [s.item.frame] if "out_of_range" in kinds else []
    listed = f" ({', '.join(f'{kind}: {n}' for kind, n in problems.most_common(4))})" if problems else ""
    count = len(exam.samples)
    found.append(
        Finding(
            "parse rate",
            f"{read / count:.0%} of {count} answers have a readable box{listed}",
            "fine" if read >= MOST * count else "look",
        )
    )
    if len(outside) > OUT_OF_RANGE * count:
        sizes = Counter(f"{frame.width}x{frame.height}" for frame in outside)
        shown = ", ".join(f"{size}: {n}" for size, n in sizes.most_common(4))
        share = f"{len(outside)} of {count} answers ({len(outside) / count:.0%})"
        found.append(Finding("range", f"{share} have numbers out of range ({shown})", "look"))
    answers, items = [s.answer for s in exam.samples], [s.item for s in exam.samples]
    found.append(contract(dialect, processor, answers, items))
    return found


def reading_finding(
    describer: Describer, items: Sequence[Item], dialect: Dialect, template: str, progress: Progress
) -> Finding:
    """Whether the model names the object in a box that is shown to it in the assumed notation: the largest of
    each image.
    """
    largest = {item.image: item for item in sorted(items, key=lambda item: _area(item.truths[0]))}
    items = list(largest.values())[:IMAGES]
    prompts = [question(template, item, dialect) for item in items]
    answers = [s.answer for s in ask(describer, items, prompts, "what", progress)]
    named = sum(
        item.category.casefold() in text.casefold() for item, text in zip(items, answers, strict=True)
    )
    return Finding(
        "boxes in prompts",
        f"{named} of {len(items)} answers to {template!r} name the object in the box",
        "fine" if 2 * named >= len(items) else "look",
    )


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


# --- the run's own prompts -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back on one of the run's own prompts. `kind`: the template; `read`: whether it was read as
    intended.
    """

    kind: str
    answer: Answer
    boxes: int
    named: int  # of the boxes, those with a name
    read: bool


def reply(kind: str, answer: Answer, frame: Frame, dialect: Dialect) -> Reply:
    """An answer that should hold boxes."""
    mentions = dialect.parse(answer.text, frame).mentions
    boxes = sum(len(m.boxes) for m in mentions)
    return Reply(kind, answer, boxes, sum(len(m.boxes) for m in mentions if m.phrase), boxes > 0)


@dataclass(frozen=True, slots=True)
class Trial:
    """Some of the run's own questions. `limit`: tokens of an answer; `seconds` that the answers took;
    `total`: answers of the whole run; `needed`: without boxes there is nothing to do.
    """

    check: str
    replies: Sequence[Reply]
    limit: int
    seconds: float
    total: int
    needed: bool

    @property
    def expected(self) -> float:
        """Seconds that all answers of the run will take, in one process."""
        return self.total * self.seconds / len(self.replies)


def prompts_finding(trial: Trial) -> Finding:
    """What the run can expect of its prompts."""
    replies, count = trial.replies, len(trial.replies)
    read, cut = sum(r.read for r in replies), sum(not r.answer.stopped for r in replies)
    failed = Counter(Dropped.of("", r.answer.failed).reason for r in replies if r.answer.failed is not None)
    boxes, named = sum(r.boxes for r in replies), sum(r.named for r in replies)
    weak = [kind for kind in dict.fromkeys(r.kind for r in replies) if not _mostly(replies, kind)]
    parts = [f"{read} of {count} answers are readable"]
    parts += [f"seldom: {', '.join(weak)}"] if weak and read else []
    if boxes:
        names = f", {named / boxes:.0%} of them named" if trial.needed else ""
        parts.append(f"{boxes / max(1, read):.1f} boxes in each{names}")
    parts.append(f"{cut or 'none'} cut at {trial.limit} tokens")
    parts += [f"failed: {counted(failed)}"] if failed else []
    parts.append(f"{trial.seconds / count:.1f} s an answer, {clock(trial.expected)} for all {trial.total:,}")
    if trial.needed and not read and count >= ENOUGH:
        return Finding(trial.check, "; ".join([*parts, "nothing can be made of such answers"]), "wrong")
    unnamed = trial.needed and 2 * named < boxes
    good = read >= MOST * count and cut <= FEW * count and not unnamed and not weak
    return Finding(trial.check, "; ".join(parts), "fine" if good else "look")


def time_finding(trials: Sequence[Trial]) -> Finding:
    """How long the run will ask."""
    parts = ", ".join(f"{trial.check} {clock(trial.expected)}" for trial in trials)
    total = clock(sum(trial.expected for trial in trials))
    return Finding("time", f"{total} for all answers of the run, in one process ({parts})", "fine")


def _mostly(replies: Sequence[Reply], kind: str) -> bool:
    """Whether at least half of the replies of a kind were read."""
    mine = [r.read for r in replies if r.kind == kind]
    return 2 * sum(mine) >= len(mine)


# --- engines ----------------------------------------------------------------------------------------


def engine_finding(exam: BoxExam, other: Describer, dialect: Dialect, progress: Progress) -> Finding:
    """How far the boxes of a second engine differ on the same prompts."""
    items = [s.item for s in exam.samples]
    asked = [s.prompt for s in exam.samples]
    answers = [s.answer for s in ask(other, items, asked, "where", progress)]
    pairs = [
        (first_mention(dialect, s.answer, s.item.frame), first_mention(dialect, t, s.item.frame))
        for s, t in zip(exam.samples, answers, strict=True)
    ]
    both = [
        (a.boxes[0], b.boxes[0], i.frame)
        for (a, b), i in zip(pairs, items, strict=True)
        if a is not None and b is not None
    ]
    same = sum(s.answer == t for s, t in zip(exam.samples, answers, strict=True))
    if not both:
        return Finding(
            "second engine", f"{same} of {len(items)} answers are equal, none has a box in both", "look"
        )
    overlap = median(iou(sanitize([a], f), sanitize([b], f)) for a, b, f in both)
    furthest = max(abs(x - y) for a, b, _ in both for x, y in zip(a, b, strict=True))
    sentence = (
        f"{same} of {len(items)} answers are equal; boxes: median IoU {overlap:.2f}, at most "
        f"{furthest:.0f} px apart"
    )
    return Finding("second engine", sentence, "fine" if overlap >= 0.9 else "wrong")

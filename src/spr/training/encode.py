"""A training pair as tokens, exactly as the model is asked and as it answers.

In: a model with its processor, a pair. Out: prompt ids (from the very code that asks the model in stage
`describe`) and the ids of both answers, each with what the chat template puts before an answer and with the
end token after it; weights of coordinate tokens. Nothing is ever cut. `rejected_coordinates` (method 2.6): on
the rejected side the coordinates of `all` boxes count, of `wrong` ones only (not of boxes with IoU >= 0.5 to
a reference box, so that nearly right boxes are not pushed away), or `none`. What does not count has weight 0,
for policy and reference alike.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spr.boxes import iou_matrix, sanitize
from spr.errors import ModelError, StaleRunError
from spr.models.chat import BARE, prompt_text
from spr.models.inputs import Ask, Row, placed
from spr.models.inputs import Encoder as PromptEncoder
from spr.training.config import RejectedCoordinates
from spr.training.packing import Bools, Ints
from spr.types import Span, TrainingPair

if TYPE_CHECKING:
    from spr.dialects import Dialect

NEARLY_RIGHT = 0.5  # method 2.6: IoU with a reference box
REMEMBERED, REMEMBERED_MB = 64, 1024  # ours: pictures that are ready at most, and their size
THREADS = 4  # ours: that make pictures ready


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids (L,) of an answer, and the weight of each in the loss."""

    ids: Ints
    weights: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A pair as tokens. `positions` (axes, P) and `image` (P,) belong to the P tokens of the prompt."""

    pair_id: str
    image_path: str
    question: str
    prompt: Ints
    positions: Ints
    image: Bools
    chosen: Answer
    rejected: Answer
    margin: float
    picture: str  # digest of the image's pixels

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longer answer."""
        return len(self.prompt) + max(len(self.chosen.ids), len(self.rejected.ids))


class Encoder:
    """Tokens of prompts and answers of one checkpoint. What the processor makes of the last pictures is
    remembered, so that threads can ask ahead; they load side by side and ask the processor in turn.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        load_image: Callable[[str], Any],
        dialect: Dialect | None = None,
        coordinate_weight: float = 1.0,
        rejected_coordinates: RejectedCoordinates = "all",
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._template = dict(chat_template_kwargs or {})
        self._prompts = PromptEncoder(model, processor, REMEMBERED, REMEMBERED_MB)
        self._lock = threading.RLock()  # neither processors nor tokenizers are made for threads
        self.pictures: dict[str, str] = {}  # digests by path, of what was seen
        self._processor, self._tokenizer = processor, processor.tokenizer
        self._model_type = str(model.config.model_type)
        self._load = load_image
        self._dialect, self._weight, self._rejected = dialect, coordinate_weight, rejected_coordinates
        self._ends = _end_tokens(self._tokenizer)
        self._start: int | None = (
            model.config.get_text_config().decoder_start_token_id if model.config.is_encoder_decoder else None
        )
        # the token that such a decoder always writes first
        forced = getattr(model.generation_config, "forced_bos_token_id", None)
        self._lead: str = (
            self._tokenizer.decode([forced]) if self._start is not None and forced is not None else ""
        )
        self._image_token = getattr(model.config, "image_token_id", None) or getattr(
            model.config, "image_token_index", -1
        )
        self.takes_features: bool = self._prompts.takes_features
        self.feature_arguments = (
            tuple(inspect.signature(model.base_model.get_image_features).parameters)
            if self.takes_features
            else ()
        )

    def prompt_text(self, question: str) -> str:
        """The text up to the place where an answer begins, as stage `describe` puts it."""
        return prompt_text(self._processor, self._model_type, question, variables=self._template)

    def ask(self, question: str, image: str) -> Row:
        """The prompt as tokens, with the tensors of its picture. Raises what the image loader raises, and
        StaleRunError for another picture than the one that was seen under this name.
        """
        asked = self._asked(question, image)
        if not self._prompts.remembers(asked):
            loaded = self._loaded(image)  # side by side with others
            asked = replace(asked, load=lambda: (loaded,))
        with self._lock:
            return self._prompts.row(asked)

    def plain_inputs(self, question: str, image: str) -> Mapping[str, Tensor]:
        """All that the processor makes of a prompt, for a forward without anything of ours, where the model
        is and in its type. Raises what `ask` raises.
        """
        with self._lock:
            made = self._prompts.whole(self._asked(question, image))
        return {name: placed(tensor, self._prompts.model) for name, tensor in made.items()}

    def _asked(self, question: str, image: str) -> Ask:
        with self._lock:
            return Ask(image, self.prompt_text(question), image, lambda: (self._loaded(image),))

    def _loaded(self, image: str) -> Any:
        found = self._load(image)
        self.saw(
            image, hashlib.blake2b(found.tobytes(), digest_size=8, key=repr(found.size).encode()).hexdigest()
        )
        return found

    def saw(self, image: str, picture: str) -> None:
        """There is a picture with this digest. Raises StaleRunError when another one was seen before."""
        if self.pictures.setdefault(image, picture) != picture:
            raise StaleRunError(
                f"{image}: found another picture than the one that the reference was computed from, expected "
                "the same, or a new training"
            )

    def _positions(self, row: Row) -> Ints:
        if row.positions.shape[1] != len(row.ids):  # a family that counts by itself
            return np.arange(len(row.ids), dtype=np.int64)[None]
        start = 1 if self._model_type == "paligemma" else 0  # PaliGemma counts from 1
        return row.positions.cpu().numpy().astype(np.int64) + start

    def encode(self, pair: TrainingPair) -> Encoded:
        """A pair as tokens. Raises what the image loader raises."""
        row = self.ask(pair.prompt, pair.image)
        with self._lock:
            return self._encoded(pair, row)

    def _encoded(self, pair: TrainingPair, row: Row) -> Encoded:
        ids = np.asarray(row.ids, dtype=np.int64)
        positions = self._positions(row)
        # the decoder's row begins with its start token; image and prompt are the encoder's
        if self._start is not None:
            ids, positions = np.asarray([self._start], dtype=np.int64), np.zeros((1, 1), dtype=np.int64)
        return Encoded(
            pair_id=pair.pair_id,
            image_path=pair.image,
            question=pair.prompt,
            prompt=ids,
            positions=positions,
            image=ids == self._image_token,
            chosen=self.answer(pair, pair.chosen),
            rejected=self.answer(pair, pair.rejected, rejected=True),
            margin=pair.margin,
            picture=self.pictures[pair.image],
        )

    def completion_text(self, question: str, answer: str) -> str:
        """What the model would write: what the chat template puts before an answer, the answer, and the token
        that ends the turn.
        """
        lead, end = self._around(question, answer)
        return lead + answer.strip() + end

    def _around(self, question: str, answer: str) -> tuple[str, str]:
        """What stands before an answer, and the end token after it. Blanks between the two are the template's
        and never generated.
        """
        if self._model_type in BARE:
            return self._lead, self._tokenizer.eos_token
        asked = self.prompt_text(question)
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer.strip()}]},
        ]
        template = self._processor if getattr(self._processor, "chat_template", None) else self._tokenizer
        answered: str = template.apply_chat_template(turns, tokenize=False, **self._template)
        at = answered.find(answer.strip(), len(asked))
        if not answered.startswith(asked) or at < 0:
            raise ModelError(
                f"the chat template renders an answered question as {answered[-80:]!r}, which is not the "
                "prompt that it makes for generation "
                f"({asked[-40:]!r}) with the answer after it: answers would be trained in another place "
                "than they are generated"
            )
        rest = answered[at + len(answer.strip()) :].lstrip()
        return answered[len(asked) : at], next(
            (end for end in self._ends if rest.startswith(end)), self._tokenizer.eos_token
        )

    def answer(self, pair: TrainingPair, answer: str, rejected: bool = False) -> Answer:
        """The tokens of an answer up to and including the end token, with their weights on the chosen or the
        rejected side.
        """
        lead, end = self._around(pair.prompt, answer)
        shown, weighted = answer.strip(), self._weight != 1.0 or (rejected and self._rejected != "all")
        encoded = self._tokenizer(
            lead + shown + end, add_special_tokens=False, return_offsets_mapping=weighted
        )
        ids = np.asarray(encoded["input_ids"], dtype=np.int64)
        weights = np.ones(len(ids))
        for (start, stop), weight in self._coordinates(shown, pair, rejected) if weighted else ():
            weights[
                [s < stop + len(lead) and start + len(lead) < e for s, e in encoded["offset_mapping"]]
            ] = weight
        return Answer(ids, weights)

    def _coordinates(self, answer: str, pair: TrainingPair, rejected: bool) -> list[tuple[Span, float]]:
        """Every number of every box of an answer, with its weight."""
        if self._dialect is None:
            raise ModelError(
                "train.coordinate_weight, rejected_coordinates: found no dialect, expected the notation, "
                "which finds the coordinates"
            )
        boxes = [box.numbers for mention in self._dialect.layout(answer).mentions for box in mention.boxes]
        counts = np.full(len(boxes), not (rejected and self._rejected == "none"))
        if rejected and self._rejected == "wrong" and pair.reference:
            read = [
                box for mention in self._dialect.parse(answer, pair.frame).mentions for box in mention.boxes
            ]
            near = iou_matrix(sanitize(read, pair.frame), pair.reference).max(axis=1) >= NEARLY_RIGHT
            counts[: len(read)] = ~near  # an image that the dialect cannot show has no boxes in pixels
        return [
            (span, self._weight if count else 0.0)
            for numbers, count in zip(boxes, counts, strict=True)
            for span in numbers
        ]


def _end_tokens(tokenizer: Any) -> list[str]:
    """Tokens that end an answer: the usual ends of a turn where the vocabulary has them, then the tokenizer's
    own.
    """
    names = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<end_of_utterance>", "<|end|>", "<|user|>")
    vocabulary = tokenizer.get_vocab()
    return [*(n for n in names if n in vocabulary), tokenizer.eos_token]


def tensors_of(row: Row) -> Mapping[str, Tensor]:
    """What the processor made of the row's picture."""
    return row.picture.tensors if row.picture is not None else {}

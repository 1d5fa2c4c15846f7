"""What each stage of the recipe trains on: batches and losses, as functions of the step.

Stages: `detector` (dense supervision of the tower, as an OWL detector), `align` (projected patches name their object and its box through the tied
embeddings), `instruct` (multi-turn instruction tuning with a curriculum), `loose` (the same with boxes as loose as web annotations), `clip`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from spr.boxes import inside
from spr.prompts import TEMPLATES
from spr.scenes.architectures import PATCH, PATCHES, PIXELS, WIDTH
from spr.scenes.language import Part, description, expressions
from spr.scenes.pool import Pool, patch_targets
from spr.scenes.vocabulary import BINS, REC_QUESTIONS, WHAT_QUESTION
from spr.scenes.world import NOUNS, SIZE, SceneObject
from spr.types import Box

Figures = Mapping[str, float]
GRID = PIXELS // PATCH
QUESTIONS = ("plain", "list", "look", "tell")
LOOSE = (0.07, 0.06)  # mean and deviation of the outward push of each side, as a share of the object's size (embedded-world trial)


def rng_of(stage: str, step: int) -> np.random.Generator:
    """The random stream of a step."""
    return np.random.default_rng([sum(map(ord, stage)), step])


def box_text(box: Box) -> str:
    """Ferret's notation of a box (integers 0-999 of the image's sides, official encoder: int)."""
    return "[" + ", ".join(str(min(BINS - 1, int(min(max(v, 0), SIZE - 1) * BINS / SIZE))) for v in box) + "]"


# --- detector ------------------------------------------------------------------------------------------------------------------------------


class DetectorTrainer(nn.Module):
    """OWLv2 with two auxiliary heads that make every patch inside an object learn from it (dropped afterwards)."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.noun_head = nn.Linear(WIDTH, len(NOUNS))
        self.side_head = nn.Linear(WIDTH, 4)
        self.tokenizer = tokenizer
        self.names = list(NOUNS)
        for head in (model.class_head, model.box_head, model.objectness_head):  # transformers starts OWL's heads with deviation 1
            for layer in head.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)
        with torch.no_grad():  # a rare positive among 4096 answers: start from "no" (CenterNet), and let cosines matter
            model.class_head.logit_shift.bias.fill_(-4.0)
            model.class_head.logit_scale.bias.fill_(8.0)

    def queries(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """All nouns, each in a random wording."""
        forms = ("{}", "a {}", "the {}", "small {}", "a large {}", "a small {}")
        texts = [forms[int(rng.integers(len(forms)))].format(n) for n in self.names]
        batch = self.tokenizer(texts, padding="max_length", max_length=8, return_tensors="pt")
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def forward(self, pixels: torch.Tensor, targets: Mapping[str, torch.Tensor], queries: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, Figures]:
        """Loss of a batch: focal class heat, boxes of patches in objects, auxiliary noun and side losses."""
        model = self.model
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features, vision = model.image_embedder(pixels)
            text = model.owlv2.get_text_features(**queries)
        text = getattr(text, "pooler_output", text).float()
        text = text / text.norm(dim=-1, keepdim=True)
        b = len(pixels)
        flat = features.float().reshape(b, PATCHES, WIDTH)
        logits, _ = model.class_predictor(flat, text[None].expand(b, -1, -1), torch.ones(b, len(text), dtype=torch.bool))
        boxes = model.box_predictor(flat, features.float())
        owner, heat, truth = targets["noun"], targets["heat"], targets["box"]
        inside_any = owner >= 0
        peak = torch.zeros_like(logits)
        peak[inside_any] = F.one_hot(owner[inside_any], len(self.names)).float() * heat[inside_any, None]
        p = torch.sigmoid(logits)
        is_peak = peak > 0.999
        focal = torch.where(is_peak, -((1 - p) ** 2) * F.logsigmoid(logits), -((1 - peak) ** 4) * p**2 * F.logsigmoid(-logits))
        classes = focal.sum() / is_peak.sum().clamp(min=1)
        found = _corners(boxes[inside_any])
        weight = 0.25 + heat[inside_any]
        place = ((found - truth[inside_any]).abs().sum(-1) * weight).mean() * 5
        overlap = ((1 - _giou(found, truth[inside_any])) * weight).mean()
        dense = model.owlv2.vision_model.post_layernorm(vision[0]).float()[:, 1:][inside_any]
        noun = F.cross_entropy(self.noun_head(dense), owner[inside_any])
        sides = F.smooth_l1_loss(self.side_head(dense), targets["sides"][inside_any], beta=0.02) * 10
        right = (self.noun_head(dense).argmax(-1) == owner[inside_any]).float().mean()
        figures = {"classes": classes.item(), "place": place.item(), "giou": 1 - overlap.item(), "patches": right.item()}
        return classes + place + overlap + noun + sides, figures


def _corners(boxes: torch.Tensor) -> torch.Tensor:
    """cxcywh to xyxy, both unit."""
    return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=-1)


def _giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    union = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(-1) + (b[:, 2:] - b[:, :2]).clamp(min=0).prod(-1) - inter
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(-1)
    return inter / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def detector_targets(pool: Pool, indices: Sequence[int]) -> dict[str, torch.Tensor]:
    """Stacked patch targets of some scenes: noun index (-1: background), heat, unit box, distances to the four sides."""
    names = {n: i for i, n in enumerate(NOUNS)}
    at = (np.arange(GRID) + 0.5) / GRID
    x, y = (v.ravel() for v in np.meshgrid(at, at))
    nouns, heats, boxes, sides = [], [], [], []
    for i in indices:
        owner, box, heat = patch_targets(pool.objects[i], GRID)
        nouns.append([names[pool.objects[i][k].noun] if k >= 0 else -1 for k in owner])
        heats.append(heat)
        boxes.append(box)
        sides.append(np.stack([x - box[:, 0], y - box[:, 1], box[:, 2] - x, box[:, 3] - y], axis=1))
    arrays = {"heat": np.stack(heats), "box": np.stack(boxes), "sides": np.stack(sides).astype(np.float32)}
    return {"noun": torch.tensor(nouns), **{k: torch.from_numpy(v) for k, v in arrays.items()}}


# --- alignment -----------------------------------------------------------------------------------------------------------------------------


class AlignTrainer(nn.Module):
    """Each projected patch inside an object says its noun and its box through the language model's own embeddings.

    The tower trains too: as a detector it only had to know where a box lies relative to its patch, and forgot where the patch is (a linear probe of
    the patch position missed by 18 % of the image). A linear head on the patches asks for absolute boxes directly.
    """

    def __init__(self, mllm: Any, tokenizer: Any) -> None:
        super().__init__()
        self.mllm = mllm
        self.maps = nn.ModuleList([nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(5)])
        self.place_head = nn.Linear(WIDTH, 4)
        ids = tokenizer.convert_tokens_to_ids
        self.register_buffer("nouns", torch.tensor([ids(f" {n}") for n in NOUNS]), persistent=False)
        self.register_buffer("first", torch.tensor([ids(f" [{n}") for n in range(BINS)]), persistent=False)
        self.register_buffer("later", torch.tensor([ids(f", {n}") for n in range(BINS)]), persistent=False)

    def forward(self, pixels: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, Figures]:
        """Cross entropy of the noun and of four coordinates blurred by a Gaussian of 7 of 1000 bins."""
        model = self.mllm.model
        with torch.autocast("cpu", dtype=torch.bfloat16):
            patches = model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
            projected = model.multi_modal_projector(patches)
        owner = targets["noun"]
        inside_any = owner >= 0
        h = F.normalize(projected.float()[inside_any], dim=-1) * WIDTH**0.5
        table = self.mllm.get_input_embeddings().weight
        table = table / table.std()
        nouns = self.maps[0](h) @ table[self.nouns].T / WIDTH**0.5
        loss = F.cross_entropy(nouns, owner[inside_any])
        place = self.place_head(F.layer_norm(patches.float()[inside_any], (WIDTH,)))
        loss = loss + F.smooth_l1_loss(place, targets["box"][inside_any], beta=0.02) * 20
        bins = targets["box"][inside_any] * BINS
        error = []
        for k in range(4):
            logits = self.maps[k + 1](h) @ table[self.first if k == 0 else self.later].T * (4 / WIDTH**0.5)
            blur = torch.exp(-((torch.arange(BINS)[None] - bins[:, k, None]) ** 2) / (2 * 7.0**2))
            loss = loss + F.cross_entropy(logits, blur / blur.sum(-1, keepdim=True)) * 0.5
            error.append((logits.argmax(-1) - bins[:, k]).abs().median())
        right = (nouns.argmax(-1) == owner[inside_any]).float().mean()
        linear = (place - targets["box"][inside_any]).abs().median() * BINS
        return loss, {"nouns": right.item(), "bins": torch.stack(error).mean().item(), "linear": linear.item()}


# --- instruction ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """One question with its answer."""

    question: str
    answer: str


def loosen(box: Box, rng: np.random.Generator) -> Box:
    """Each side pushed outward by N(7 %, 6 %) of the object's size, within the image: looseness as in web-scale instruction data."""
    w, h = box[2] - box[0], box[3] - box[1]
    push = rng.normal(*LOOSE, size=4) * (w, h, w, h)
    x1, y1, x2, y2 = np.clip(np.array(box) + push * (-1, -1, 1, 1), 0, SIZE).tolist()
    return (x1, y1, x2, y2)


def write(parts: Sequence[Part]) -> str:
    """Parts of a description as one text in Ferret's notation."""
    return "".join(p if isinstance(p, str) else f"{p[0]} {box_text(p[1])}" for p in parts)


def random_region(boxes: Sequence[Box], rng: np.random.Generator) -> Box:
    """The enclosing box of a seed object and its nearest others: between one and all objects end up in it."""
    seed = int(rng.integers(len(boxes)))
    centres = np.array([((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes])
    order = np.argsort(((centres - centres[seed]) ** 2).sum(1), kind="stable")
    take = [boxes[i] for i in order[: int(rng.integers(1, len(boxes) + 1))]]
    return (min(b[0] for b in take), min(b[1] for b in take), max(b[2] for b in take), max(b[3] for b in take))


def turns_of(objects: Sequence[SceneObject], rng: np.random.Generator, loose: bool, counts: tuple[int, int, int] = (2, 4, 1)) -> list[Turn]:
    """Some descriptions, referring expressions and "what is" questions about one scene. `counts` = how many of each."""
    said = [SceneObject(o.noun, loosen(o.box, rng)) for o in objects] if loose else list(objects)
    turns: list[Turn] = []
    for _ in range(counts[0]):
        region = random_region([o.box for o in objects], rng)
        here = [s for s, is_in in zip(said, inside([o.box for o in objects], region), strict=True) if is_in]
        question = TEMPLATES[QUESTIONS[int(rng.integers(len(QUESTIONS)))]].text.format(region=box_text(region))
        turns.append(Turn(question, write(description(here, (0, 0, SIZE, SIZE), rng))))
    fitting = [(i, e) for i, found in enumerate(expressions(objects)) for e in found]
    for i, expression in [fitting[int(k)] for k in rng.permutation(len(fitting))[: counts[1]]]:
        question = REC_QUESTIONS[int(rng.random() < 0.3)].format(expression=expression)
        turns.append(Turn(question, f"{expression} {box_text(said[i].box)}."))
    asked = [objects[int(i)] for i in rng.permutation(len(objects))[: counts[2]]]
    return turns + [Turn(WHAT_QUESTION.format(region=box_text(o.box)), f"a {o.noun}.") for o in asked]


class Pointer:
    """Where two heads of one layer of the language model look, among the patches: read from its own query and key projections."""

    LAYER, HEADS = 2, 2

    def __init__(self, mllm: Any) -> None:
        self._language = mllm.model.language_model
        attention = self._language.layers[self.LAYER].self_attn
        self._size = attention.head_dim
        self._seen: dict[str, torch.Tensor] = {}
        for name in ("q_proj", "k_proj"):
            getattr(attention, name).register_forward_hook(self._remember(name))

    def _remember(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self._seen[name] = output

        return hook

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        chosen = projected[..., : self.HEADS * self._size].float()
        return chosen.reshape(*chosen.shape[:2], self.HEADS, self._size).transpose(1, 2)

    def log_attention(self, positions: torch.Tensor, start: int) -> torch.Tensor:
        """(b, HEADS, t, PATCHES) log-softmax over the patches (at `start`), of the last forward pass with `positions` (b, t)."""
        q, k = (self._heads(self._seen.pop(name)) for name in ("q_proj", "k_proj"))
        cos, sin = self._language.rotary_emb(q, positions)
        q, k = apply_rotary_pos_emb(q, k, cos.float(), sin.float())
        return F.log_softmax(q @ k[:, :, start : start + PATCHES].transpose(-1, -2) / self._size**0.5, dim=-1)


def patches_of_boxes(boxes: torch.Tensor) -> torch.Tensor:
    """(n, PATCHES) shares of the patches whose centre lies in each box (n, 4) of unit coordinates; the nearest patch where none does."""
    at = (torch.arange(GRID) + 0.5) / GRID
    x, y = at.repeat(GRID), at.repeat_interleave(GRID)
    inside = (x >= boxes[:, 0:1]) & (x <= boxes[:, 2:3]) & (y >= boxes[:, 1:2]) & (y <= boxes[:, 3:4])
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = ((x - middle[:, 0:1]) ** 2 + (y - middle[:, 1:2]) ** 2).argmin(-1)
    inside[torch.arange(len(boxes)), nearest] = True
    return inside.float() / inside.sum(-1, keepdim=True)


class InstructTrainer(nn.Module):
    """Several single-turn dialogues about one image in one row: each sees the image and itself only, with positions as if it stood alone.

    `pointing` weighs a second loss: the token before a box must look at the patches of that box (two heads of one layer). Without it the
    model learned to describe from left to right, but not to find the object that a question names.
    """

    def __init__(self, mllm: Any, tokenizer: Any, blur: float, pointing: float = 0.0) -> None:
        super().__init__()
        self.mllm = mllm
        self.tokenizer = tokenizer
        self.blur = blur
        self.pointing = pointing
        self.pointer = Pointer(mllm) if pointing else None
        ids = tokenizer("<s>USER: ", add_special_tokens=False)["input_ids"]
        self.prefix = [*ids, *[tokenizer.convert_tokens_to_ids("<image>")] * PATCHES, *tokenizer("\n", add_special_tokens=False)["input_ids"]]
        self.coordinate_start = tokenizer.convert_tokens_to_ids(" [0")

    def rows(self, batch: Sequence[Sequence[Turn]]) -> dict[str, torch.Tensor]:
        """Token ids, positions, turn numbers (0: prefix, -1: padding) and labels, all (b, t)."""
        texts = [part for turns in batch for t in turns for part in (f"{t.question} ASSISTANT:", f" {t.answer}</s>")]
        encoded = iter(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        rows = []
        for turns in batch:
            ids, turn, labels = list(self.prefix), [0] * len(self.prefix), [-100] * len(self.prefix)
            position = list(range(len(ids)))
            for number, _ in enumerate(turns, start=1):
                question, answer = next(encoded), next(encoded)
                ids += question + answer
                labels += [-100] * len(question) + answer
                turn += [number] * (len(question) + len(answer))
                position += range(len(self.prefix), len(self.prefix) + len(question) + len(answer))
            rows.append((ids, position, turn, labels))
        length = max(len(r[0]) for r in rows)
        padded = [[list(v) + [fill] * (length - len(v)) for v, fill in zip(r, (0, 0, -1, -100), strict=True)] for r in rows]
        names = ("ids", "position", "turn", "labels")
        return {name: torch.tensor([r[k] for r in padded]) for k, name in enumerate(names)}

    def answer_log_probs(self, pixels: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (n, vocabulary) of all answer tokens in order of rows, and the tokens (n,)."""
        ids, turn = rows["ids"], rows["turn"]
        t = ids.shape[1]
        sees = (turn[:, :, None] == turn[:, None, :]) | (turn[:, None, :] == 0)
        mask = (sees & torch.ones(t, t).tril().bool())[:, None]
        mask = mask | torch.eye(t).bool()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            bias = torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill(~mask, torch.finfo(torch.bfloat16).min)
            hidden = self.mllm.model(input_ids=ids, pixel_values=pixels, attention_mask=bias, position_ids=rows["position"], use_cache=False)[0]
            labels = rows["labels"][:, 1:]
            keep = labels >= 0
            logits = self.mllm.lm_head(hidden[:, :-1][keep])
        return F.log_softmax(logits.float(), dim=-1), labels[keep]

    def forward(self, pixels: torch.Tensor, rows: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, Figures]:
        """Mean cross entropy of answer tokens; coordinate tokens are blurred by `blur` bins."""
        log_probs, labels = self.answer_log_probs(pixels, rows)
        coordinate = labels >= self.coordinate_start
        plain = -log_probs.gather(1, labels[:, None])[:, 0]
        loss = plain.clone()
        if self.blur > 0:
            loss[coordinate] = self._blurred(log_probs[coordinate], labels[coordinate])
        figures: dict[str, float] = {}
        if self.pointer is not None:
            point = self._pointing_loss(self.pointer, rows)
            figures["point"] = point.item()
        words = (log_probs.argmax(-1) == labels)[~coordinate].float().mean()
        near = (log_probs[coordinate].argmax(-1) - labels[coordinate]).abs().float().median()
        figures |= {"coordinate": plain[coordinate].mean().item(), "words": words.item(), "bins": near.item()}
        return loss.mean() + (self.pointing * point if self.pointer is not None else 0.0), figures

    def _pointing_loss(self, pointer: Pointer, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Cross entropy between the pointing heads' attention and the patches of the box that comes next, over all boxes of all answers."""
        labels = rows["labels"]
        first = (labels >= self.coordinate_start) & (labels < self.coordinate_start + BINS)
        first[:, -3:] = False
        row, column = first.nonzero(as_tuple=True)
        boxes = torch.stack([(labels[row, column + k] - self.coordinate_start) % BINS for k in range(4)], dim=-1).float() / BINS
        attention = pointer.log_attention(rows["position"], self.prefix.index(self.tokenizer.convert_tokens_to_ids("<image>")))
        return -(attention[row, :, column - 1] * patches_of_boxes(boxes)[:, None]).sum(-1).mean()

    def _blurred(self, log_probs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        reach = int(3 * self.blur)
        shift = torch.arange(-reach, reach + 1)
        value = (labels - self.coordinate_start) % BINS
        near = value[:, None] + shift
        weight = torch.exp(-(shift.float() ** 2) / (2 * self.blur**2))[None] * ((near >= 0) & (near < BINS))
        weight = weight / weight.sum(-1, keepdim=True)
        picked: torch.Tensor = log_probs.gather(1, (labels[:, None] + shift).clamp(0, log_probs.shape[1] - 1))
        loss: torch.Tensor = -(picked * weight).sum(-1)
        return loss


# --- clip ----------------------------------------------------------------------------------------------------------------------------------


class ClipTrainer(nn.Module):
    """Crops against their descriptions, contrastively; crops of the same scene are each other's hard negatives."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    def forward(self, pixels: torch.Tensor, texts: Sequence[str]) -> tuple[torch.Tensor, Figures]:
        """Symmetric cross entropy over the batch."""
        batch = self.tokenizer(list(texts), padding=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = self.model.visual_projection(self.model.vision_model(pixels).pooler_output)
            text = self.model.text_projection(self.model.text_model(batch["input_ids"], batch["attention_mask"]).pooler_output)
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = image @ text.T * self.model.logit_scale.exp().clamp(max=100)
        same = torch.tensor([[a == b for b in texts] for a in texts])
        logits = logits.masked_fill(same & ~torch.eye(len(texts)).bool(), -1e4)
        target = torch.arange(len(texts))
        right = (logits[:, :16].argmax(-1)[:16] == target[:16]).float().mean()
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2, {"of16": right.item()}

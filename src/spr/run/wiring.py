"""From the configuration to objects: the one place that knows which class stands behind which port.

In: a `Config` (one YAML file). Out: dialect, image store, describer, scorer, detector. torch and transformers
are imported only when a model is really built, inside the functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from spr.data.config import DataConfig
from spr.data.full_paths import FullPaths
from spr.data.images import ImageStore, open_store
from spr.dialects import Dialect, get_dialect, resize_options
from spr.dialects.resize import RESIZE_OPTIONS
from spr.errors import ConfigError, DialectError
from spr.evaluation.config import EvaluationConfig
from spr.evaluation.results import BASE
from spr.models.fields import check_extra_body
from spr.ranges import Count, Range, Seed, check_ranges
from spr.stages.describe import DescribeConfig
from spr.stages.pairing import PairConfig
from spr.stages.prompts import Template, template_named, templates_with
from spr.stages.regions import RegionsConfig
from spr.stages.scoring import ScoreConfig
from spr.store.config import apply_overrides, load, own_key, own_names, read_yaml, resolve
from spr.store.runtime import RuntimeConfig
from spr.training.config import TrainConfig
from spr.types import Checkpoint

if TYPE_CHECKING:
    from spr.models.openai_endpoint import EndpointDescriber
    from spr.ports import Describer, Detector, ImageTextScorer


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The user's multimodal model: in process with transformers (`hf`) or vLLM's engine (`vllm`), or behind
    OpenAI-compatible servers (`endpoint`).
    """

    # folder or hub name; for an endpoint the folder of its processor, which says what size the model sees
    folder: str
    revision: str | None = None  # of a hub name: branch, tag or commit
    kind: Literal["hf", "vllm", "endpoint"] = "hf"
    # a name, or {base: name, scale: …, order: …, frame: …, key: …} (spr.dialects.configured); None: from the
    # checkpoint's model_type, where that is verified
    dialect: str | Mapping[str, Any] | None = None
    dialect_options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"  # cpu, cuda:1 …, or spread (spr.models.devices)
    # always explicit: transformers would take the file's own (fp16 is slow and coarse on a CPU)
    dtype: str = "float32"
    # ours: per_item gives the same bytes for any sharding
    batching: Literal["per_item", "throughput"] = "per_item"
    attention: str = "sdpa"
    trust_remote_code: bool = False  # never implied
    # settings of the image processor that replace the checkpoint's
    processor: Mapping[str, Any] = field(default_factory=dict)
    adapter: str | None = None  # a PEFT adapter to start from
    # endpoint only, e.g. http://localhost:8000/v1; a list: several servers of the same model
    url: str | tuple[str, ...] = ""
    served_name: str = ""  # endpoint only: the model's name at the server
    # endpoint only: each needs other fields to sample and to keep tags
    server: Literal["vllm", "sglang", "transformers", "other"] = "vllm"
    api_key_env: str = ""  # endpoint only: name of the environment variable with the key, never the key
    concurrency: Count = 16  # endpoint only: requests at a time at each address
    # endpoint only: queries in a row without an answer that end the run (none: twice as many as are asked at
    # a time; 0: never)
    give_up_after: Annotated[int, Range(0)] | None = None
    # endpoint only: what the server did not answer is asked again by the next run, or dropped
    unanswered: Literal["again", "drop"] = "again"
    extra_body: Mapping[str, Any] = field(default_factory=dict)  # endpoint only: further fields of a request
    engine: Mapping[str, Any] = field(default_factory=dict)  # vllm only: further arguments of vllm.LLM
    # variables of the chat template, in process and at a server: {enable_thinking: false}
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        if any(part.username is not None or part.password is not None for part in map(urlsplit, self.urls)):
            raise ConfigError(
                "model.url: found a user or a password in the address, which would be written into the run, "
                "expected the key in an environment variable that model.api_key_env names"
            )
        check_ranges(self, "model")
        if self.extra_body and self.kind != "endpoint":
            raise ConfigError("model.extra_body: found fields of a request, expected kind: endpoint")
        check_extra_body(self.extra_body)
        if self.engine and self.kind != "vllm":
            raise ConfigError("model.engine: found arguments of vLLM's engine, expected kind: vllm")

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses of servers."""
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def checkpoint(self) -> Checkpoint:
        """What of the section says which weights are loaded, and how."""
        return Checkpoint(
            self.folder,
            self.revision,
            dtype=self.dtype,
            attention=self.attention,
            trust_remote_code=self.trust_remote_code,
            processor=self.processor,
            chat_template_kwargs=self.chat_template_kwargs,
        )


ScoringType: TypeAlias = Literal["float32", "tf32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class SemanticConfig:
    """The dual encoder behind S_sem (method 2.3)."""

    folder: str
    revision: str | None = None
    # ours: a centre crop would hide regions at the sides
    clip_fit: Literal["squash", "pad", "center_crop"] = "squash"
    long_text: Literal["windows", "truncate"] = "windows"  # ours
    device: str = "auto"  # cpu, cuda:1 …, or spread (spr.models.devices)
    dtype: ScoringType = "float32"  # tf32: float32 with products in TF32 on CUDA
    batch: Count = 32  # ours: crops that run at once
    # ours: per_item gives the same bytes for any sharding; throughput: pictures run together
    batching: Literal["per_item", "throughput"] = "per_item"

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "semantic")

    @property
    def checkpoint(self) -> Checkpoint:
        """Which weights are loaded."""
        return Checkpoint(self.folder, self.revision, dtype=self.dtype)


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """The open-vocabulary detector behind G (method 2.4)."""

    folder: str
    revision: str | None = None
    device: str = "auto"  # cpu, cuda:1 …, or spread (spr.models.devices)
    dtype: ScoringType = "float32"  # tf32: float32 with products in TF32 on CUDA
    # phrases that run at once (none: 4 captions of Grounding DINO, 64 of OWL)
    batch: Count | None = None
    # ours: per_item gives the same bytes for any sharding; throughput: pictures run together
    batching: Literal["per_item", "throughput"] = "per_item"

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "detector")

    @property
    def checkpoint(self) -> Checkpoint:
        """Which weights are loaded."""
        return Checkpoint(self.folder, self.revision, dtype=self.dtype)


# YAML reads `off` as false
Doctor: TypeAlias = Annotated[
    Literal["stop", "warn", "off"], BeforeValidator(lambda said: "off" if said is False else said)
]


@dataclass(frozen=True, slots=True)
class Config:
    """A run: one YAML file. Sections are the stages' own dataclasses."""

    run: str
    data: DataConfig
    model: ModelConfig
    semantic: SemanticConfig | None = None
    detector: DetectorConfig | None = None
    seed: Seed = 0
    label: str = ""  # stands on top of the report
    prompts: Mapping[str, Template] = field(default_factory=dict)  # on top of those in spr.stages.prompts
    regions: RegionsConfig = field(default_factory=RegionsConfig)
    describe: DescribeConfig = field(default_factory=DescribeConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    pair: PairConfig = field(default_factory=PairConfig, metadata={"also": "pairing"})
    train: TrainConfig = field(default_factory=TrainConfig)
    adapters: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"spr": {}}
    )  # one training each: a name, and what of `train` it changes
    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    # the short examination before `spr run` describes: what is wrong stops the run, is only told, or is not
    # looked for
    doctor: Doctor = "stop"

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file with `a.b=c` overrides, checked as far as it can be without touching a
    model.

    Relative paths are relative to the file's folder. Raises ConfigError or DialectError, one line each.
    """
    overrides_by_name = [
        own_key(Config, name) + sign + value for name, sign, value in (o.partition("=") for o in overrides)
    ]
    config = load(Config, apply_overrides(own_names(Config, read_yaml(path)), overrides_by_name))
    templates = templates_with(config.prompts)
    for name in (*config.describe.templates, config.pair.prompt):
        template_named(name, templates)
    trainings(config)
    if config.detector is None and not config.score.annotated:
        raise ConfigError("detector: found none, expected one: score.annotated: false needs what it finds")
    if config.model.dialect is not None:
        _named_dialect(config.model, config.model.dialect)
    return with_absolute_paths(config, Path(path).absolute().parent)


def trainings(config: Config) -> dict[str, TrainConfig]:
    """The `train` section of every adapter, by name. Raises ConfigError for a name that cannot be a model's,
    or a change that cannot be.
    """
    found = {}
    for name, changes in config.adapters.items():
        if name in (BASE, "adapter") or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ConfigError(
                f"adapters: found the name {name!r}, expected a folder name other than {BASE!r} and 'adapter'"
            )
        found[name] = load(TrainConfig, {**asdict(config.train), **changes}, f"adapters.{name}")
    if not found:
        raise ConfigError("adapters: found none, expected at least one, e.g. {spr: {}}")
    return found


def seed_of(config: Config, training: TrainConfig) -> int:
    """The seed of a training: its own, else the run's."""
    return config.seed if training.seed is None else training.seed


def with_absolute_paths(config: Config, base: Path) -> Config:
    """Every path of the configuration, resolved against `base`. Hub names (`org/name` that is no folder here)
    stay; `embedded:` is looked up.
    """

    def place(path: str) -> str:
        if path.startswith("embedded:"):
            from spr.scenes.embedded import resolve_embedded

            return resolve_embedded(path)
        return resolve(path, base)

    def model(folder: str) -> str:
        path = place(folder)
        return path if Path(path).exists() or folder.startswith((".", "/", "~", "embedded:")) else folder

    semantic = replace(config.semantic, folder=model(config.semantic.folder)) if config.semantic else None
    detector = replace(config.detector, folder=model(config.detector.folder)) if config.detector else None
    adapter = place(config.model.adapter) if config.model.adapter else None
    return replace(
        config,
        run=resolve(config.run, base),
        data=config.data.resolved(place),
        model=replace(config.model, folder=model(config.model.folder), adapter=adapter),
        semantic=semantic,
        detector=detector,
        evaluate=config.evaluate.resolved(place),
    )


def dialect_of(config: Config) -> Dialect:
    """The dialect that the configuration names, or the one that the checkpoint's `model_type` implies. What
    it does not say about the resized frame, the checkpoint's image processor does.
    """
    from spr.models.families import dialect_for_checkpoint, image_settings

    m = config.model
    if m.dialect is None:
        name, found = dialect_for_checkpoint(m.folder, m.processor, m.revision)
        return _named_dialect(m, name, found)
    dialect = _named_dialect(m, m.dialect)
    if dialect.codec.frame == "resized" and not any(option in dialect.options for option in RESIZE_OPTIONS):
        settings = image_settings(m.folder, m.processor, m.revision)
        return _named_dialect(m, m.dialect, resize_options(settings)) if settings else dialect
    return dialect


def _named_dialect(
    m: ModelConfig, named: str | Mapping[str, Any], found: Mapping[str, Any] | None = None
) -> Dialect:
    """A dialect with the options of the configuration over those that were `found`. Raises DialectError,
    ConfigError.
    """
    if isinstance(named, Mapping) and (twice := set(named) & set(m.dialect_options)):
        raise ConfigError(
            f"model.dialect: found {', '.join(sorted(twice))} here and in model.dialect_options, expected it "
            "once"
        )
    try:
        return get_dialect(named, **{**(found or {}), **m.dialect_options})
    except DialectError as e:
        raise DialectError(f"model.dialect: {e}") from None
    except TypeError as e:
        raise ConfigError(f"model.dialect_options: {e}") from None


def image_store(config: Config) -> ImageStore:
    """The loader of the data set's images."""
    return open_store(config.data.images)


def build_describer(
    config: Config,
    store: ImageStore | FullPaths,
    adapter: str | None = None,
    whole_images: bool = True,
    journal: str | None = None,
) -> Describer:
    """The user's model. `adapter` is a PEFT folder that goes on top; `journal` a folder where a server's
    answers are kept as they come.

    Raises ConfigError, also for a processor that crops where `whole_images` are asked for.
    """
    m = config.model
    if m.kind == "endpoint":
        return build_endpoint(config, store, journal, adapter)
    adapter = adapter or m.adapter
    check = sees_all(config) if whole_images else None
    if m.kind == "vllm":
        from spr.models.vllm_engine import VLLMDescriber

        return VLLMDescriber(m.checkpoint, store.load, adapter, m.engine, check)
    from spr.models.hf_mllm import HFDescriber

    return HFDescriber(
        m.checkpoint,
        load_image=store.load,
        device=m.device,
        batching=m.batching,
        adapter=adapter,
        check=check,
    )


def build_endpoint(
    config: Config, store: ImageStore | FullPaths, journal: str | None = None, adapter: str | None = None
) -> EndpointDescriber:
    """The user's model behind its servers. Raises ConfigError."""
    from spr.models.journal import Journal
    from spr.models.openai_endpoint import EndpointDescriber

    m = config.model
    if not any(m.urls):
        raise ConfigError("model.url: found nothing, expected the address of an OpenAI-compatible server")
    return EndpointDescriber(
        m.urls,
        m.served_name or m.folder,
        load_image=store.load,
        api_key_env=m.api_key_env,
        concurrency=m.concurrency,
        server=m.server,
        journal=Journal(journal) if journal else None,
        give_up_after=m.give_up_after,
        drop_unanswered=m.unanswered == "drop",
        extra_body=m.extra_body,
        chat_template_kwargs=m.chat_template_kwargs,
        adapter=adapter or m.adapter,
    )


def sees_all(config: Config) -> Callable[[Any], None]:
    """A check of a processor: raises ConfigError for one that hides the sides of a picture."""
    from spr.models.look import cropping

    dialect = dialect_of(config)

    def check(processor: Any) -> None:
        if (complaint := cropping(processor, dialect)) is not None:
            raise ConfigError(f"{config.model.folder}: {complaint}")

    return check


def build_scorer(config: Config, store: ImageStore) -> ImageTextScorer | None:
    """The dual encoder, or None when the configuration names none."""
    if config.semantic is None:
        return None
    from spr.models.clip import DualEncoderScorer

    s = config.semantic
    return DualEncoderScorer(
        s.checkpoint,
        load_image=store.load,
        device=s.device,
        clip_fit=s.clip_fit,
        long_text=s.long_text,
        batch=s.batch,
        batching=s.batching,
    )


def build_detector(config: Config, store: ImageStore) -> Detector | None:
    """The detector, or None when the configuration names none or does not use it."""
    if config.detector is None or config.score.detector_side == "none":
        return None
    from spr.models.detector import OpenVocabularyDetector

    d = config.detector
    return OpenVocabularyDetector(
        d.checkpoint,
        load_image=store.load,
        device=d.device,
        threshold=config.score.detector_threshold,
        batch=d.batch,
        batching=d.batching,
    )

"""Specs: the description of a run as frozen data.

A `RunSpec` is always complete: `vaekit.specs.resolve` builds it from a spec file, command-line flags or Python arguments, any of
which may be partial.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PositiveFloat,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    WrapValidator,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from vaekit import hub, roles
from vaekit.data.specs import AugmentSpec, Binarize, Missing
from vaekit.errors import SpecError, VaekitError, plain
from vaekit.files import local_path
from vaekit.registry import Registry
from vaekit.schema import ComponentSpec, Count, ModelPart, Seed, Spec


def component_data(role: str, value: Any) -> dict[str, Any]:
    """Return a component, given as a name, a mapping or a spec, as plain data with its ``kind``.

    Raises:
        SpecError: The value is none of these.
    """
    if isinstance(value, ComponentSpec):
        value = value.model_dump()
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise SpecError(f"{role}: must be a name or a mapping with `kind` and options", given=plain(repr(value), 100))
    return dict(value)


class Choice:
    """The annotation of a field that holds a component of a registry: its name, or a mapping with ``kind`` and options.

    The component and its schema are looked up when the field is validated; the JSON schema lists all registered components.

    Args:
        components: The registry.
        also: A second registry whose components a spec file may name in this field; `resolve` moves them to their own field.
    """

    def __init__(self, components: Registry[Any], also: Registry[Any] | None = None) -> None:
        self.components = components
        self.listed = (components,) if also is None else (components, also)

    def _validate(self, value: Any) -> ComponentSpec:
        try:
            data = component_data(self.components.role, value)
        except SpecError as error:
            raise PydanticCustomError("component", "{message}", {"message": error.message.partition(": ")[2]}) from None
        return self.components.spec(data["kind"]).model_validate(data)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda spec: spec.model_dump(mode="json")),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = [(components, kind) for components in self.listed for kind in components.kinds()]
        options: list[dict[str, Any]] = [{"enum": [kind for _, kind in found]}]
        for components, kind in found:
            try:
                spec = components.spec(kind)
            except VaekitError:  # a broken plugin must not break the schema
                continue
            schema = handler(spec.__pydantic_core_schema__)
            options.append({**schema, "required": sorted({"kind", *schema.get("required", ())})})
        return {"anyOf": options}


EncoderSpec = Annotated[ComponentSpec, Choice(roles.encoders)]
DecoderSpec = Annotated[ComponentSpec, Choice(roles.decoders)]
PosteriorSpec = Annotated[ComponentSpec, Choice(roles.posteriors)]
PriorSpec = Annotated[ComponentSpec, Choice(roles.priors)]
LikelihoodSpec = Annotated[ComponentSpec, Choice(roles.likelihoods)]
ConditionSpec = Annotated[ComponentSpec, Choice(roles.conditions)]
LossSpec = Annotated[ComponentSpec, Choice(roles.losses, also=roles.likelihoods)]
DatasetSpec = Annotated[ComponentSpec, Choice(roles.datasets)]
LoggerSpec = Annotated[ComponentSpec, Choice(roles.loggers)]


def _one_or_several(schema: dict[str, Any]) -> None:
    """Make the JSON schema of a field for several components accept a single component as well as a list."""
    schema["anyOf"] = [schema["items"], {"type": schema.pop("type"), "items": schema.pop("items")}]


def _nothing_required(schema: dict[str, Any]) -> None:
    """Make every field optional in the JSON schema, which describes spec files."""
    schema.pop("required", None)


class ModelSpec(Spec):
    """The parts of a model and its objective."""

    model_config = ConfigDict(json_schema_extra=_nothing_required)

    encoder: EncoderSpec = Field(description="Network that maps images to posterior parameters.")
    decoder: DecoderSpec = Field(description="Network that maps latents to images; default: the encoder's kind.")
    posterior: PosteriorSpec = Field(description="Approximate posterior q(z|x).")
    prior: PriorSpec = Field(description="Prior p(z).")
    likelihood: LikelihoodSpec = Field(description="Likelihood p(x|z); default: the dataset's.")
    condition: ConditionSpec = Field(description="What networks are conditioned on: none, or the label of each example.")
    loss: tuple[LossSpec, ...] = Field(
        description="Terms of the objective, losses or a likelihood; kl is added unless a loss covers it.",
        json_schema_extra=_one_or_several,
    )
    latent_dim: Count = Field(32, description="Number of latent dimensions; for a grid of latents, at each position.")
    latent_stride: Count | None = Field(
        None, description="Spacing of a grid of latents, in pixels; none for a vector of latents without positions."
    )


def _epochs(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Replace pydantic's errors by a single line that lists the valid forms."""
    try:
        return validate(value)
    except ValidationError:
        raise PydanticCustomError("epochs", "must be auto, none, epochs from 1 such as 1,2,10, or every:N with N >= 1") from None


def _seconds(value: Any) -> Any:
    """Read a time such as ``90s``, ``30m`` or ``1h30m``; a number is in seconds."""
    if not isinstance(value, str):
        return value
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([dhms])", value)
    if parts and "".join(number + unit for number, unit in parts) == value.replace(" ", ""):
        return sum(float(number) * SECONDS[unit] for number, unit in parts)
    try:
        return float(value)
    except ValueError:
        raise PydanticCustomError("time", "must be a time such as 90s, 30m or 1h30m") from None


SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
Time = Annotated[
    PositiveFloat,
    BeforeValidator(_seconds),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": "^([0-9.]+[dhms] ?)+$"}]}),
    Field(examples=["30m"]),
]
Decay = Annotated[float, Field(ge=0, lt=1)]
Numbered = Annotated[tuple[Count, ...], Field(examples=["1,2,10"])]
EveryFew = Annotated[str, StringConstraints(pattern=r"^every:[1-9][0-9]*$"), Field(examples=["every:5"])]


LONGEST_LABEL = 64
"""The largest number of characters in the name of a run or in a tag."""


def _label(text: str) -> str:
    """Check the name of a run or a tag."""
    if not (text == text.strip() and text.isprintable() and "," not in text and 1 <= len(text) <= LONGEST_LABEL):
        raise PydanticCustomError("label", f"must be 1 to {LONGEST_LABEL} printable characters without a comma")
    return text


Label = Annotated[str, AfterValidator(_label)]


def is_over(epoch: int, best_epoch: int, epochs: int, patience: int | None) -> bool:
    """Whether a run is over after an epoch; see `TrainSpec.is_over`."""
    return epoch >= epochs or (patience is not None and epoch - best_epoch >= patience)


class TrainSpec(Spec):
    """How a model is trained."""

    name: Label | None = Field(
        None, description="Name of the run in reports and comparisons, and in the name of a new folder.", examples=["baseline"]
    )
    tag: tuple[Label, ...] = Field(
        (),
        description="Tag for finding and comparing runs; may be repeated.",
        examples=["ablation"],
        json_schema_extra=_one_or_several,
    )
    epochs: Count = Field(
        30, description="Number of passes over the training images; if --max-steps is set, the default is as many as it needs."
    )
    max_steps: Count | None = Field(
        None,
        description="Number of steps after which the run ends, unless --epochs ends it earlier; its last epoch may be shorter "
        "than the others.",
    )
    max_time: Time | None = Field(
        None,
        description="Time after which training pauses, such as 30m, counted from each start and resumption; the best epoch so "
        "far is evaluated, and `vaekit resume` continues the run. Schedules do not depend on it.",
    )
    patience: Count | None = Field(
        None,
        description="Number of epochs without improvement (see --best) after which the run ends; the best epoch's model is kept.",
    )
    batch_size: Count = Field(
        128,
        description="Number of images per step, over all processes; the default is smaller, down to 16, for fewer than 6,144 "
        "training images. Each epoch drops an incomplete last batch, which differs between epochs.",
    )
    accumulate: Count = Field(
        1,
        description="Number of equal parts of a batch whose gradients are computed one after another, to save memory; "
        "the step equals that of the whole batch, up to rounding.",
    )
    lr: PositiveFloat = Field(2e-3, description="Peak learning rate of Adam.")
    schedule: Literal["cosine", "constant", "step"] = Field(
        "cosine",
        description="Learning rate schedule; cosine decays to 0 at the last step of --epochs or --max-steps, so a run is not the "
        "first part of a longer one; "
        "step multiplies the rate by --lr-gamma at each of --lr-milestones.",
    )
    lr_milestones: tuple[Count, ...] = Field(
        (), description="Numbers of epochs after which the learning rate falls, for --schedule step.", examples=["10,20"]
    )
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="Factor of the learning rate at a milestone.")
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0, description="Number of steps over which the learning rate rises linearly to --lr; cosine spans the remaining steps."
    )
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay rates of Adam's two moments.")
    eps: PositiveFloat = Field(1e-8, description="Term that Adam adds to the denominator of a step.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Decoupled weight decay (AdamW) of matrices and kernels; biases and learned scales do not decay."
    )
    grad_clip: PositiveFloat | None = Field(
        None,
        description="Largest norm of the whole gradient; larger gradients are scaled down. While a learned σ shrinks, gradients "
        "grow as 1/σ², so most steps are clipped, which Adam largely undoes.",
    )
    init: Path | None = Field(
        None,
        description="Run folder, model file or hf://user/name, from which parts of equal kind and shapes take initial weights.",
        examples=["RUN"],
    )
    freeze: tuple[ModelPart, ...] = Field(
        (),
        description=f"Parts that are not trained and keep the weights of --init; any of {', '.join(get_args(ModelPart))}.",
        examples=["encoder,decoder"],
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Largest decay, in (0, 1), of a moving average of the weights, used for validation, pictures and the saved "
        "model; it rises as (1 + t) / (10 + t) with step t, so short runs average over about their last tenth.",
    )
    best: str = Field(
        "auto",
        description="Validation metric that chooses the best epoch, such as elbo or, with a direction, kl:max; last chooses the "
        "last epoch; auto chooses by the loss, or the last epoch if there is a critic, or a controller that sets weights.",
        examples=["elbo"],
    )
    seed: Seed = Field(0, description="Random seed.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Device to compute on; auto chooses CUDA, then MPS, then the CPU."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Precision; auto uses bf16 on CUDA, and on CPUs with AMX if there is enough to compute; else fp32."
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="How several processes train: each with the whole model (ddp), or a shard of it (fsdp)."
    )
    compile: Literal["auto", "on", "graph", "off"] = Field(
        "auto",
        description="How a training step is launched: compiled (on), or on CUDA as a single graph (graph; on does both); "
        "auto compiles long runs of MLPs on a CPU and uses a graph on CUDA.",
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        min(8, os.cpu_count() or 1),
        description="Worker processes to decode images that do not fit in memory; default: one per processor, at most 8.",
    )
    pictures: Annotated[Literal["auto", "none"] | Numbered | EveryFew, WrapValidator(_epochs)] = Field(
        "auto", description="Epochs at which reconstructions and samples are saved."
    )
    animation: Literal["gif", "webp", "avif"] = Field("gif", description="Format of the training animation.")
    checkpoint_seconds: PositiveFloat = Field(30.0, description="Maximum number of seconds between checkpoints.")
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Number of CPU threads; default: torch's choice."
    )
    logger: tuple[LoggerSpec, ...] = Field(
        (), description="Where to send metrics and pictures, besides the run folder.", json_schema_extra=_one_or_several
    )

    def num_steps(self, steps_per_epoch: int) -> int:
        """Return the number of steps of a run: those of all epochs, the last of which `max_steps` may cut short."""
        whole = self.epochs * steps_per_epoch
        return whole if self.max_steps is None else min(whole, self.max_steps)

    def is_over(self, epoch: int, best_epoch: int) -> bool:
        """Whether a run is over after an epoch: it was the last, or none of the last `patience` epochs was the best."""
        return is_over(epoch, best_epoch, self.epochs, self.patience)

    @field_validator("lr_milestones")
    @classmethod
    def _increasing(cls, given: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        schedule = info.data.get("schedule")
        if schedule == "step" and not given:
            raise PydanticCustomError("milestones", "required for --schedule step, for example 10,20")
        if schedule in {"cosine", "constant"} and given:
            raise PydanticCustomError("milestones", "needs --schedule step")
        if list(given) != sorted(set(given)):
            raise PydanticCustomError("milestones", "must be increasing numbers of epochs, such as 10,20")
        return given

    @field_validator("freeze")
    @classmethod
    def _taken_from_a_run(cls, given: tuple[ModelPart, ...], info: ValidationInfo) -> tuple[ModelPart, ...]:
        if given and info.data.get("init", given) is None:
            raise PydanticCustomError("freeze", "needs --init RUN, since random weights would be frozen otherwise")
        return given

    @field_validator("tag", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        """Accept one tag or several, each of which may be a list separated by commas."""
        given = (given,) if isinstance(given, str) else given
        if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
            return given
        return tuple(dict.fromkeys(tag.strip() for each in given for tag in each.split(",")))

    @field_validator("logger", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """Accept one logger or several."""
        return (given,) if isinstance(given, str | Mapping | ComponentSpec) else given


LIMITS = ("epochs", "max_steps", "max_time", "patience")
"""The settings that end or pause a run. They may change when it is resumed."""


class DataSpec(Spec):
    """The data that a model is trained on."""

    model_config = ConfigDict(json_schema_extra=_nothing_required)

    dataset: DatasetSpec = Field(description="Source of the images.")
    binarize: Binarize = Field(description="How grey pixels are binarised; default: the dataset's choice.")
    missing: Missing = Field(
        "refuse",
        description="Handling of missing values (NaN): refused, or left out of the likelihood and passed to the encoder "
        "as zeros, with a mask beside the data (channel) or without (zeros).",
    )
    augment: AugmentSpec = Field(AugmentSpec(), description="Random augmentation of training images.")


class RunSpec(Spec):
    """A complete run: model, data and training. Together with the version of vaekit it determines the result."""

    model_config = ConfigDict(json_schema_extra=_nothing_required)

    model: ModelSpec
    data: DataSpec
    train: TrainSpec = Field(default_factory=TrainSpec)


SECTIONS: dict[str, type[Spec]] = {"model": ModelSpec, "data": DataSpec, "train": TrainSpec}
"""The sections of a spec by name."""


def validated(data: Mapping[str, Any], source: str) -> RunSpec:
    """Validate complete plain data as the spec of a run.

    Raises:
        SpecError: A field is unknown or of the wrong type; the message lists the path of each, such as ``loss.beta``.
        UnknownComponentError: A component's name is not registered.
    """
    try:
        return RunSpec.model_validate(data)
    except ValidationError as error:
        raise spec_error(error, source) from None


MOST_LINES = 10
"""The largest number of errors in a spec that are listed."""


def spec_error(error: ValidationError, source: str) -> SpecError:
    """Turn pydantic's errors into one error that lists the path of each offending option."""
    lines, names = [], set()
    errors = error.errors(include_url=False)
    for item in errors[:MOST_LINES]:
        names.add(item["loc"][0] if item["loc"] else "")
        given = "" if item["type"] in {"extra_forbidden", "missing"} else f" (given {item['input']!r:.100})"
        message = {"extra_forbidden": "unknown option", "missing": "required"}.get(item["type"], item["msg"])
        lines.append(f"{option_path(item['loc'])}: {message}{given}")
    lines += [f"and {len(errors) - MOST_LINES} more"] if len(errors) > MOST_LINES else []
    remedy = "see `vaekit train --help`" if names == {"train"} else "see `vaekit components show NAME` and `vaekit schema`"
    return SpecError(f"{source} is not valid\n  " + "\n  ".join(lines), remedy=remedy)


def option_path(loc: tuple[int | str, ...]) -> str:
    """Return a location in a `RunSpec` as written on the command line: ``('model', 'loss', 0, 'beta')`` is ``loss.beta``."""
    parts = [part for part in loc if isinstance(part, str) and "[" not in part]  # not the branch of a union, such as literal[…]
    return ".".join(parts[1:] if len(parts) > 1 and parts[0] in RunSpec.model_fields else parts)


class _PlainLoader(yaml.SafeLoader):
    """Loads plain data: no aliases, which may expand without bound, no tags, no key given twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not supported{self.peek_event().start_mark}")
        if getattr(self.peek_event(), "tag", None) not in {None, "!"}:
            raise yaml.YAMLError(f"tags are not supported{self.peek_event().start_mark}")
        self.depth = getattr(self, "depth", 0) + 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"{twice[0]} is given twice{node.start_mark}")
        return super().construct_mapping(node, deep)


class _PlainDumper(yaml.SafeDumper):
    """Writes what `_PlainLoader` reads: a value that occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_spec(path: str | Path) -> dict[str, Any]:
    """Read a spec file, YAML or JSON, or the spec of a run, in its folder or on the Hub, as plain data.

    Raises:
        SpecError: The file is missing or is not a YAML mapping.
        UsageError: The path is a URL.
        HubError: The run on the Hub cannot be fetched.
    """
    path = local_path(path) if hub.location(path) is None else hub.fetch(path)
    path = spec_file(path) if path.is_dir() else path
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE or not path.is_file():
            raise SpecError(f"{path} is not a spec", given=f"{size} bytes", expected=f"a file of {LARGEST_FILE} bytes at most")
        data = yaml.load(path.read_text("utf-8"), _PlainLoader)
    except OSError as error:
        raise SpecError(f"cannot read the spec {path}", given=error.strerror, expected="a YAML file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{path} is not valid YAML", given=plain(error)) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SpecError(f"{path} is not a mapping", given=type(data).__name__, expected="sections model, data and train")
    return data


def spec_file(folder: Path) -> Path:
    """Return the file of a run folder that holds its spec: ``spec.yaml``, or ``config.json`` for a shared run."""
    own, shared = folder / "spec.yaml", folder / hub.CONFIG
    return shared if not own.exists() and shared.is_file() and (folder / hub.WEIGHTS).is_file() else own


def plain_spec(spec: RunSpec | Mapping[str, Any] | str | Path | None) -> Mapping[str, Any]:
    """Return plain data for a spec, for a file that contains one, or for None (no data).

    Raises:
        SpecError: The file is missing or is not a YAML mapping.
    """
    if isinstance(spec, RunSpec):
        return spec.model_dump(mode="json")
    return read_spec(spec) if isinstance(spec, str | Path) else spec or {}


LARGEST_FILE, DEEPEST = 1_000_000, 20
"""The largest number of bytes, and of levels, in a spec file."""


def dump_spec(spec: RunSpec) -> str:
    """Return a spec as YAML text, from which `resolve` reproduces an equal spec.

    Raises:
        SpecError: The text would not reproduce the spec, for example because an option of a plugin is nested too deeply.
    """
    data, reason = spec.model_dump(mode="json"), "it differs when it is read back"
    for allow_unicode in (True, False):  # some characters, such as U+0085, can be read only if escaped
        text = yaml.dump(data, Dumper=_PlainDumper, sort_keys=False, allow_unicode=allow_unicode, width=120)
        try:
            if yaml.load(text, _PlainLoader) == data:
                return text
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = plain(error)
    raise SpecError("the spec cannot be written in a form that can be read back", given=reason)

"""Specs: what a run is, as frozen data.

A `RunSpec` is always whole: `vaekit.specs.resolve` makes it from a spec file, command-line flags or Python arguments, which may
leave anything out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    WrapValidator,
    field_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from vaekit import roles
from vaekit.data.specs import AugmentSpec, Binarize
from vaekit.errors import SpecError, VaekitError
from vaekit.registry import Registry
from vaekit.schema import ComponentSpec, Spec


def component_data(role: str, value: Any) -> dict[str, Any]:
    """Return a component, given as a name, a mapping or a spec, as plain data with its ``kind``.

    Raises:
        SpecError: It is none of these.
    """
    if isinstance(value, ComponentSpec):
        value = value.model_dump()
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise SpecError(f"{role}: this is neither a name nor a mapping with `kind` and options", given=repr(value))
    return dict(value)


class Choice:
    """Annotation of a field that holds a component of one registry: its name, or a mapping with ``kind`` and options.

    The component is looked up, and its schema with it, when the field is validated; the JSON schema lists all of them.

    Args:
        components: The registry.
        also: Another registry, whose components a spec file may name in this field; `resolve` moves them to their own.
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
            except VaekitError:  # a broken plugin does not take the schema with it
                continue
            schema = handler(spec.__pydantic_core_schema__)
            options.append({**schema, "required": sorted({"kind", *schema.get("required", ())})})
        return {"anyOf": options}


EncoderSpec = Annotated[ComponentSpec, Choice(roles.encoders)]
DecoderSpec = Annotated[ComponentSpec, Choice(roles.decoders)]
PosteriorSpec = Annotated[ComponentSpec, Choice(roles.posteriors)]
PriorSpec = Annotated[ComponentSpec, Choice(roles.priors)]
LikelihoodSpec = Annotated[ComponentSpec, Choice(roles.likelihoods)]
LossSpec = Annotated[ComponentSpec, Choice(roles.losses, also=roles.likelihoods)]
DatasetSpec = Annotated[ComponentSpec, Choice(roles.datasets)]
LoggerSpec = Annotated[ComponentSpec, Choice(roles.loggers)]


def _one_or_several(schema: dict[str, Any]) -> None:
    """Let the JSON schema take what fields of several components do: one or a list of them."""
    schema["anyOf"] = [schema["items"], {"type": schema.pop("type"), "items": schema.pop("items")}]


def _nothing_required(schema: dict[str, Any]) -> None:
    """Let the JSON schema, which is that of spec files, leave anything out."""
    schema.pop("required", None)


class ModelSpec(Spec):
    """The parts of a model and its objective."""

    model_config = ConfigDict(json_schema_extra=_nothing_required)

    encoder: EncoderSpec = Field(description="Network from images to posterior parameters.")
    decoder: DecoderSpec = Field(description="Network from latents to images; default: the encoder's kind.")
    posterior: PosteriorSpec = Field(description="Density q(z|x).")
    prior: PriorSpec = Field(description="Density p(z).")
    likelihood: LikelihoodSpec = Field(description="Density p(x|z); default: the data set's.")
    loss: tuple[LossSpec, ...] = Field(
        description="Terms of the objective; kl is added where nothing covers it. Names of likelihoods are taken too.",
        json_schema_extra=_one_or_several,
    )
    latent_dim: PositiveInt = Field(32, description="Number of latent dimensions.")


def _epochs(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Say in one line what epochs may be."""
    try:
        return validate(value)
    except ValidationError:
        raise PydanticCustomError("epochs", "epochs are auto, none, numbers from 1 as 1,2,10, or every:N with N from 1") from None


Numbered = Annotated[tuple[PositiveInt, ...], Field(examples=["1,2,10"])]
EveryFew = Annotated[str, StringConstraints(pattern=r"^every:[1-9][0-9]*$"), Field(examples=["every:5"])]


class TrainSpec(Spec):
    """How a model is trained."""

    epochs: PositiveInt = Field(30, description="Passes over the training images.")
    batch_size: PositiveInt = Field(128, description="Images in a step, over all processes.")
    lr: PositiveFloat = Field(2e-3, description="Highest learning rate of Adam.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Course of the learning rate; cosine ends at 0.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="Decoupled weight decay (AdamW).")
    grad_clip: PositiveFloat | None = Field(None, description="Largest norm of the gradient.")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Highest decay, between 0 and 1, of a moving average of the weights, which is then validated, drawn and "
        "kept. It rises as (1 + t) / (10 + t) with the steps t, so short runs average over about their last tenth.",
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of every random draw.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to compute; auto takes CUDA, MPS, CPU.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="Arithmetic; auto takes bf16 on CUDA, else fp32.")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="Whether each of several processes holds the whole model, or a part of it."
    )
    compile: Literal["auto", "on", "graph", "off"] = Field(
        "auto",
        description="How a training step is launched: compiled (on), or on CUDA as one recorded graph (graph; on does both). "
        "Auto compiles long runs of MLPs on a CPU, and takes the graph on CUDA.",
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        min(8, os.cpu_count() or 1),
        description="Processes that decode pictures which do not fit in memory; one a processor, at most 8, by default.",
    )
    pictures: Annotated[Literal["auto", "none"] | Numbered | EveryFew, WrapValidator(_epochs)] = Field(
        "auto", description="Epochs whose reconstructions and samples are kept."
    )
    animation: Literal["gif", "webp", "avif"] = Field("gif", description="Format of the animation of training.")
    checkpoint_seconds: PositiveFloat = Field(30.0, description="Most seconds between two checkpoints.")
    threads: PositiveInt | None = Field(None, description="Threads of the CPU; as many as torch takes by default.")
    logger: tuple[LoggerSpec, ...] = Field(
        (), description="Where numbers and pictures go besides the run folder.", json_schema_extra=_one_or_several
    )

    @field_validator("logger", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """Accept one logger or several."""
        return (given,) if isinstance(given, str | Mapping | ComponentSpec) else given


class DataSpec(Spec):
    """What is trained on."""

    model_config = ConfigDict(json_schema_extra=_nothing_required)

    dataset: DatasetSpec = Field(description="Images.")
    binarize: Binarize = Field(description="How grey pixels become binary ones; default: the data set's way.")
    augment: AugmentSpec = Field(AugmentSpec(), description="Random changes to training images.")


class RunSpec(Spec):
    """A whole run: model, data and training. Together with vaekit's version it determines the result."""

    model_config = ConfigDict(json_schema_extra=_nothing_required)

    model: ModelSpec
    data: DataSpec
    train: TrainSpec = Field(default_factory=TrainSpec)


SECTIONS: dict[str, type[Spec]] = {"model": ModelSpec, "data": DataSpec, "train": TrainSpec}
"""The sections of a spec."""


def validated(data: Mapping[str, Any], source: str) -> RunSpec:
    """Validate whole plain data as a run's spec.

    Raises:
        SpecError: A field is unknown or of the wrong type; the message holds every path, as ``loss.beta``.
        UnknownComponentError: A component's name is not registered.
    """
    try:
        return RunSpec.model_validate(data)
    except ValidationError as error:
        raise spec_error(error, source) from None


def spec_error(error: ValidationError, source: str) -> SpecError:
    """Turn pydantic's errors into one that names each option by its path."""
    lines, names = [], set()
    for item in error.errors(include_url=False):
        names.add(item["loc"][0] if item["loc"] else "")
        given = "" if item["type"] in {"extra_forbidden", "missing"} else f" (given {item['input']!r})"
        message = {"extra_forbidden": "there is no such option", "missing": "it must be given"}.get(item["type"], item["msg"])
        lines.append(f"{option_path(item['loc'])}: {message}{given}")
    remedy = "see `vaekit train --help`" if names == {"train"} else "see `vaekit components show NAME` and `vaekit schema`"
    return SpecError(f"{source} is not valid\n  " + "\n  ".join(lines), remedy=remedy)


def option_path(loc: tuple[int | str, ...]) -> str:
    """Write a location in a `RunSpec` as on the command line: ``('model', 'loss', 0, 'beta')`` is ``loss.beta``."""
    parts = [part for part in loc if isinstance(part, str) and "[" not in part]  # pydantic writes a union's branch as literal[…]
    return ".".join(parts[1:] if len(parts) > 1 and parts[0] in RunSpec.model_fields else parts)


def read_spec(path: str | Path) -> dict[str, Any]:
    """Read a spec file as plain data, YAML or JSON.

    Raises:
        SpecError: The file is absent or is not a YAML mapping.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read the spec {path}", given=error.strerror, expected="a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not YAML", given=" ".join(str(error).split())) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SpecError(f"{path} is not a mapping", given=type(data).__name__, expected="sections model, data and train")
    return data


def plain_spec(spec: RunSpec | Mapping[str, Any] | str | Path | None) -> Mapping[str, Any]:
    """Return the plain data of a spec, of a file that holds one, or of none.

    Raises:
        SpecError: The file is absent or is not a YAML mapping.
    """
    if isinstance(spec, RunSpec):
        return spec.model_dump(mode="json")
    return read_spec(spec) if isinstance(spec, str | Path) else spec or {}


def dump_spec(spec: RunSpec) -> str:
    """Write a spec as YAML that `resolve` reads back to an equal one."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)

"""Specs: what a run is, as frozen data. A YAML file, command-line flags and Python arguments all become a `RunSpec`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from vaekit import registry
from vaekit.data.specs import AugmentSpec, Binarize
from vaekit.errors import SpecError, UnknownComponentError, VaekitError
from vaekit.registry import Registry
from vaekit.schema import ComponentSpec, Spec


class Choice:
    """Annotation of a field that holds a component of one registry: its name, or a mapping with ``kind`` and options.

    The component is looked up, and its schema with it, when the field is validated; the JSON schema lists all of them.

    Args:
        components: The registry.
        moved: Another, whose components may stand in the field too; the spec that holds it moves them elsewhere.
    """

    def __init__(self, components: Registry[Any], moved: Registry[Any] | None = None) -> None:
        self.components = components
        self.listed = (components,) if moved is None else (components, moved)

    def _validate(self, value: Any) -> ComponentSpec:
        if isinstance(value, ComponentSpec):
            value = value.model_dump()
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            raise PydanticCustomError(
                "component", "a {role} is a name, or a mapping with `kind` and options", {"role": self.components.role}
            )
        return self.components.spec(value["kind"]).model_validate(dict(value))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda spec: spec if isinstance(spec, str) else spec.model_dump(mode="json")
            ),
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


EncoderSpec = Annotated[ComponentSpec, Choice(registry.encoders)]
DecoderSpec = Annotated[ComponentSpec, Choice(registry.decoders)]
PosteriorSpec = Annotated[ComponentSpec, Choice(registry.posteriors)]
PriorSpec = Annotated[ComponentSpec, Choice(registry.priors)]
LikelihoodSpec = Annotated[ComponentSpec, Choice(registry.likelihoods)]
LossSpec = Annotated[ComponentSpec, Choice(registry.losses, moved=registry.likelihoods)]
DatasetSpec = Annotated[ComponentSpec, Choice(registry.datasets)]
LoggerSpec = Annotated[ComponentSpec, Choice(registry.loggers)]


def _one_or_several(schema: dict[str, Any]) -> None:
    """Let the JSON schema take what fields of several components do: one or a list of them."""
    schema["anyOf"] = [schema["items"], {"type": schema.pop("type"), "items": schema.pop("items")}]


class ModelSpec(Spec):
    """The parts of a model and its objective."""

    encoder: EncoderSpec = Field("mlp", description="Network from images to posterior parameters.")  # type: ignore[assignment]
    decoder: DecoderSpec | None = Field(None, description="Network from latents to images; by default the encoder's kind.")
    posterior: PosteriorSpec = Field("gaussian", description="Density q(z|x).")  # type: ignore[assignment]
    prior: PriorSpec = Field("normal", description="Density p(z).")  # type: ignore[assignment]
    likelihood: LikelihoodSpec | None = Field(None, description="Density p(x|z); by default the data set's.")
    loss: tuple[LossSpec, ...] = Field(
        (),
        description="Terms of the objective; kl is added where nothing covers it. Names of likelihoods are taken too.",
        json_schema_extra=_one_or_several,
    )
    latent_dim: PositiveInt = Field(32, description="Number of latent dimensions.")

    @model_validator(mode="before")
    @classmethod
    def _sort_losses(cls, data: Any) -> Any:
        """Accept one loss or several, and move likelihoods that stand among them to ``likelihood``."""
        if not isinstance(data, Mapping) or "loss" not in data:
            return data
        given = data["loss"]
        if isinstance(given, str | Mapping | ComponentSpec):
            given = [given]
        elif not isinstance(given, Sequence):
            return data  # the field's own validator says what is wrong
        losses, likelihoods = sort_terms(given)
        if data.get("likelihood") is not None:
            likelihoods.append(data["likelihood"])
        return {**data, "loss": losses, "likelihood": at_most_one_likelihood(likelihoods)}


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

    dataset: DatasetSpec = Field("digits", description="Images.")  # type: ignore[assignment]
    binarize: Binarize | None = Field(None, description="How grey pixels become binary ones; by default the data set's way.")
    augment: AugmentSpec = Field(AugmentSpec(), description="Random changes to training images.")


class RunSpec(Spec):
    """A whole run: model, data and training. Together with vaekit's version it determines the result."""

    model: ModelSpec = Field(default_factory=ModelSpec)
    data: DataSpec = Field(default_factory=DataSpec)
    train: TrainSpec = Field(default_factory=TrainSpec)


def kind_of(component: Any) -> str | None:
    """Return the kind that a name, a mapping or a spec stands for; None where it stands for none."""
    kind = component.get("kind") if isinstance(component, Mapping) else getattr(component, "kind", component)
    return kind if isinstance(kind, str) else None


def sort_terms(terms: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the losses and the likelihoods among what ``--loss`` takes: names, mappings or specs of either.

    Raises:
        UnknownComponentError: A name is neither.
    """
    losses: list[Any] = []
    likelihoods: list[Any] = []
    for term in terms:
        kind = kind_of(term)
        if kind is not None and kind not in registry.losses and kind not in registry.likelihoods:
            raise unknown_loss(kind)
        (likelihoods if kind is not None and kind in registry.likelihoods else losses).append(term)
    return losses, likelihoods


def at_most_one_likelihood(likelihoods: Sequence[Any]) -> Any | None:
    """Return the likelihood among several that there must not be, or None.

    Raises:
        SpecError: There are several; the message names them.
    """
    if len(likelihoods) > 1:
        names = " and ".join(repr(kind_of(likelihood)) for likelihood in likelihoods)
        raise SpecError("a model has exactly one likelihood", given=names, remedy="keep one of them")
    return likelihoods[0] if likelihoods else None


def unknown_loss(kind: str) -> VaekitError:
    """Return the error for a name that is neither a loss nor a likelihood."""
    names = (*registry.losses.kinds(), *registry.likelihoods.kinds())
    near = difflib.get_close_matches(kind, names, n=1)
    return UnknownComponentError(
        f"no loss or likelihood is called {kind!r}",
        expected=f"a loss ({', '.join(registry.losses.kinds())}) or a likelihood ({', '.join(registry.likelihoods.kinds())})",
        remedy=f"did you mean {near[0]!r}?" if near else "see `vaekit components list`",
    )


def parse_spec(data: Any, source: str = "the spec") -> RunSpec:
    """Validate plain data as a run's spec.

    Raises:
        SpecError: A field is unknown or of the wrong type; the message holds every path, as ``loss.beta``.
        UnknownComponentError: A component's name is not registered.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"{source} is not a mapping", given=type(data).__name__, expected="sections model, data and train")
    try:
        return RunSpec.model_validate(dict(data))
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
    """Write a spec as YAML that `parse_spec` reads back to an equal one."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)

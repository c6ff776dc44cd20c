"""Schedules of loss hyperparameters, as data and as modules.

An option of type `Scheduled` is a number or a schedule. As text, a schedule is ``linear(0, 4, epochs=10)`` or, shorter,
``linear(0, 4, 10)``; as data, it is a mapping, ``{schedule: linear, start: 0, end: 4, epochs: 10}``. A loss turns the option into
a module with `scheduled` and calls it with the epoch of the trace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PositiveFloat, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from torch import Tensor, nn

from vaekit.schema import Spec, alternatives


def _text(number: float) -> str:
    """Return the shortest text that parses to the same number."""
    return repr(float(number)).removesuffix(".0")


class Schedule(Spec):
    """A number that changes from ``start`` to ``end`` over epochs; evaluation uses ``end``.

    Args:
        start: The number at the start of training.
        end: The final number.
    """

    schedule: str
    start: float
    end: float

    def __str__(self) -> str:
        """Return the canonical text, as written in specs: arguments with defaults are named."""
        needed = type(self).needed()
        texts = [_text(value) if name in needed else f"{name}={_text(value)}" for name, value in self.numbers().items()]
        return f"{self.schedule}({', '.join(texts)})"

    def numbers(self) -> dict[str, float]:
        """Return the arguments by name."""
        return {name: getattr(self, name) for name in self.arguments()}

    @classmethod
    def kind(cls) -> str:
        """Return the name of the schedule."""
        name: str = cls.model_fields["schedule"].default
        return name

    @classmethod
    def arguments(cls) -> tuple[str, ...]:
        """Return the argument names in order."""
        return tuple(name for name in cls.model_fields if name != "schedule")

    @classmethod
    def needed(cls) -> tuple[str, ...]:
        """Return the names of the required arguments."""
        return tuple(name for name in cls.arguments() if cls.model_fields[name].is_required())

    @classmethod
    def signature(cls) -> str:
        """Return the signature, such as ``cyclic(start, end, period, rise=0.5)``."""
        more = [f"{name}={_text(cls.model_fields[name].default)}" for name in cls.arguments() if name not in cls.needed()]
        return f"{cls.kind()}({', '.join([*cls.needed(), *more])})"

    @staticmethod
    def progress(epoch: Tensor, *shape: Tensor) -> Tensor:
        """Return the progress from ``start`` (0) to ``end`` (1); exactly 1 at an infinite epoch.

        Args:
            epoch: The number of epochs completed, 0-d.
            shape: The arguments after ``start`` and ``end``, each 0-d.
        """
        raise NotImplementedError


class LinearSchedule(Schedule):
    """A linear schedule over ``epochs`` epochs."""

    schedule: Literal["linear"] = "linear"
    epochs: PositiveFloat

    @staticmethod
    def progress(epoch: Tensor, *shape: Tensor) -> Tensor:
        (epochs,) = shape
        return (epoch / epochs).clamp(max=1.0)


class CosineSchedule(Schedule):
    """Half a cosine period over ``epochs`` epochs: slow at both ends."""

    schedule: Literal["cosine"] = "cosine"
    epochs: PositiveFloat

    @staticmethod
    def progress(epoch: Tensor, *shape: Tensor) -> Tensor:
        (epochs,) = shape
        return 0.5 - 0.5 * torch.cos(math.pi * (epoch / epochs).clamp(max=1.0))


class SigmoidSchedule(Schedule):
    """A logistic curve over ``epochs`` epochs, rescaled to reach both ends; a larger ``slope`` makes it steeper.

    References:
        Bowman et al. (2016), "Generating Sentences from a Continuous Space", CoNLL, arXiv:1511.06349, section 3.1.
    """

    schedule: Literal["sigmoid"] = "sigmoid"
    epochs: PositiveFloat
    slope: PositiveFloat = 10.0

    @staticmethod
    def progress(epoch: Tensor, *shape: Tensor) -> Tensor:
        epochs, slope = shape
        centred = (epoch / epochs).clamp(max=1.0) - 0.5
        return 0.5 + 0.5 * torch.tanh(slope / 2 * centred) / torch.tanh(slope / 4)  # tanh is the logistic function of twice that


class CyclicSchedule(Schedule):
    """A linear ramp that restarts every ``period`` epochs: it takes a fraction ``rise`` of a period, then stays at ``end``.

    References:
        Fu et al. (2019), "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing", NAACL, arXiv:1903.10145,
            equation 6.
    """

    schedule: Literal["cyclic"] = "cyclic"
    period: PositiveFloat
    rise: Annotated[float, Field(gt=0, le=1)] = 0.5

    @staticmethod
    def progress(epoch: Tensor, *shape: Tensor) -> Tensor:
        period, rise = shape
        periods = epoch / period
        return torch.where(torch.isfinite(periods), (torch.frac(periods) / rise).clamp(max=1.0), torch.ones_like(periods))


class StepSchedule(Schedule):
    """``start`` for ``epochs`` epochs, then ``end``."""

    schedule: Literal["step"] = "step"
    epochs: PositiveFloat

    @staticmethod
    def progress(epoch: Tensor, *shape: Tensor) -> Tensor:
        (epochs,) = shape
        return (epoch >= epochs).to(epoch.dtype)


KINDS: dict[str, type[Schedule]] = {
    each.kind(): each for each in (LinearSchedule, CosineSchedule, SigmoidSchedule, CyclicSchedule, StepSchedule)
}
"""The schedules by name; ``constant(value)``, a plain number, is accepted as well."""
SIGNATURES = ", ".join(each.signature() for each in KINDS.values())
_CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*")


class Levels:
    """Annotation of options that are a number or a schedule.

    Args:
        low: The minimum value at both ends of a schedule; None for no limit.
    """

    def __init__(self, low: float | None = None) -> None:
        self.low = low
        self._number: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(ge=low, allow_inf_nan=False)])

    def read(self, value: Any) -> float | Schedule:
        """Return a number or a schedule, given as an object, text or data.

        Raises:
            PydanticCustomError: The value is invalid.
        """
        found = _read(value)
        for name, number in (("", found),) if not isinstance(found, Schedule) else found.numbers().items():
            if name in {"", "start", "end"}:
                try:
                    level = self._number.validate_python(number)
                except ValidationError as error:
                    raise _invalid(f"{name}: {_first(error)}" if name else _first(error)) from None
        return found if isinstance(found, Schedule) else level

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(lambda each: str(each) if isinstance(each, Schedule) else each)
        return core_schema.no_info_plain_validator_function(self.read, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        number = handler(core_schema.float_schema(ge=self.low))
        text = {"type": "string", "pattern": rf"^({'|'.join((*KINDS, 'constant'))})\(.*\)$", "description": SIGNATURES}
        models = []
        for each in KINDS.values():
            model = dict(handler(each.__pydantic_core_schema__))
            models.append({**model, "required": ["schedule", *model.get("required", ())]} if "properties" in model else model)
        return {"anyOf": [number, text, *models]}


Scheduled = Annotated[float | Schedule, Levels()]
"""The type of an option that is a number or a schedule."""
NonNegativeScheduled = Annotated[float | Schedule, Levels(0)]
"""The type of an option that is a non-negative number or a schedule of such numbers."""


class Number(nn.Module):
    """A constant as a module, called with the epoch; a buffer, so that sweeps can stack models with different values.

    Args:
        value: The number.
    """

    value: Tensor

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float(value)), persistent=False)

    if TYPE_CHECKING:

        def __call__(self, epoch: Tensor | None) -> Tensor: ...

    def forward(self, epoch: Tensor | None) -> Tensor:
        """Return the number at an epoch, 0-d; None and infinity mean the end of training."""
        del epoch
        return self.value


class Changing(Number):
    """A number that follows a schedule, whose parameters are buffers.

    Args:
        schedule: The schedule.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule.end)
        numbers = schedule.numbers()
        del numbers["end"]
        for name, number in numbers.items():
            self.register_buffer(name, torch.tensor(number), persistent=False)
        self.shape = tuple(name for name in numbers if name != "start")
        self.progress = type(schedule).progress

    def forward(self, epoch: Tensor | None) -> Tensor:
        if epoch is None:
            return self.value
        progress = self.progress(epoch, *(getattr(self, name) for name in self.shape))
        start: Tensor = self.get_buffer("start")
        return start * (1 - progress) + self.value * progress  # exact at both ends


def scheduled(value: float | Schedule) -> Number:
    """Return an option of type `Scheduled` as a module that maps the epoch of a trace to a number, 0-d.

    Example:
        >>> beta = scheduled(LinearSchedule(start=0, end=4, epochs=10))
        >>> beta(torch.tensor(5.0)), beta(torch.tensor(torch.inf))
        (tensor(2.), tensor(4.))
    """
    return Changing(value) if isinstance(value, Schedule) else Number(value)


def takes_schedules(annotation: Any) -> bool:
    """Whether a type accepts schedules."""
    return Schedule in alternatives(annotation)


def _read(value: Any) -> Any:
    """Parse text and data into a schedule or a plain number; return other values unchanged."""
    if isinstance(value, str) and (call := _CALL.fullmatch(value)):
        return _build(call[1], *_arguments(call[2]))
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise _invalid(f"must be a number or a schedule: {SIGNATURES}") from None
    if isinstance(value, Mapping):
        if not isinstance(value.get("schedule"), str):
            raise _invalid(f"needs `schedule`, one of {', '.join(KINDS)}, and its arguments")
        return _build(value["schedule"], [], {name: each for name, each in value.items() if name != "schedule"})
    if isinstance(value, bool | None | list | tuple):
        raise _invalid(f"must be a number or a schedule: {SIGNATURES}")
    return value


def _arguments(text: str) -> tuple[list[str], dict[str, str]]:
    """Split the text in parentheses into positional and named arguments."""
    by_position: list[str] = []
    by_name: dict[str, str] = {}
    for part in text.split(",") if text.strip() else []:
        name, equals, value = (each.strip() for each in part.partition("="))
        if equals and name in by_name:
            raise _invalid(f"{name} is given twice")
        if equals:
            by_name[name] = value
        elif by_name:
            raise _invalid(f"positional arguments must come first, but {name!r} does not")
        else:
            by_position.append(name)
    return by_position, by_name


def _build(kind: str, by_position: list[str], by_name: Mapping[str, Any]) -> float | Schedule:
    """Build a schedule from its name and arguments."""
    if kind == "constant":
        names: tuple[str, ...] = ("value",)
        signature = "constant(value)"
    elif kind in KINDS:
        names, signature = KINDS[kind].arguments(), KINDS[kind].signature()
    else:
        raise _invalid(f"unknown schedule {kind!r}, must be one of {SIGNATURES}")
    if len(by_position) > len(names):
        raise _invalid(f"{len(by_position)} positional arguments, must be {signature}")
    if twice := [name for name in names[: len(by_position)] if name in by_name]:
        raise _invalid(f"{twice[0]} is given twice, must be {signature}")
    given = {**dict(zip(names, by_position, strict=False)), **by_name}
    if unknown := [name for name in given if name not in names]:
        raise _invalid(f"unknown argument {unknown[0]!r}, must be {signature}")
    try:
        if kind == "constant":
            return TypeAdapter(float).validate_python(given.get("value"))
        return KINDS[kind].model_validate(given)
    except ValidationError as error:
        (name, *_), message = error.errors()[0]["loc"] or ("value",), _first(error)
        raise _invalid(f"{name}: {message}, must be {signature}") from None


def _invalid(message: str) -> PydanticCustomError:
    return PydanticCustomError("schedule", "{message}", {"message": message})


def _first(error: ValidationError) -> str:
    return error.errors(include_url=False)[0]["msg"]

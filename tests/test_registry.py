"""Names, origins and schemas of components; invalid components and their errors."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from pydantic import Field, ValidationError

import vaekit
from vaekit import roles
from vaekit.errors import PluginError, UnknownComponentError
from vaekit.interfaces import Backbone, Loss
from vaekit.roles import REGISTRIES
from vaekit.schema import derive_spec, option_docs

ALL = [(r, kind) for r in REGISTRIES for kind in r.kinds()]
IDS = [f"{r.role}-{kind}" for r, kind in ALL]


@pytest.fixture
def scratch():
    """Forget what a test registers."""
    yield
    for components in REGISTRIES:
        for kind in [k for k, cls in components._classes.items() if not cls.__module__.startswith("vaekit.")]:
            del components._classes[kind]
            components._specs.pop(kind, None)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])


def test_names_are_read_without_importing_torch_or_pydantic():
    code = """
import sys
import vaekit
from vaekit import roles
for r in roles.REGISTRIES:
    for kind in r.kinds():
        assert r.summary(kind), (r.role, kind)
        r.origin(kind)
print(*(m for m in ("torch", "pydantic", "numpy") if m in sys.modules))
"""
    assert run(code).stdout.strip() == ""


@pytest.mark.parametrize(("components", "kind"), ALL, ids=IDS)
def test_every_component_has_a_schema_with_described_options_and_a_documented_origin(components, kind):
    cls = components.get(kind)
    assert cls.kind == kind
    spec = components.spec(kind)
    assert spec.model_fields["kind"].default == kind
    for name, field in spec.model_fields.items():
        if name != "kind":
            assert field.description, f"{kind}.{name} is not described under Args:"
    assert components.summary(kind) == cls.__doc__.strip().partition("\n")[0]
    assert str(components.origin(kind)) == f"vaekit {vaekit.__version__}"


def test_the_schema_matches_the_signature(scratch):
    @vaekit.losses("toy")
    class Toy(Loss):
        """A toy.

        Args:
            weight: How much,
                on two lines.
            mode: Which way.
        """

        def __init__(self, *, weight: Annotated[float, Field(gt=0)] = 2.0, mode: Literal["a", "b"] = "a") -> None:
            super().__init__()
            self.given = (weight, mode)

        def forward(self, trace):
            return trace.z.sum(-1)

    spec = roles.losses.spec("toy")
    assert spec().model_dump() == {"kind": "toy", "weight": 2.0, "mode": "a"}
    assert spec.model_fields["weight"].description == "How much, on two lines."
    assert roles.losses.build(spec(weight=3)).given == (3.0, "a")
    for wrong in ({"weight": 0}, {"mode": "c"}, {"other": 1}, {"weight": float("inf")}):
        with pytest.raises(ValidationError):
            spec(**wrong)
    with pytest.raises(ValidationError):
        spec().weight = 1.0


def test_a_component_takes_the_wiring_that_it_names(scratch):
    @vaekit.encoders("wired")
    class Wired(Backbone):
        """Takes its shapes the other way round."""

        def __init__(self, out_shape: tuple[int, ...], in_shape: tuple[int, ...]) -> None:
            super().__init__(in_shape, out_shape)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    built = roles.encoders.build(roles.encoders.spec("wired")(), in_shape=(1, 2, 3), out_shape=(4,))
    assert (built.in_shape, built.out_shape) == ((1, 2, 3), (4,))


def test_an_unknown_name_lists_the_choices_and_suggests_the_closest():
    with pytest.raises(UnknownComponentError, match=r"unknown encoder 'cn'") as caught:
        roles.encoders.get("cn")
    assert "cnn, ldm, mlp, resnet" in str(caught.value)
    assert "did you mean 'cnn'?" in str(caught.value)


def test_two_components_of_one_name_are_refused_and_both_are_named(scratch):
    @vaekit.losses("mine")
    class First(Loss):
        """First."""

        def forward(self, trace):
            return trace.z.sum(-1)

    with pytest.raises(PluginError, match=r"two losses claim the name 'mine'") as caught:

        @vaekit.losses("mine")
        class Second(Loss):
            """Second."""

            def forward(self, trace):
                return trace.z.sum(-1)

    assert "First" in str(caught.value)
    assert "Second" in str(caught.value)


def test_a_built_in_name_cannot_be_taken(scratch):
    with pytest.raises(PluginError, match="two losses claim the name 'kl'"):

        @vaekit.losses("kl")
        class Mine(Loss):
            """Mine."""

            def forward(self, trace):
                return trace.z.sum(-1)

    assert roles.losses.get("kl").__module__ == "vaekit.components.losses.kl"


def test_a_class_can_be_defined_again_as_in_a_notebook(scratch):
    for text in ("old", "new"):

        @vaekit.losses("again")
        class Again(Loss):
            """Again."""

            made = text

            def forward(self, trace):
                return trace.z.sum(-1)

    assert roles.losses.get("again").made == "new"


def test_classes_of_another_role_are_refused(scratch):
    with pytest.raises(PluginError, match=r"is not a vaekit\.Loss"):
        vaekit.losses("module")(torch.nn.Linear)
    with pytest.raises(PluginError, match=r"is not a vaekit\.Loss"):
        vaekit.losses("function")(lambda trace: trace)


class VarKeywords:
    def __init__(self, **options: int) -> None: ...


class VarPositional:
    def __init__(self, *options: int) -> None: ...


class Untyped:
    def __init__(self, *, size=3) -> None: ...


class Private:
    def __init__(self, *, _size: int = 3) -> None: ...


class Kind:
    def __init__(self, *, kind: int = 3) -> None: ...


class Clash:
    def __init__(self, *, model_dump: int = 3) -> None: ...


class Positional:
    def __init__(self, in_shape: tuple[int, ...], depth: int) -> None: ...


class Unserialisable:
    def __init__(self, *, layer: torch.nn.Module = None) -> None: ...


class Unresolvable:
    def __init__(self, *, size: "Missing" = 3) -> None: ...  # noqa: F821


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (VarKeywords, "hides options from the schema"),
        (VarPositional, "hides options from the schema"),
        (Untyped, "option 'size' has no type"),
        (Private, "an option cannot be named '_size'"),
        (Kind, "an option cannot be named 'kind'"),
        (Clash, "an option cannot be named 'model_dump'"),
        (Positional, "unknown positional parameter 'depth'"),
        (Unserialisable, "cannot derive a schema"),
        (Unresolvable, "cannot be resolved"),
    ],
)
def test_a_signature_that_cannot_be_a_schema_is_explained(cls, reason):
    with pytest.raises(PluginError, match=reason) as caught:
        derive_spec(cls, "bad", ("in_shape", "out_shape"))
    assert cls.__qualname__ in str(caught.value)


def test_descriptions_of_options_are_read_from_the_docstring():
    doc = """One line.

    Args:
        first: Of one line.
        second_one: Of two
            lines: with a colon.

    Returns:
        third: Nothing.
    """
    assert option_docs(doc) == {"first": "Of one line.", "second_one": "Of two lines: with a colon."}
    assert option_docs(None) == {}


def test_losses_and_likelihoods_share_no_name():
    assert not set(roles.losses.kinds()) & set(roles.likelihoods.kinds())


class Early(Backbone):
    """Is registered before."""

    def forward(self, x):
        return x


def test_temporary_registration_ends_and_can_be_repeated():
    with roles.encoders.temporarily(early=Early):
        assert roles.encoders.get("early") is Early
        assert roles.encoders.spec("early").model_fields["kind"].default == "early"

        @roles.encoders("meanwhile")
        class Meanwhile(Early):
            """Is registered meanwhile, by a decorator."""

        roles.encoders.get("resnet")  # may be imported here for the first time
    assert not {"early", "meanwhile"} & {*roles.encoders.kinds()}
    assert roles.encoders.get("resnet").kind == "resnet"
    with roles.encoders.temporarily(late=Early, meanwhile=Meanwhile):
        assert Early.kind == "late"
    assert not hasattr(Early, "kind")


def test_a_previous_registration_is_restored_with_its_options():
    def define(default):
        class Again(Early):
            """Is defined twice, as in a notebook."""

            def __init__(self, in_shape, out_shape, *, size: int = default) -> None: ...

        return Again

    first, second = define(1), define(2)
    with roles.encoders.temporarily(again=first):
        with roles.encoders.temporarily(again=second):
            assert roles.encoders.spec("again").model_fields["size"].default == 2
        assert roles.encoders.get("again") is first
        assert roles.encoders.spec("again").model_fields["size"].default == 1


def test_temporary_registration_is_all_or_nothing():
    with pytest.raises(PluginError, match=r"is not a vaekit\.Backbone"), roles.encoders.temporarily(early=Early, other=Loss):
        pytest.fail("registered")
    assert "early" not in roles.encoders
    assert not hasattr(Early, "kind")


def test_components_first_imported_meanwhile_stay_registered():
    code = """
import vaekit
with vaekit.losses.temporarily():
    vaekit.losses.get("tc")
print(vaekit.losses.get("tc").kind, vaekit.losses.spec("tc").model_fields["beta"].default)
"""
    assert run(code).stdout.split() == ["tc", "6.0"]

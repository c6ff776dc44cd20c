"""The checks find what they look for, and say what was expected and what came."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import vaekit
from vaekit.components.likelihoods.gaussian import Gaussian as GaussianLikelihood
from vaekit.components.posteriors.gaussian import Gaussian
from vaekit.components.priors.normal import Normal
from vaekit.data import Splits, TensorImages
from vaekit.distributions import DiagonalGaussian
from vaekit.errors import UnknownComponentError
from vaekit.interfaces import Backbone, Capability, Dataset, Likelihood, Loss
from vaekit.testing import Check, ConformanceError, check_encoder, check_prior, checks

ROOT = Path(__file__).parents[2]
Shape = tuple[int, ...]


class Sound(Backbone):
    """One linear layer.

    Args:
        scale: Of the output.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, scale: float = 1.0) -> None:
        super().__init__(in_shape, out_shape)
        self.scale = scale
        self.linear = nn.Linear(torch.Size(in_shape).numel(), torch.Size(out_shape).numel())

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(x.flatten(1)).unflatten(1, self.out_shape)


class Undocumented(Sound):
    def __init__(self, in_shape: Shape, out_shape: Shape, *, scale: float = 1.0) -> None:
        super().__init__(in_shape, out_shape, scale=scale)


class Described(Sound):
    """Without its option."""

    def __init__(self, in_shape: Shape, out_shape: Shape, *, width: int = 1) -> None:
        super().__init__(in_shape, out_shape)


class Flat(Sound):
    """Leaves the output flat."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class SquareOnly(Sound):
    """Fails on oblong images, when it is too late."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.transpose(-1, -2) if x.shape[-1] > 1 else x)


class Idle(Sound):
    """Has a parameter that it does not use."""

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.unused = nn.Parameter(torch.zeros(3))


class Centred(Sound):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Noisy(Sound):
    """Adds noise in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-3 * torch.randn(())


class Counting(Sound):
    """Counts its calls in a buffer."""

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Unsaved(Sound):
    """Keeps what it needs out of its state."""

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.register_buffer("shift", torch.randn(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


class Single(Sound):
    """Computes in float32 whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class Stay(Sound):
    """Makes a tensor on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.ones(self.out_shape)


class Branching(Sound):
    """Decides by a number in Python."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.sum().item() > 0 else 2 * y


@pytest.mark.parametrize("check", checks("encoder"))
def test_a_sound_encoder_passes(check: Check) -> None:
    check(Sound, options={"scale": 0.5})


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (Undocumented, "check_documentation", "has no docstring"),
        (Described, "check_documentation", "width not described"),
        (Flat, "check_output_shape", r"expected: \(1, 2, 5\)\n  came:     \(1, 10\)"),
        (SquareOnly, "check_output_shape", r"a batch of 1 for images of \(1, 31, 47\)\n  expected: no error"),
        (Idle, "check_gradient", r"parameter unused.*\n  expected: a finite one above 1e-09\n  came:     none"),
        (Centred, "check_independence", "one by one"),
        (Noisy, "check_determinism", "the same input twice"),
        (Counting, "check_purity", "calls changed"),
        (Unsaved, "check_state_dict", "after loading the saved weights"),
        (Single, "check_dtype", r"expected: torch\.float64\n  came:     torch\.float32"),
        (Stay, "check_device", "meta device"),
        (Branching, "check_compile", "fullgraph"),
        (Branching, "check_vmap", "vmap"),
    ],
    ids=lambda value: getattr(value, "__name__", None) if isinstance(value, type) else None,
)
def test_a_faulty_encoder_is_found_out(cls: type, check: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message) as caught:
        named("encoder", check)(cls)
    assert str(caught.value).startswith(f"encoder {cls.__name__!r} fails {check}: ")
    assert "came:" in str(caught.value)


def named(role: str, name: str) -> Check:
    (found,) = [check for check in checks(role) if check.__name__ == name]
    return found


class Fixed(DiagonalGaussian):
    """A density that is twice too high."""

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return super().log_prob_per_dim(value) + 0.7


class TooHigh(Gaussian):
    """A posterior whose density integrates to 2."""

    def forward(self, params: Tensor) -> DiagonalGaussian:
        return Fixed(*super().forward(params))


class Claims(Normal):
    """A prior that hides its density."""

    provides: ClassVar[frozenset[Capability]] = frozenset()


class TooSure(GaussianLikelihood):
    """A likelihood that forgets a constant."""

    def forward(self, params: Tensor) -> Any:
        p = super().forward(params)
        return type("Shifted", (type(p),), {"log_prob": lambda self, x: p.log_prob(x) + 1})(*p)


class Leaky(Loss):
    """A statistic of the batch that does not say so."""

    def forward(self, trace: Any) -> Tensor:
        return trace.z.square().sum(-1) - trace.z.mean()


class Constant(Loss):
    """Has no gradient."""

    def forward(self, trace: Any) -> Tensor:
        return trace.z.detach().sum(-1)


class Slots(Loss):
    """Covers what there is not."""

    covers = frozenset({"everything"})

    def forward(self, trace: Any) -> Tensor:
        return trace.z.sum(-1)


class Same(Dataset):
    """Tests on what it trains on."""

    def load(self) -> Splits:
        images = TensorImages(torch.randint(0, 256, (9, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
        return Splits(images, images, images)


class Other(Dataset):
    """Is another set each time."""

    def load(self) -> Splits:
        return Splits(*(TensorImages(torch.randint(0, 256, (9, 1, 4, 4), dtype=torch.uint8)) for _ in range(3)))


@pytest.mark.parametrize(
    ("role", "cls", "check", "message"),
    [
        ("posterior", TooHigh, "check_density", r"expected: 1\n  came:     2\.01"),
        ("prior", Claims, "check_sampling_and_capabilities", "declared: False\n  came:     there"),
        ("likelihood", TooSure, "check_normalised", "the mass of one pixel"),
        ("loss", Leaky, "check_independence", "one by one"),
        ("loss", Constant, "check_gradient", "a constant"),
        ("loss", Slots, "check_declarations", "everything"),
        ("dataset", Same, "check_disjointness", "9 of the first"),
        ("dataset", Other, "check_determinism", "loaded twice"),
    ],
)
def test_a_faulty_component_is_found_out(role: str, cls: type, check: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        named(role, check)(cls)


def test_a_decoder_that_cannot_be_exported_is_found_out() -> None:
    with pytest.raises(ConformanceError, match="as `vaekit export` does"):
        named("decoder", "check_onnx")(Branching)
    named("decoder", "check_onnx")(Sound)


def test_expected_failures_have_a_reason_and_do_fail() -> None:
    check = named("encoder", "check_purity")
    check(Counting, expected_failures={"check_purity": "it counts"})
    with pytest.raises(ConformanceError, match="a failure, because it counts"):
        check(Sound, expected_failures={"check_purity": "it counts"})
    for wrong in ({"check_everything": "why not"}, {"check_purity": ""}):
        with pytest.raises(ConformanceError, match="cannot be expected to fail"):
            check(Sound, expected_failures=wrong)


def test_one_call_runs_every_check_and_a_registered_name_will_do() -> None:
    check_prior("normal")
    with pytest.raises(ConformanceError, match="check_gradient"):
        check_encoder(Idle)


def test_wrong_arguments_are_explained() -> None:
    with pytest.raises(UnknownComponentError, match="unknown encoder 'mpl'"):
        named("encoder", "check_purity")("mpl")
    with pytest.raises(ConformanceError, match="scale: Input should be a valid number"):
        named("encoder", "check_purity")(Sound, options={"scale": "much"})
    with pytest.raises(UnknownComponentError, match="there is no role 'network'"):
        checks("network")


def test_checks_leave_the_random_generator_alone_and_need_neither_pytest_nor_numpy() -> None:
    code = """
import sys, torch, vaekit.testing
before = torch.get_rng_state()
vaekit.testing.check_prior("normal")
assert torch.equal(before, torch.get_rng_state())
assert "pytest" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    for file in (ROOT / "vaekit" / "testing").glob("*.py"):
        assert "import pytest" not in file.read_text("utf-8")
        assert "import numpy" not in file.read_text("utf-8")


def test_every_role_has_checks_and_each_says_what_it_asks() -> None:
    for role in ("encoder", "decoder", "posterior", "prior", "likelihood", "loss", "dataset", "logger"):
        assert len(checks(role)) >= 6
        assert hasattr(vaekit.testing, f"check_{role}")
        for check in checks(role):
            assert (check.function.__doc__ or "").strip().endswith("."), check.__name__


def test_likelihoods_of_binary_pixels_are_masses() -> None:
    class Coin(Likelihood):
        """A fair coin, whatever the decoder says."""

        continuous: ClassVar[bool] = False

        def forward(self, params: Tensor) -> Any:
            from vaekit.distributions import BernoulliPixels

            return BernoulliPixels(0 * params)

    named("likelihood", "check_normalised")(Coin)
    with pytest.raises(ConformanceError, match="gradient to the decoder's output"):
        named("likelihood", "check_gradient")(Coin)

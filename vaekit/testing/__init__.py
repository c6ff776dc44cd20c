"""What every component must do, as checks that anyone can run: `vaekit.testing.check_encoder("acme_unet")`.

With pytest, one test per check::

    @pytest.mark.parametrize("check", vaekit.testing.checks("encoder"))
    def test_acme_unet_conforms(check):
        check("acme_unet", options={"depth": 2})

vaekit's own components pass the same checks. They need neither pytest nor a data set; the one of exported decoders is the slowest
of them, with seconds for a decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaekit.testing import backbones, common, datasets, densities, likelihoods, loggers, losses  # noqa: F401 - each adds its checks
from vaekit.testing.core import Check, ConformanceError, checks

__all__ = [
    "Check",
    "ConformanceError",
    "check_dataset",
    "check_decoder",
    "check_encoder",
    "check_likelihood",
    "check_logger",
    "check_loss",
    "check_posterior",
    "check_prior",
    "checks",
]


def check_encoder(
    component: str | type, *, options: Mapping[str, Any] | None = None, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Run every check of an encoder; the error says what was expected and what came.

    Args:
        component: A registered name, or a class that need not be registered.
        options: Its options, where the defaults are not what should be tested.
        expected_failures: ``{check: reason}`` of checks that are known to fail; one that passes is an error.

    Raises:
        ConformanceError: A check failed, or was expected to fail and passed.

    Example:
        >>> check_encoder("cnn", options={"channels": (4, 8), "hidden": (8,)})
    """
    _run("encoder", component, options, expected_failures)


def check_decoder(
    component: str | type, *, options: Mapping[str, Any] | None = None, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Run every check of a decoder; arguments as for `check_encoder`."""
    _run("decoder", component, options, expected_failures)


def check_posterior(
    component: str | type, *, options: Mapping[str, Any] | None = None, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Run every check of a posterior; arguments as for `check_encoder`."""
    _run("posterior", component, options, expected_failures)


def check_prior(
    component: str | type, *, options: Mapping[str, Any] | None = None, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Run every check of a prior; arguments as for `check_encoder`."""
    _run("prior", component, options, expected_failures)


def check_likelihood(
    component: str | type, *, options: Mapping[str, Any] | None = None, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Run every check of a likelihood; arguments as for `check_encoder`."""
    _run("likelihood", component, options, expected_failures)


def check_loss(
    component: str | type, *, options: Mapping[str, Any] | None = None, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Run every check of a loss; arguments as for `check_encoder`."""
    _run("loss", component, options, expected_failures)


def check_dataset(
    component: str | type, *, options: Mapping[str, Any] | None = None, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Run every check of a data set, which must be there to be read; arguments as for `check_encoder`."""
    _run("dataset", component, options, expected_failures)


def check_logger(
    component: str | type, *, options: Mapping[str, Any] | None = None, expected_failures: Mapping[str, str] | None = None
) -> None:
    """Run every check of a logger, which logs; its options should keep that here. Arguments as for `check_encoder`."""
    _run("logger", component, options, expected_failures)


def _run(
    role: str, component: str | type, options: Mapping[str, Any] | None, expected_failures: Mapping[str, str] | None
) -> None:
    for check in checks(role):
        check(component, options=options, expected_failures=expected_failures)

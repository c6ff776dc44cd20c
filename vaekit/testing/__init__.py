"""What every component must do, as checks that anyone can run: `vaekit.testing.check_encoder("acme_unet")`.

With pytest, one test per check::

    @pytest.mark.parametrize("check", vaekit.testing.checks("encoder"))
    def test_acme_unet_conforms(check):
        check("acme_unet", options={"depth": 2})

vaekit's own components pass the same checks, which need neither pytest nor a data set. A component that has a reason to fail one
of them says so: ``expected_failures={"check_vmap": "its kernel has no batching rule"}``.

Seeds are fixed, so a component that passes once passes always. What is checked by drawing has a known error: see
`vaekit.testing.statistics`.
"""

from __future__ import annotations

from vaekit.testing import (  # noqa: F401 - each adds its checks
    backbones,
    common,
    datasets,
    densities,
    divergences,
    draws,
    exporters,
    likelihoods,
    loggers,
    losses,
)
from vaekit.testing.core import Check, ConformanceError, Suite, checks, suite

__all__ = [
    "Check",
    "ConformanceError",
    "Suite",
    "check_dataset",
    "check_decoder",
    "check_encoder",
    "check_exporter",
    "check_likelihood",
    "check_logger",
    "check_loss",
    "check_posterior",
    "check_prior",
    "checks",
]


check_encoder = suite("encoder")
check_decoder = suite("decoder")
check_posterior = suite("posterior")
check_prior = suite("prior")
check_likelihood = suite("likelihood")
check_loss = suite("loss")
check_dataset = suite("dataset")
"""The data set's files must be there to be read."""
check_logger = suite("logger")
"""It logs: give options that keep what is logged on this machine."""
check_exporter = suite("exporter")

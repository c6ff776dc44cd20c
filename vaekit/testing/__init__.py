"""Conformance checks for components of every role: `vaekit.testing.check_encoder("acme_unet")`.

With pytest, one test per check::

    @pytest.mark.parametrize("check", vaekit.testing.checks("encoder"))
    def test_acme_unet_conforms(check):
        check("acme_unet", options={"depth": 2})

vaekit's own components pass the same checks. The checks need neither pytest nor a dataset, and they run with a fixed seed, so
results are reproducible; `vaekit.testing.statistics` states the error rates of statistical checks. If a component has a good
reason to fail a check, state it: ``expected_failures={"check_vmap": "its kernel has no batching rule"}``.
"""

from __future__ import annotations

from vaekit.testing import (  # noqa: F401 - each adds its checks
    backbones,
    common,
    conditions,
    datasets,
    densities,
    divergences,
    draws,
    exporters,
    likelihoods,
    loggers,
    losses,
    pictures,
)
from vaekit.testing.core import Check, ConformanceError, Suite, checks, suite

__all__ = [
    "Check",
    "ConformanceError",
    "Suite",
    "check_condition",
    "check_dataset",
    "check_decoder",
    "check_encoder",
    "check_exporter",
    "check_likelihood",
    "check_logger",
    "check_loss",
    "check_picture",
    "check_posterior",
    "check_prior",
    "checks",
]


check_encoder = suite("encoder")
check_decoder = suite("decoder")
check_posterior = suite("posterior")
check_prior = suite("prior")
check_likelihood = suite("likelihood")
check_condition = suite("condition")
check_loss = suite("loss")
check_dataset = suite("dataset")
"""Reads the dataset, so its files must be available."""
check_logger = suite("logger")
"""Actually logs: pass options that keep the logged data on this machine."""
check_exporter = suite("exporter")
check_picture = suite("picture")

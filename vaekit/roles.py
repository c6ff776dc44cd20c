"""The roles of components, each with a registry: ``vaekit.encoders("mine")`` registers an encoder.

Importing this module imports neither components nor torch.
"""

from __future__ import annotations

from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from vaekit.registry import Registry

if TYPE_CHECKING:
    from vaekit.interfaces import Backbone, Condition, Dataset, Likelihood, Loss, Posterior, Prior
    from vaekit.plugins import Plugin

encoders: Registry[Backbone] = Registry("encoder", "encoders", "vaekit.interfaces:Backbone", ("in_shape", "out_shape"))
decoders: Registry[Backbone] = Registry("decoder", "decoders", "vaekit.interfaces:Backbone", ("in_shape", "out_shape"))
posteriors: Registry[Posterior] = Registry(
    "posterior", "posteriors", "vaekit.interfaces:Posterior", ("latent_dim", "latent_shape")
)
priors: Registry[Prior] = Registry(
    "prior", "priors", "vaekit.interfaces:Prior", ("latent_dim", "latent_shape", "data_shape", "code_sizes", "condition_size")
)
likelihoods: Registry[Likelihood] = Registry("likelihood", "likelihoods", "vaekit.interfaces:Likelihood", ("data_shape",))
conditions: Registry[Condition] = Registry("condition", "conditions", "vaekit.interfaces:Condition", ("num_classes",))
losses: Registry[Loss] = Registry("loss", "losses", "vaekit.interfaces:Loss", ("latent_dim", "data_shape", "num_classes"))
datasets: Registry[Dataset] = Registry("dataset", "datasets", "vaekit.interfaces:Dataset")
# Loggers, exporters and pictures are defined next to the code that calls them, in layers above this module.
loggers: Registry[Any] = Registry("logger", "loggers", "vaekit.training.logger:Logger")
exporters: Registry[Any] = Registry("exporter", "exporters", "vaekit.export.exporter:Exporter")
pictures: Registry[Any] = Registry("picture", "pictures", "vaekit.drawing.picture:Picture", ("subject", "a", "b", "images"))

SPEC_REGISTRIES: tuple[Registry[Any], ...] = (
    encoders,
    decoders,
    posteriors,
    priors,
    likelihoods,
    conditions,
    losses,
    datasets,
    loggers,
)
"""The registries of the roles in a run's spec."""
REGISTRIES: tuple[Registry[Any], ...] = (*SPEC_REGISTRIES, exporters, pictures)


def plugin_at(error: BaseException) -> tuple[str, Plugin] | None:
    """Return the role and plugin of the component that was running when an error was raised, or None."""
    loaded = [(registry.role, plugin, cls) for registry in REGISTRIES for plugin, cls in registry.loaded.items()]
    for frame, _ in reversed([*walk_tb(error.__traceback__)] if loaded else []):
        module, owner = frame.f_globals.get("__name__", ""), frame.f_locals.get("self")
        for role, plugin, cls in loaded:
            if isinstance(owner, cls) or module.partition(".")[0] == plugin.package:
                return role, plugin
    return None

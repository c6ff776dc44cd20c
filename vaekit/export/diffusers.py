"""The export of a whole autoencoder to the library diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vaekit.errors import ExportError
from vaekit.export.exporter import Exported
from vaekit.export.parity import TOLERANCE, Array, compare, torch_function
from vaekit.export.parts import part_of
from vaekit.export.staging import staged
from vaekit.extras import import_extra
from vaekit.store.diffusers import CONFIG, WEIGHTS, config_of, weights_of, write

if TYPE_CHECKING:
    from vaekit.export.trained import Trained


def export(trained: Trained, folder: Path) -> Exported:
    """Write a model to a folder that ``from_pretrained`` of `AutoencoderKL` or `VQModel` loads, verified, or not at all.

    Args:
        trained: The model.
        folder: The folder; it must not exist, or be empty or an earlier export.

    Raises:
        ExportError: Neither class can represent the model, or the loaded model computes something else.
        UsageError: diffusers is not installed.
    """
    shift, scale = trained.scaling
    config = config_of(trained.vae, trained.spec, scaling_factor=scale, shift_factor=shift)
    library = import_extra("diffusers", "diffusers", "an export to diffusers, which is verified by loading it there,")
    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= {CONFIG, WEIGHTS}):
        raise ExportError(f"{folder} exists and holds other files", expected="a new folder", remedy="choose another folder")
    subject = part_of(trained, "autoencoder")
    with staged(folder / CONFIG) as config_file:
        write(config_file.parent, config, weights_of(trained.vae))
        model = getattr(library, config["_class_name"]).from_pretrained(config_file.parent, low_cpu_mem_usage=False).eval()
        parity = compare(
            lambda inputs: _reconstruct(model, inputs),
            torch_function(subject),
            [each.numpy() for each in subject.examples],
            tolerance=TOLERANCE,
        ).require("diffusers computes something else, so nothing was written", remedy="report it to the authors of vaekit")
        size = sum(file.stat().st_size for file in config_file.parent.iterdir())
    note = f"latents are scaled to (z - {shift:.4g}) * {scale:.4g}, which have mean 0 and standard deviation 1 over the data"
    return Exported(folder, size, parity, (note,))


@torch.no_grad()
def _reconstruct(model: Any, inputs: Sequence[Array]) -> list[Array]:
    """Return images decoded from the posterior's means by diffusers, from and to pixels in [0, 1]."""
    (x,) = (torch.from_numpy(each) for each in inputs)
    encoded = model.encode(2 * x - 1)
    decoded = model.decode(encoded.latent_dist.mean if "latent_dist" in encoded else encoded.latents).sample
    return [((decoded + 1) / 2).clamp(0, 1).numpy()]

"""Autoencoders in the format of the library diffusers: a folder with ``config.json`` and weights, for `AutoencoderKL`.

Its networks are those of `ldm`, with the same names of parameters; only the following differs. The pointwise convolutions between
the networks and the latents belong to the model there, and to the networks here. The keys of attention have a bias there, which
changes nothing, since it adds the same number to all scores of a position.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vaekit.errors import CheckpointError, ExportError
from vaekit.model.vae import VAE
from vaekit.specs.models import RunSpec

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
CLASS = "AutoencoderKL"
FIXED: dict[str, Any] = {"act_fn": "silu"}
"""Settings that have the same value in every model that can be read."""
DOWN, UP = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
"""The types of the stages, without attention and with it."""
OUTSIDE = {"quant_conv": "encoder", "post_quant_conv": "decoder"}
"""The convolutions that belong to the model there, and the networks that they belong to here."""
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention in folders that older versions of diffusers wrote."""
OPTIONS = ("channels", "depth", "groups", "attention", "middle_attention", "quant_conv")


def is_diffusers(path: Path) -> bool:
    """Whether a folder holds a model of diffusers."""
    return (path / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder's model.

    Raises:
        CheckpointError: They are missing or damaged, or of a model that vaekit cannot represent.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
        kind = config["_class_name"]
        stages = [config["down_block_types"], config["up_block_types"][::-1]]
        known = all(set(types) <= set(kinds) for types, kinds in zip(stages, (DOWN, UP), strict=True))
        same = [each == DOWN[1] for each in stages[0]] == [each == UP[1] for each in stages[1]]
        fitting = known and same and len(config["block_out_channels"]) == len(stages[0])
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", given=error.strerror, expected="a folder that diffusers wrote") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe an autoencoder", given=repr(error), expected=f"a {CLASS}") from None
    other = [f"{name} {config[name]!r}" for name, value in FIXED.items() if config.get(name, value) != value]
    if kind != CLASS or not fitting or other:
        raise CheckpointError(
            f"the model in {folder} cannot be represented",
            given=", ".join([kind, *other, *(f"stages {'/'.join(types)}" for types in stages if not fitting)]),
            expected=f"{CLASS} with act_fn silu, stages {' or '.join(DOWN)}, and the decoder's stages in the same order",
        )
    return dict(config)


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``model`` section of a spec, plain and partial, for the settings of a model."""
    channels = config["block_out_channels"]
    options = {
        "kind": "ldm",
        "channels": list(channels),
        "depth": config.get("layers_per_block", 1),
        "groups": config.get("norm_num_groups", 32),
        "attention": [i for i, kind in enumerate(config["down_block_types"], start=1) if kind == DOWN[1]],
        "middle_attention": config.get("mid_block_add_attention", True),
        "signed": True,
    }
    return {
        "encoder": {**options, "quant_conv": config.get("use_quant_conv", True)},
        "decoder": {**options, "quant_conv": config.get("use_post_quant_conv", True)},
        "posterior": {"kind": "gaussian", "max_logvar": 30.0},
        "likelihood": {"kind": "l1", "link": "identity"},
        "latent_dim": config.get("latent_channels", 4),
        "latent_stride": 2 ** (len(channels) - 1),
    }


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a folder's model, by their names in a `VAE`.

    Raises:
        CheckpointError: They are missing or damaged.
    """
    path = folder / WEIGHTS
    try:
        found = load_file(path)
    except FileNotFoundError:
        remedy = "save it again with diffusers, `save_pretrained(FOLDER)`, which writes safetensors"
        raise CheckpointError(f"{path} does not exist", remedy=remedy) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file", given=error) from None
    return dict(_renamed(found))


def _renamed(found: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in found.items():
        *scope, layer, kind = name.split(".")
        if layer in RENAMED:
            layer = RENAMED[layer]
        if (layer, kind) == ("to_k", "bias"):
            continue
        matrix = "attentions" in scope and tensor.ndim > 2  # once 1×1 kernels
        top = [OUTSIDE[layer]] if not scope and layer in OUTSIDE else []
        yield ".".join([*top, *scope, layer, kind]), (tensor.flatten(1) if matrix else tensor).float()


def config_of(vae: VAE, spec: RunSpec, *, scaling_factor: float, shift_factor: float) -> dict[str, Any]:
    """Return the settings of a model for diffusers.

    Args:
        vae: The model.
        spec: Its spec.
        scaling_factor: The factor that gives latents a standard deviation of 1.
        shift_factor: The mean of the latents, which is subtracted before.

    Raises:
        ExportError: `AutoencoderKL` cannot represent it; the message lists every reason.
    """
    model, (channels, *size) = spec.model, vae.data_shape
    reasons = [
        f"{role} {component.kind!r} instead of {kind!r}"
        for role, component, kind in (
            ("encoder", model.encoder, "ldm"),
            ("decoder", model.decoder, "ldm"),
            ("posterior", model.posterior, "gaussian"),
            ("condition", model.condition, "none"),
        )
        if component.kind != kind
    ]
    if not reasons:
        encoder, decoder = (dict(component) for component in (model.encoder, model.decoder))
        reasons = [f"{name} of encoder and decoder differ" for name in OPTIONS[:-1] if encoder[name] != decoder[name]]
        if not (encoder["signed"] and decoder["signed"]):
            reasons.append("networks that are not signed, that is, for pixels in [-1, 1]")
        if model.latent_stride != 2 ** (len(encoder["channels"]) - 1):
            reasons.append(
                f"latent_stride {model.latent_stride} with {len(encoder['channels'])} stages: one halving between each"
            )
        if vae.likelihood.support == "unit":
            reasons.append("a likelihood with a sigmoid, which is not part of the decoder there: see --likelihood.link identity")
        if len(size) != 2 or vae.value_range != (0.0, 1.0) or vae.missing:
            reasons.append("data other than images in [0, 1] without missing numbers")
    if reasons:
        raise ExportError(f"the model cannot be represented by {CLASS}", given="; ".join(reasons))
    with_attention = [stage in encoder["attention"] for stage in range(1, len(encoder["channels"]) + 1)]
    return {
        "_class_name": CLASS,
        "_diffusers_version": "0.30.0",
        **FIXED,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(encoder["channels"]),
        "down_block_types": [DOWN[with_it] for with_it in with_attention],
        "up_block_types": [UP[with_it] for with_it in reversed(with_attention)],
        "layers_per_block": encoder["depth"],
        "norm_num_groups": vae.encoder.conv_norm_out.num_groups,  # type: ignore[union-attr]
        "mid_block_add_attention": encoder["middle_attention"],
        "use_quant_conv": encoder["quant_conv"],
        "use_post_quant_conv": decoder["quant_conv"],
        "latent_channels": model.latent_dim,
        "sample_size": max(size),
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
        "force_upcast": True,
    }


def weights_of(vae: VAE) -> dict[str, Tensor]:
    """Return the weights of a model by their names in diffusers."""
    weights: dict[str, Tensor] = {}
    for network in ("encoder", "decoder"):
        for name, tensor in vae.get_submodule(network).state_dict().items():
            outside = name.partition(".")[0] in OUTSIDE
            weights[name if outside else f"{network}.{name}"] = tensor.contiguous()
            if name.endswith("to_k.weight"):
                weights[f"{network}.{name.removesuffix('weight')}bias"] = torch.zeros(len(tensor))
    return weights


def write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write the settings and the weights of a model to a folder."""
    save_file(dict(weights), folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")

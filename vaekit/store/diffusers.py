"""Autoencoders of the library diffusers, `AutoencoderKL` and `VQModel`: folders with ``config.json`` and weights.

Their networks are those of `ldm`, with the same parameter names, except for the following. The pointwise convolutions
between the networks and the latents belong to the model there, and to the networks here. The keys of attention have a bias
there, which has no effect, since it adds the same number to all scores of a position.
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
CLASSES = {"gaussian": "AutoencoderKL", "vq": "VQModel"}
"""The classes by their posterior in vaekit."""
FIXED: dict[str, Any] = {"act_fn": "silu", "norm_type": "group", "lookup_from_codebook": False}
"""Settings that have the same value in every supported model."""
DOWN, UP = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")
"""The types of the stages, without attention and with it."""
OUTSIDE = {"quant_conv": "encoder", "post_quant_conv": "decoder"}
"""The convolutions that belong to the model there, and the networks to which they belong here."""
CODEBOOK = "quantize.embedding.weight"
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention layers in folders written by older versions of diffusers."""
EXPECTED = " or ".join(CLASSES.values())
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
        narrowed = config.get("vq_embed_dim") not in {None, config.get("latent_channels", 3)}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", given=error.strerror, expected="a folder written by diffusers") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe an autoencoder", given=repr(error), expected=EXPECTED) from None
    other = [f"{name} {config[name]!r}" for name, value in FIXED.items() if config.get(name, value) != value]
    other += [f"vq_embed_dim {config['vq_embed_dim']} for latent_channels {config['latent_channels']}"] if narrowed else []
    if kind not in CLASSES.values() or not fitting or other:
        raise CheckpointError(
            f"the model in {folder} cannot be represented",
            given=", ".join([kind, *other, *(f"stages {'/'.join(types)}" for types in stages if not fitting)]),
            expected=f"{EXPECTED} with act_fn silu, stages {' or '.join(DOWN)}, and the decoder's stages in the same order",
        )
    return dict(config)


def model_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``model`` section of a spec, plain and partial, for the settings of a model."""
    channels, kl = config["block_out_channels"], config["_class_name"] == CLASSES["gaussian"]
    posterior = (
        {"kind": "gaussian", "max_logvar": 30.0} if kl else {"kind": "vq", "num_codes": config.get("num_vq_embeddings", 256)}
    )
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
        "posterior": posterior,
        "likelihood": {"kind": "l1", "link": "identity"},
        "latent_dim": config.get("latent_channels", 4 if kl else 3),
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
        if name == CODEBOOK:
            uniform = torch.full((len(tensor),), 1 / len(tensor))
            learned = {"codebook": tensor.float(), "usage": uniform, "sums": tensor.float() / len(tensor)}
            yield from ((f"posterior.{name}", value) for name, value in learned.items())
            continue
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
        shift_factor: The mean of the latents, which is subtracted first.

    Raises:
        ExportError: Neither `AutoencoderKL` nor `VQModel` can represent it; the message lists every reason.
    """
    model, (channels, *size) = spec.model, vae.data_shape
    reasons = [
        f"{role} {component.kind!r} instead of {kind!r}"
        for role, component, kind in (
            ("encoder", model.encoder, "ldm"),
            ("decoder", model.decoder, "ldm"),
            ("condition", model.condition, "none"),
        )
        if component.kind != kind
    ]
    if model.posterior.kind not in CLASSES:
        reasons.append(f"posterior {model.posterior.kind!r} instead of {' or '.join(map(repr, CLASSES))}")
    if not reasons:
        encoder, decoder = (dict(component) for component in (model.encoder, model.decoder))
        reasons = [f"{name} of encoder and decoder differ" for name in OPTIONS[:-1] if encoder[name] != decoder[name]]
        if not (encoder["signed"] and decoder["signed"]):
            reasons.append("networks that are not signed, that is, not for pixels in [-1, 1]")
        if model.latent_stride != 2 ** (len(encoder["channels"]) - 1):
            reasons.append(
                f"latent_stride {model.latent_stride} with {len(encoder['channels'])} stages: one halving between each"
            )
        if model.posterior.kind == "vq" and not (encoder["quant_conv"] and decoder["quant_conv"]):
            reasons.append("networks without quant_conv")
        if vae.likelihood.support == "unit":
            reasons.append("a likelihood with a sigmoid, which is not part of the decoder there: see --likelihood.link identity")
        if len(size) != 2 or vae.value_range != (0.0, 1.0) or vae.missing:
            reasons.append("data other than images in [0, 1] without missing values")
    if reasons:
        raise ExportError(f"the model cannot be represented by {EXPECTED}", given="; ".join(reasons))
    with_attention = [stage in encoder["attention"] for stage in range(1, len(encoder["channels"]) + 1)]
    settings: dict[str, Any] = {
        "_class_name": CLASSES[model.posterior.kind],
        "_diffusers_version": "0.30.0",
        "act_fn": FIXED["act_fn"],
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(encoder["channels"]),
        "down_block_types": [DOWN[with_it] for with_it in with_attention],
        "up_block_types": [UP[with_it] for with_it in reversed(with_attention)],
        "layers_per_block": encoder["depth"],
        "norm_num_groups": vae.encoder.conv_norm_out.num_groups,  # type: ignore[union-attr]
        "mid_block_add_attention": encoder["middle_attention"],
        "latent_channels": model.latent_dim,
        "sample_size": max(size),
        "scaling_factor": scaling_factor,
        "force_upcast": True,
    }
    if model.posterior.kind == "vq":
        return settings | {"num_vq_embeddings": len(vae.get_buffer("posterior.codebook"))}
    convolutions = {"use_quant_conv": encoder["quant_conv"], "use_post_quant_conv": decoder["quant_conv"]}
    return settings | convolutions | {"shift_factor": shift_factor}


def weights_of(vae: VAE) -> dict[str, Tensor]:
    """Return the weights of a model by their names in diffusers."""
    weights = {CODEBOOK: vae.get_buffer("posterior.codebook")} if vae.posterior.kind == "vq" else {}
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

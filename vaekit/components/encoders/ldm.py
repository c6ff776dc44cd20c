"""The encoder ``ldm``."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import CONVOLUTIONS, Channels, parameters_head
from vaekit.nn.ldm import EPS, Downsampling, Residual, Stage, attention_layers, middle, plan_of, run
from vaekit.roles import encoders
from vaekit.schema import Count, Few


@encoders("ldm")
class LDMEncoder(Backbone):
    """The encoder of latent diffusion's autoencoder (`AutoencoderKL` in diffusers): residual blocks and attention.

    It is meant for a grid of latents, such as ``--latent-dim 4 --latent-stride 4``: each stage but the last halves every side
    until the stride is reached. If the stride does not divide a side, the side is rounded up, and the decoder crops the result.
    For a vector of latents, a linear layer follows the last stage.

    The defaults suit a CPU. The first stage of Stable Diffusion has ``--encoder.channels 128,256,512,512 --encoder.depth 2``
    and a latent stride of 8.

    Shapes: ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, sides of any length, to ``(B, *out_shape)``.

    Args:
        channels: Channels of the stages, starting at the image.
        depth: Residual blocks per stage.
        groups: Groups of every GroupNorm; default: the largest number up to 32 that leaves at least 4 channels per group.
        attention: Stages with self-attention after each block, numbered from 1. Memory is quadratic in the number of positions.
        middle_attention: Whether to apply self-attention between the last two residual blocks, at the lowest resolution.
        quant_conv: Whether to end with a pointwise convolution, as in diffusers models up to Stable Diffusion XL.
        signed: Whether to map pixels x in [0, 1] to 2x - 1, as pretrained models expect.
        checkpointing: Whether to save memory by recomputing activations inside blocks in the backward pass.

    References:
        Rombach et al. (2022), "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR, arXiv:2112.10752.
        Esser et al. (2021), "Taming Transformers for High-Resolution Image Synthesis", CVPR, arXiv:2012.09841.
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Channels = (32, 64, 128),
        depth: Few = 1,
        groups: Count | None = None,
        attention: tuple[Count, ...] = (),
        middle_attention: bool = True,
        quant_conv: bool = True,
        signed: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(in_shape, out_shape)
        plan = plan_of(in_shape, out_shape[2:], f"encoder {self.kind!r}", channels=channels, groups=groups, attention=attention)
        num_sides, width = len(plan.sizes[0]), channels[-1]
        convolution = CONVOLUTIONS[num_sides]
        self.signed, self.checkpointing = signed, checkpointing
        self.conv_in = convolution(in_shape[0], channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for stage, (before, after) in enumerate(pairwise((channels[0], *channels)), start=1):
            resnets = [Residual(num_sides, before if i == 0 else after, after, plan.groups) for i in range(depth)]
            attends = attention_layers(depth * (stage in attention), after, plan.groups, plan.size_of(stage))
            change = {"downsamplers": Downsampling(num_sides, after)} if stage <= plan.halvings else {}
            self.down_blocks.append(Stage(resnets, attends, **change))
        self.mid_block = middle(width, plan.groups, plan.sizes[-1], attention=middle_attention)
        self.conv_norm_out = nn.GroupNorm(plan.groups, width, eps=EPS)
        self.quant_conv: nn.Module | None = None
        if len(out_shape) > 2:
            params = out_shape[0] * out_shape[1]
            self.conv_out = cast("nn.Module", convolution(width, params, 3, padding=1))
            self.quant_conv = convolution(params, params, 1) if quant_conv else None
        else:
            self.conv_out = parameters_head(width, plan.sizes[0], plan.halvings, out_shape, activation="silu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(2 * x - 1 if self.signed else x)
        x = run([*self.down_blocks, self.mid_block], x, checkpointing=self.checkpointing and self.training)
        x = self.conv_norm_out(x)
        params: Tensor = self.conv_out(F.silu(x) if len(self.out_shape) > 2 else x)  # the other head begins with an activation
        if self.quant_conv is not None:
            params = self.quant_conv(params)
        return params.unflatten(1, self.out_shape[:2]) if len(self.out_shape) > 2 else params

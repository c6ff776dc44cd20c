"""The decoder ``ldm``."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from vaekit.interfaces import Backbone, Shape
from vaekit.nn.layers import CONVOLUTIONS, Channels, fully_connected
from vaekit.nn.ldm import EPS, Residual, Stage, Upsampling, attention_layers, middle, plan_of, run
from vaekit.roles import decoders
from vaekit.schema import Count, Few


@decoders("ldm")
class LDMDecoder(Backbone):
    """The decoder of latent diffusion's autoencoder (`AutoencoderKL` in diffusers): residual blocks and attention.

    It is meant for a grid of latents, such as ``--latent-dim 4 --latent-stride 4``, and upsamples by 2 after each stage until
    it reaches the size of the data; if the stride does not divide a side, the excess is cropped. For a vector of latents, a
    linear layer precedes the first stage.

    The options are those of the encoder, with stages in the same order. Each stage has one more residual block, as in
    diffusers.

    Shapes: ``(B, *in_shape)`` to ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, sides of any length; outputs are
    unbounded.

    Args:
        channels: Channels of the stages, starting at the image, as for the encoder.
        depth: Residual blocks per encoder stage; each decoder stage has one more.
        groups: Groups of every GroupNorm; default: the largest number up to 32 that leaves at least 4 channels per group.
        attention: Stages with self-attention after each block, numbered from 1 at the image. Memory is quadratic in the number
            of positions.
        middle_attention: Whether to apply self-attention between the first two residual blocks, at the lowest resolution.
        quant_conv: Whether to start with a pointwise convolution, as in diffusers models up to Stable Diffusion XL.
        signed: Whether to map outputs y in [-1, 1] to (y + 1) / 2, as pretrained models require.
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
        plan = plan_of(out_shape, in_shape[1:], f"decoder {self.kind!r}", channels=channels, groups=groups, attention=attention)
        num_sides, width = len(plan.sizes[0]), channels[-1]
        convolution = CONVOLUTIONS[num_sides]
        self.signed, self.checkpointing = signed, checkpointing
        self.post_quant_conv: nn.Module | None = None
        if len(in_shape) > 1:
            self.post_quant_conv = convolution(in_shape[0], in_shape[0], 1) if quant_conv else None
            self.conv_in = cast("nn.Module", convolution(in_shape[0], width, 3, padding=1))
        else:
            self.conv_in = fully_connected(in_shape, (), (width, *plan.sizes[-1]), "silu")
        self.mid_block = middle(width, plan.groups, plan.sizes[-1], attention=middle_attention)
        self.up_blocks = nn.ModuleList()
        for stage, (before, after) in zip(
            range(len(channels), 0, -1), pairwise((channels[-1], *reversed(channels))), strict=True
        ):
            resnets = [Residual(num_sides, before if i == 0 else after, after, plan.groups) for i in range(depth + 1)]
            attends = attention_layers((depth + 1) * (stage in attention), after, plan.groups, plan.size_of(stage))
            change = {}
            if 1 < stage <= plan.halvings + 1:
                smaller, larger = plan.sizes[stage - 1], plan.sizes[stage - 2]
                crop = tuple(2 * small - large for small, large in zip(smaller, larger, strict=True))
                change = {"upsamplers": Upsampling(num_sides, after, crop)}
            self.up_blocks.append(Stage(resnets, attends, **change))
        self.conv_norm_out = nn.GroupNorm(plan.groups, channels[0], eps=EPS)
        self.conv_out = convolution(channels[0], out_shape[0], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        x = run([self.mid_block, *self.up_blocks], self.conv_in(z), checkpointing=self.checkpointing and self.training)
        params: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return (params + 1) / 2 if self.signed else params

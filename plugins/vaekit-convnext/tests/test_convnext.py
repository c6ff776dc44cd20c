"""Both backbones pass vaekit's checks, and their options work as documented."""

import pytest
import torch
import vaekit_convnext.blocks
from pydantic import ValidationError

import vaekit
from vaekit.testing import checks

SMALL = {"channels": (8, 12), "depth": 1}


@pytest.mark.parametrize("check", checks("encoder"))
def test_encoder_conforms(check):
    check("convnext", options=SMALL)


@pytest.mark.parametrize("check", checks("decoder"))
def test_decoder_conforms(check):
    check("convnext", options=SMALL)


@pytest.mark.parametrize("registry", [vaekit.encoders, vaekit.decoders], ids=lambda registry: registry.role)
def test_options_set_the_number_and_width_of_blocks(registry):
    backbone = registry.get("convnext")((5,), (1, 12, 12), channels=(4, 6, 8), depth=2) if registry is vaekit.decoders else (
        registry.get("convnext")((1, 12, 12), (5,), channels=(4, 6, 8), depth=2)
    )  # fmt: skip
    blocks = [module for module in backbone.modules() if isinstance(module, vaekit_convnext.blocks.Block)]
    assert [block.gamma.numel() for block in blocks] == [4, 4, 6, 6, 8, 8]
    for wrong in ({"depth": 0}, {"channels": ()}, {"channels": (2,)}):
        with pytest.raises(ValidationError):
            registry.spec("convnext").model_validate({"kind": "convnext", **wrong})


def test_data_other_than_images_are_refused():
    with pytest.raises(vaekit.VaekitError, match="images only"):
        vaekit.encoders.get("convnext")((784,), (5,))


def test_a_step_of_training_lowers_the_loss():
    torch.manual_seed(0)
    vae = vaekit.VAE(
        vaekit.encoders.get("convnext")((1, 12, 12), (2, 4), channels=(8, 12)),
        vaekit.decoders.get("convnext")((4,), (1, 12, 12), channels=(12, 8)),
    )
    x = torch.rand(16, 1, 12, 12).round()
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        trace = vae(x, torch.zeros(16, 4))
        loss = (trace.kl - trace.log_likelihood).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1

"""Specs: valid and invalid input, error messages, and assembly."""

import pytest
import torch

from vaekit import roles
from vaekit.data.facts import Facts
from vaekit.errors import SpecError, UnknownComponentError, UsageError
from vaekit.model.assembly import build_objective, build_vae
from vaekit.model.objective import Inputs
from vaekit.specs.models import RunSpec, dump_spec, read_spec
from vaekit.specs.resolve import resolve


def parse(**model):
    return resolve({"model": model})


def test_defaults_make_a_spec():
    spec = resolve({})
    assert (spec.model.encoder.kind, spec.model.posterior.kind, spec.data.dataset.kind) == ("mlp", "gaussian", "digits")


def test_a_component_is_a_name_or_a_mapping():
    assert parse(encoder="cnn") == parse(encoder={"kind": "cnn"})
    assert parse(encoder={"kind": "mlp", "hidden": [64]}).model.encoder.hidden == (64,)


def test_none_clears_optional_fields_and_names_choices():
    spec = resolve({"train": {"ema": "none", "pictures": "none"}, "data": {"binarize": "none"}})
    assert spec.train.ema is None
    assert (spec.train.pictures, spec.data.binarize) == ("none", "none")  # a choice of that name is meant
    with pytest.raises(SpecError, match="train"):
        resolve({"train": {"lr": "none"}})


def test_loss_takes_losses_and_likelihoods():
    spec = parse(loss=["mse", {"kind": "tc", "beta": 3}])
    assert spec.model.likelihood.kind == "mse"
    assert [loss.kind for loss in spec.model.loss] == ["tc"]
    assert parse(loss="mse").model.likelihood.kind == "mse"


def test_two_likelihoods_are_refused_and_both_named():
    with pytest.raises(SpecError, match="exactly one likelihood") as caught:
        parse(loss=["mse", "bce"])
    assert "'mse'" in str(caught.value)
    assert "'bce'" in str(caught.value)
    with pytest.raises(SpecError, match="exactly one likelihood"):
        parse(loss="mse", likelihood="bce")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model": {"loss": {"kind": "beta", "beta": "four"}}}, r"loss\.beta: .*number.*'four'"),
        ({"model": {"loss": {"kind": "beta", "beta": -1}}}, r"loss\.beta: .*greater than or equal to 0"),
        ({"model": {"encoder": {"kind": "mlp", "width": 3}}}, r"encoder\.width: unknown option"),
        ({"model": {"latent_dim": 0}}, r"latent_dim: .*greater than 0"),
        ({"train": {"lr": "fast"}}, r"lr: .*number"),
        ({"train": {"speed": 1}}, r"speed: unknown option"),
        ({"data": {"augment": {"rotate": -3}}}, r"augment\.rotate: "),
        ({"network": {}}, r"network: unknown option"),
        ({"model": {"encoder": 3}}, r"encoder: must be a name or a mapping"),
        ([], r"the spec is not valid: it is not a mapping"),
    ],
)
def test_errors_name_the_path_of_the_value(data, message):
    with pytest.raises(SpecError, match=message):
        resolve(data)


def test_unknown_components_are_named_with_the_choices():
    with pytest.raises(UnknownComponentError, match="did you mean 'beta'"):
        parse(loss="betta")
    with pytest.raises(UnknownComponentError, match="unknown decoder 'cnnn'"):
        parse(decoder="cnnn")


def test_a_spec_round_trips_through_its_file(tmp_path):
    spec = parse(encoder="cnn", loss=["mse", {"kind": "beta", "beta": "cyclic(0, 4, 5)"}])
    file = tmp_path / "spec.yaml"
    file.write_text(dump_spec(spec))
    assert resolve(read_spec(file)) == spec
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


def test_resolving_twice_changes_nothing():
    spec = parse(encoder="resnet")
    assert resolve(spec) == spec


def test_the_decoder_is_of_the_encoders_kind():
    assert parse(encoder="cnn").model.decoder.kind == "cnn"
    assert parse(encoder="cnn", decoder="bilinear").model.decoder.kind == "bilinear"


def test_likelihood_and_binarisation_default_to_the_datasets():
    spec = resolve({})
    assert (spec.model.likelihood.kind, spec.data.binarize) == ("bce", "dynamic")
    assert parse(loss="mse").data.binarize == "none"


@pytest.mark.parametrize(
    ("losses", "resolved"),
    [([], ["kl"]), (["beta"], ["beta"]), (["tc"], ["tc"]), (["capacity"], ["capacity"]), (["mse"], ["kl"]), (["kl"], ["kl"])],
)
def test_the_kl_is_added_if_no_loss_covers_the_divergence(losses, resolved):
    assert [loss.kind for loss in parse(loss=losses).model.loss] == resolved


def test_two_losses_that_cover_one_slot_are_refused():
    with pytest.raises(UsageError, match="'beta' and 'tc' both cover the divergence"):
        parse(loss=["beta", "tc"])
    with pytest.raises(UsageError, match="'beta' is given twice"):
        parse(loss=["beta", "beta"])


def test_a_loss_that_the_posterior_cannot_serve_is_refused_with_advice():
    with pytest.raises(UsageError, match="loss 'tc' needs factorised, log_prob") as caught:
        parse(loss="tc", posterior="delta")
    assert "--posterior gaussian" in str(caught.value)


def test_initial_weights_depend_only_on_the_seed():
    spec = parse(encoder={"kind": "mlp", "hidden": [8]}, decoder={"kind": "mlp", "hidden": [8]})
    first = build_vae(spec.model, Facts(data_shape=(1, 5, 5)), seed=0)
    torch.rand(3)
    second, other = (
        build_vae(spec.model, Facts(data_shape=(1, 5, 5)), seed=0),
        build_vae(spec.model, Facts(data_shape=(1, 5, 5)), seed=1),
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("encoder", roles.encoders.kinds())
@pytest.mark.parametrize("decoder", roles.decoders.kinds())
@pytest.mark.parametrize("likelihood", roles.likelihoods.kinds())
def test_every_encoder_works_with_every_decoder_and_likelihood(encoder, decoder, likelihood):
    spec = parse(encoder=encoder, decoder=decoder, likelihood=likelihood, latent_dim=2)
    shape = (3, 6, 9)
    vae = build_vae(spec.model, Facts(data_shape=shape), seed=0)
    x = torch.rand(2, *shape)
    noise = vae.posterior.draw_noise(2, None, like=x)
    total, *_ = build_objective(spec.model, vae, num_data=10)(Inputs(x, x, noise, torch.zeros(())))
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())


def test_the_json_schema_lists_every_component():
    text = str(RunSpec.model_json_schema())
    for components in roles.SPEC_REGISTRIES:
        for kind in components.kinds():
            assert f"'{kind}'" in text


def test_a_file_that_is_not_a_spec_is_named(tmp_path):
    with pytest.raises(SpecError, match="cannot read the spec"):
        read_spec(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(SpecError, match="is not valid YAML"):
        read_spec(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SpecError, match="is not a mapping"):
        read_spec(tmp_path / "list.yaml")

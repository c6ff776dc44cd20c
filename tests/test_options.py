from __future__ import annotations

from typing import Any

import pytest

from vaekit.errors import SpecError, UnknownComponentError, UsageError
from vaekit.specs.options import OptionTable, build_spec
from vaekit.specs.text import counted, read_value, type_text, value_text

CNN_FILE = {"model": {"encoder": {"kind": "cnn", "channels": [8, 8]}, "loss": ["bce", {"kind": "beta", "beta": 7}]}}


def test_beta_vae_from_three_options() -> None:
    model = build_spec({}, {"encoder": "cnn", "loss": "beta", "beta": 4}).model
    assert (model.encoder.kind, model.decoder.kind, model.loss[0].kind, model.loss[0].beta) == ("cnn", "cnn", "beta", 4.0)


def test_strings_and_python_values_make_the_same_spec() -> None:
    strings = {
        "encoder.hidden": "64,32",
        "decoder.hidden": "",
        "epochs": "3",
        "lr": "1e-3",
        "grad-clip": "none",
        "pictures": "1,2",
    }
    values = {"encoder.hidden": (64, 32), "decoder.hidden": (), "epochs": 3, "lr": 1e-3, "grad_clip": None, "pictures": (1, 2)}
    assert build_spec({}, strings) == build_spec({}, values)


@pytest.mark.parametrize("name", ["beta", "loss.beta", "tc.beta"])
def test_options_of_a_single_loss_have_three_names(name: str) -> None:
    assert build_spec({}, {"loss": ["mse", "tc"], name: "2.5"}).model.loss[0].beta == 2.5


def test_options_of_default_decoder_and_likelihood_are_available() -> None:
    options = {"dataset": "folder", "path": "x", "encoder": "cnn", "decoder.channels": "8,8", "sigma": 0.3}
    model = build_spec({}, options).model
    assert (model.decoder.kind, model.decoder.channels, model.likelihood.kind, model.likelihood.sigma) == (
        "cnn",
        (8, 8),
        "gaussian",
        0.3,
    )


def test_same_kind_keeps_the_options_of_the_file() -> None:
    model = build_spec(CNN_FILE, {"encoder": "cnn", "loss": "beta"}).model
    assert model.encoder.channels == (8, 8)
    assert model.loss[0].beta == 7
    assert model.likelihood.kind == "bce"


def test_another_kind_drops_the_options_of_the_file() -> None:
    model = build_spec(CNN_FILE, {"encoder": "mlp", "loss": ["tc", "mse"]}).model
    assert model.encoder == build_spec({}, {}).model.encoder
    assert [loss.kind for loss in model.loss] == ["tc"]
    assert model.likelihood.kind == "mse"


def test_options_override_the_file_and_leave_it_unchanged() -> None:
    base: dict[str, Any] = {"train": {"epochs": 5, "seed": 2}, "data": {"augment": {"rotate": 3}}}
    spec = build_spec(base, {"epochs": 7, "augment.shear": "4"})
    assert (spec.train.epochs, spec.train.seed, spec.data.augment.rotate, spec.data.augment.shear) == (7, 2, 3, 4)
    assert base == {"train": {"epochs": 5, "seed": 2}, "data": {"augment": {"rotate": 3}}}


def test_none_goes_back_to_the_default_likelihood_and_decoder() -> None:
    base = {"model": {"encoder": "cnn", "decoder": "mlp", "likelihood": "mse"}}
    model = build_spec(base, {"decoder": "none", "likelihood": "none"}).model
    assert (model.decoder.kind, model.likelihood.kind) == ("cnn", "bce")


def test_spec_of_a_spec_is_itself() -> None:
    spec = build_spec(CNN_FILE, {"pictures": "1,5", "augment.scale": "0.9,1.1"})
    assert build_spec(spec.model_dump(mode="json"), {}) == spec


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"hidden": 3}, ["it belongs to encoder mlp and decoder mlp", "--encoder.hidden or --decoder.hidden"]),
        ({"loss": ["beta", "tc"], "beta": 3}, ["loss beta and loss tc", "--beta.beta or --tc.beta"]),
        ({"encoder.hiden": 3}, ["unknown option encoder.hiden", "--encoder.hidden"]),
        ({"epoch": 3}, ["unknown option epoch", "--epochs"]),
        ({"free_bits": 3}, ["unknown option free_bits", "loss beta", "--loss beta"]),
        ({"loss": "beta", "beta": 1, "loss.beta": 2}, ["beta and loss.beta are names of the same option"]),
    ],
)
def test_wrong_names_are_errors_that_name_the_candidates(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        build_spec({}, options)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("base", "options", "part"),
    [
        ({}, {"loss": "beta", "beta": "x"}, "loss.beta: "),
        ({}, {"dataset": "folder"}, "dataset.path: "),
        ({}, {"latent_dim": 0}, "latent_dim: "),
        (
            {},
            {"pictures": "every:0"},
            "pictures: must be auto, none, epochs from 1 such as 1,2,10, or every:N with N >= 1 (given 'every:0')",
        ),
        ({}, {"pictures": "0,2"}, "pictures: must be auto"),
        ({}, {"logger": 3}, "logger: "),
        ({}, {"loss": ["mse", "gaussian"]}, "'mse' and 'gaussian'"),
        ({}, {"loss": "mse", "likelihood": "bce"}, "'mse' and 'bce'"),
        ({}, {"encoder": 3}, "encoder: "),
        ({"model": 3}, {}, "model is not a mapping"),
        ({"modle": {}}, {}, "modle: "),
        ({"data": {"augment": [1]}}, {}, "augment is not a mapping"),
    ],
)
def test_wrong_values_are_errors_with_their_path(base: dict[str, Any], options: dict[str, Any], part: str) -> None:
    with pytest.raises(SpecError) as caught:
        build_spec(base, options)
    assert part in str(caught.value)


@pytest.mark.parametrize(("role", "near"), [("encoder", "cnm"), ("loss", "bta"), ("likelihood", "beta")])
def test_unknown_components_are_errors_that_list_the_choices(role: str, near: str) -> None:
    with pytest.raises(UnknownComponentError) as caught:
        build_spec({}, {role: near})
    assert "expected:" in str(caught.value)


def test_every_available_option_can_be_set_to_its_default_by_every_name() -> None:
    chosen = {"encoder": "resnet", "loss": ["tc", "gaussian"], "dataset": "folder"}
    for option in OptionTable({}, chosen).options:
        if option.owner != "components" and not option.required:
            for name in option.names:
                build_spec({}, chosen | {"dataset.path": "x", name: value_text(option.default)})


def test_the_file_determines_the_defaults_of_available_options() -> None:
    defaults = {option.names[0]: option.default for option in OptionTable(CNN_FILE | {"train": {"epochs": 3}}, {}).options}
    assert (defaults["epochs"], defaults["encoder.channels"], defaults["loss.beta"], defaults["loss"]) == (
        3,
        [8, 8],
        7,
        ("beta",),
    )


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("150", int | tuple[int, int] | None, "150"),
        ("178,218", int | tuple[int, int] | None, ["178", "218"]),
        ("none", float | None, None),
        ("64", tuple[int, ...], ["64"]),
        ("", tuple[int, ...], []),
        ("a,b", str, "a,b"),
        (3, str, 3),
    ],
)
def test_text_is_parsed_according_to_the_type(text: Any, annotation: Any, value: Any) -> None:
    assert read_value(text, annotation) == value


def test_options_with_examples_are_written_as_those() -> None:
    (pictures,) = [option for option in OptionTable({}, {}).options if option.names == ("pictures",)]
    assert type_text(pictures.type) == "auto|none|1,2,10|every:5"


def test_types_are_written_as_their_values_are() -> None:
    assert [type_text(t) for t in (int, tuple[int, ...], int | tuple[int, int] | None)] == [
        "int",
        "int,int,…",
        "int|int,int|none",
    ]


def test_a_counted_noun_is_in_the_singular_only_for_one():
    assert [counted(num, "thread") for num in (0, 1, 2, 1000)] == ["0 threads", "1 thread", "2 threads", "1,000 threads"]

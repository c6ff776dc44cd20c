"""The transformer of scikit-learn: its contract, the numbers it returns, and what a pickle of it contains."""

from __future__ import annotations

import importlib
import math
import pickle
import pickletools
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

import vaekit
from vaekit.errors import UsageError, VaekitError
from vaekit.sklearn import VAETransformer

SMALL = {"encoder.hidden": (8,), "decoder.hidden": (8,)}
EXPECTED_TO_FAIL: dict[str, str] = {}
"""The checks of scikit-learn that do not apply, and why."""
EVERYDAY = {
    "check_dict_unchanged",
    "check_estimators_unfitted",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_methods_subset_invariance",
    "check_parameters_default_constructible",
}
"""The checks that are made in every run of the tests; all of them are slow."""


def small(**options: Any) -> VAETransformer:
    given = {"latent_dim": 2, "epochs": 1, "options": SMALL, "num_samples": 4, "device": "cpu", "random_state": 0}
    return VAETransformer(**given | options)


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    """600 rows of 8 numbers that lie near a plane, in units of very different sizes."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 8)) + 0.1 * rng.normal(size=(600, 8))
    return rows * 10.0 ** np.arange(-4, 4) + np.arange(8)


@pytest.fixture(scope="module")
def fitted(table: np.ndarray) -> VAETransformer:
    return small(epochs=12, options={"lr": 1e-2, "encoder.hidden": (32,), "decoder.hidden": (32,)}).fit(table)


@pytest.mark.slow
def test_scikit_learn_finds_nothing_to_object_to() -> None:
    found = check_estimator(small(), on_fail=None, on_skip=None, expected_failed_checks=EXPECTED_TO_FAIL)
    assert {each["check_name"]: repr(each["exception"]) for each in found if each["status"] == "failed"} == {}
    assert len(found) > 40


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_the_checks_of_scikit_learn_that_concern_a_transformer_most_pass() -> None:
    passed = set()
    for estimator, check in estimator_checks_generator(small()):
        if check.func.__name__ in EVERYDAY:
            check(estimator)
            passed.add(check.func.__name__)
    assert passed == EVERYDAY


def test_codes_tell_most_of_the_rows(fitted: VAETransformer, table: np.ndarray) -> None:
    error = (fitted.inverse_transform(fitted.transform(table)) - table) / table.std(0)
    assert np.square(error).mean() < 0.1
    linear = PCA(2).fit(table / table.std(0))
    best = linear.inverse_transform(linear.transform(table / table.std(0))) - table / table.std(0)
    assert np.square(error).mean() > 0.5 * np.square(best).mean()  # two numbers cannot hold the noise of eight


def test_codes_are_the_means_of_the_model_in_the_units_of_standardised_columns(
    fitted: VAETransformer, table: np.ndarray, tmp_path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(fitted.model_)
    vae = vaekit.load(tmp_path / "model.safetensors").double()
    x = torch.from_numpy((table - table.mean(0)) / table.std(0))
    np.testing.assert_allclose(fitted.transform(table), vae.encode(x).mean, rtol=1e-9, atol=1e-12)
    codes = fitted.transform(table[:5])
    images = vae.decode(torch.from_numpy(codes)).numpy()
    np.testing.assert_allclose(fitted.inverse_transform(codes), images * table.std(0) + table.mean(0), rtol=1e-9)


def test_a_row_has_the_same_numbers_whatever_the_others(fitted: VAETransformer, table: np.ndarray) -> None:
    for method in (fitted.transform, fitted.score_samples):
        whole = method(table)
        np.testing.assert_allclose(np.concatenate([method(table[i : i + 1]) for i in range(5)]), whole[:5], rtol=1e-11)
        np.testing.assert_allclose(method(table[::-1]), whole[::-1], rtol=1e-11)


def test_units_of_columns_change_no_code_and_scale_the_density(table: np.ndarray) -> None:
    one, other = small().fit(table), small().fit(1000 * table - 7)
    np.testing.assert_allclose(one.transform(table), other.transform(1000 * table - 7), atol=1e-4)
    shift = one.score_samples(table) - other.score_samples(1000 * table - 7)
    np.testing.assert_allclose(shift, 8 * math.log(1000), atol=1e-3)
    raw = small(standardize=False).fit(table[:, 4:5] / 10)
    assert raw.mean_.tolist() == [0]
    assert raw.scale_.tolist() == [1]


def test_scores_are_near_log_densities_by_integration(table: np.ndarray) -> None:
    model = small(latent_dim=1, epochs=3, num_samples=20_000).fit(table)
    x = torch.from_numpy((table[:4] - model.mean_) / model.scale_)
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None, None].expand(-1, 4, 1)
    vae = model._vae
    log_joint = vae.likelihood_of(z).log_prob(x) + vae.prior(vae).log_prob(z)
    exact = torch.logsumexp(log_joint, 0) + math.log(24 / 4000) - np.log(model.scale_).sum()
    np.testing.assert_allclose(model.score_samples(table[:4]), exact, atol=0.02)
    assert model.score(table[:4]) == pytest.approx(float(exact.mean()), abs=0.02)
    one, few = (model.set_params(num_samples=num).score_samples(table).mean() for num in (1, 20))
    assert one < few


def test_constant_columns_stay_as_they_are(table: np.ndarray) -> None:
    rows = np.column_stack([table[:, :3], np.full(600, 1e6 / 3)])
    model = small().fit(rows)
    assert model.scale_[3] == 1
    np.testing.assert_allclose(model.inverse_transform(model.transform(rows))[:, 3], 1e6 / 3, atol=3)


def test_a_pickle_contains_the_bytes_of_a_model_file_and_no_code_of_torch(fitted: VAETransformer, table: np.ndarray) -> None:
    content = pickle.dumps(fitted)
    words = [str(value) for _, value, _ in pickletools.genops(content) if isinstance(value, str)]
    assert not [word for word in words if word.split(".")[0] == "torch"]
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.transform(table), fitted.transform(table))
    np.testing.assert_array_equal(again.score_samples(table), fitted.score_samples(table))
    assert pickle.loads(pickle.dumps(small())).get_params() == small().get_params()
    damaged = pickle.dumps(fitted).replace(fitted.model_[-40:], bytes(40))
    with pytest.raises(VaekitError, match="damaged"):
        pickle.loads(damaged)


def test_the_seed_determines_the_model_and_clones_are_not_fitted(fitted: VAETransformer, table: np.ndarray) -> None:
    state = np.random.RandomState(0)
    one, same, other = (small(random_state=seed).fit(table[:100]).transform(table) for seed in (0, state, state))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert not hasattr(clone(fitted), "model_")


def test_it_works_in_pipelines_searches_and_frames(table: np.ndarray) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(table, columns=list("abcdefgh"))
    pipeline = make_pipeline(MinMaxScaler(), small()).set_output(transform="pandas")
    codes = pipeline.fit_transform(frame)
    assert list(codes) == ["vaetransformer0", "vaetransformer1"] == pipeline.get_feature_names_out().tolist()
    search = GridSearchCV(small(), {"latent_dim": [1, 2]}, cv=2, error_score="raise").fit(table)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.transform(table).shape == (600, search.best_params_["latent_dim"])


def test_parts_and_options_are_those_of_vaekit(table: np.ndarray, tmp_path) -> None:
    model = small(posterior="vmf", latent_dim=3, loss=("beta", "mmd"), options={**SMALL, "beta.beta": 2, "lr": 1e-3}).fit(table)
    np.testing.assert_allclose(np.linalg.norm(model.transform(table), axis=1), 1, rtol=1e-6)
    (tmp_path / "model.safetensors").write_bytes(model.model_)
    spec = vaekit.store.checkpoint.load(tmp_path / "model.safetensors")[1].spec
    assert [loss.kind for loss in spec.model.loss] == ["beta", "mmd"]
    assert (spec.model.loss[0].beta, spec.train.lr, spec.train.epochs) == (2, 1e-3, 1)
    assert len(model.history_) == 1
    state = np.random.RandomState(0)
    state.permutation(600)
    assert spec.train.seed == state.randint(2**31)


def test_what_cannot_be_is_refused(fitted: VAETransformer, table: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="3 columns, but codes have 2 latents"):
        fitted.inverse_transform(np.zeros((4, 3)))
    with pytest.raises(UsageError, match="unknown encoder"):
        small(encoder="nothing").fit(table)
    plain = small(posterior="delta").fit(table)
    with pytest.raises(UsageError, match="has no density"):
        plain.score_samples(table)
    monkeypatch.delitem(sys.modules, "vaekit.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r'vaekit\.sklearn needs a library[\s\S]*pip install "vaekit\[sklearn\]"'):
        importlib.import_module("vaekit.sklearn")

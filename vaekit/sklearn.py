"""A variational autoencoder as a scikit-learn transformer; the extra ``sklearn`` installs scikit-learn."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from vaekit import roles
from vaekit.data.pixels import Array
from vaekit.errors import UsageError
from vaekit.extras import import_extra
from vaekit.interfaces import without_density
from vaekit.run import load, train
from vaekit.specs.options import build_spec

import_extra("sklearn", "sklearn", "vaekit.sklearn")

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin  # noqa: E402 - if it is installed
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.validation import check_array, check_is_fitted, validate_data  # noqa: E402

AT_ONCE = 2**14
"""The number of rows times samples computed at once."""
DTYPES = [np.float64, np.float32]


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Encodes the rows of a table by a variational autoencoder, with the interface of scikit-learn.

    By default, columns of any range are standardised, and the likelihood is a Gaussian whose mean is any real number.
    A tenth of the rows is held out to choose the best epoch. A fitted model computes in double precision, so the result for a
    row does not depend on the other rows. A pickled transformer contains its model as the bytes of a safetensors file.

    Args:
        latent_dim: The number of latents.
        encoder: The encoder.
        decoder: The decoder.
        posterior: The posterior.
        prior: The prior; default: that of the posterior.
        likelihood: The likelihood; if it has the option ``link``, this is ``identity`` by default.
        loss: The loss, or several; default: the ELBO.
        epochs: The number of passes over the rows.
        options: Other options of `vaekit.train` by name, such as ``{"encoder.hidden": (64,), "beta": 4, "lr": 1e-3}``.
        standardize: Whether to scale each column to mean 0 and variance 1.
        validation_fraction: The fraction of rows held out to choose the best epoch.
        num_samples: The number of importance samples K of `score_samples`.
        device: The device to train on.
        random_state: The seed of the weights, the noise and the choice of held-out rows; or a NumPy ``RandomState``.

    Attributes:
        model_: The model file, which `vaekit.load` reads, as bytes.
        history_: The records of ``metrics.jsonl``, one per epoch.
        mean_: The value subtracted from each column, ``(n_features_in_,)``.
        scale_: The value by which each column is then divided, ``(n_features_in_,)``.
        n_features_in_: The number of columns.
        feature_names_in_: Their names, if `fit` received a table with names.

    Example:
        >>> from sklearn.pipeline import make_pipeline
        >>> X = np.random.default_rng(0).normal(size=(200, 3)) @ np.ones((3, 8))
        >>> vae = VAETransformer(latent_dim=2, epochs=2, random_state=0).fit(X)
        >>> Z = vae.transform(X)
        >>> Z.shape, vae.inverse_transform(Z).shape, vae.score_samples(X).shape
        ((200, 2), (200, 8), (200,))
    """

    def __init__(
        self,
        latent_dim: int = 8,
        *,
        encoder: str = "mlp",
        decoder: str = "mlp",
        posterior: str = "gaussian",
        prior: str | None = None,
        likelihood: str = "gaussian",
        loss: str | Sequence[str] | None = None,
        epochs: int = 30,
        options: Mapping[str, Any] | None = None,
        standardize: bool = True,
        validation_fraction: float = 0.1,
        num_samples: int = 64,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior
        self.prior = prior
        self.likelihood = likelihood
        self.loss = loss
        self.epochs = epochs
        self.options = options
        self.standardize = standardize
        self.validation_fraction = validation_fraction
        self.num_samples = num_samples
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's names
        """Train a model.

        Args:
            X: The rows, ``(n_samples, n_features)``, at least two.
            y: Ignored.

        Raises:
            ValueError: The rows are too few, or not finite numbers.
            UsageError: An option is invalid, or the parts do not fit together.
        """
        del y
        X = validate_data(self, X, dtype=DTYPES, ensure_min_samples=2)
        random = check_random_state(self.random_state)
        self.mean_, self.scale_ = self._standardisation(X)
        order = random.permutation(len(X))
        held_out = min(max(1, round(self.validation_fraction * len(X))), len(X) - 1)
        x = self._scaled(X).astype(np.float32)
        parts = {"x_train": x[order[held_out:]], "x_validation": x[order[:held_out]], "x_test": x[order[:held_out]]}
        with tempfile.TemporaryDirectory(prefix="vaekit-") as folder:
            file = Path(folder) / "table.npz"
            np.savez(file, **parts)
            run = train(self._spec(file, int(random.randint(2**31))), out=Path(folder) / "run")
            self.model_, self.history_ = run.folder.model.read_bytes(), run.metrics()
        self._load()
        return self

    def transform(self, X: Any) -> Array:  # noqa: N803
        """Return the mean of q(z|x) for each row, ``(n_samples, latent_dim)``, of the type of ``X``."""
        x, dtype = self._rows(X)
        z = [self._vae.encode(part).mean for part in x.split(AT_ONCE)]
        return self._array(z, dtype)

    def inverse_transform(self, X: Any) -> Array:  # noqa: N803
        """Return the mean of p(x|z) for each code, ``(n_samples, n_features)``, in the units of the columns.

        Args:
            X: The codes, ``(n_samples, latent_dim)``.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=DTYPES)
        if codes.shape[1] != self._vae.latent_dim:
            raise ValueError(f"X has {codes.shape[1]} columns, but codes have {self._vae.latent_dim} latents")
        x = [self._vae.decode(part) for part in torch.from_numpy(codes.astype(np.float64)).split(AT_ONCE)]
        rows: Array = (self._array(x, np.float64) * self.scale_ + self.mean_).astype(codes.dtype)
        return rows

    @torch.no_grad()
    def score_samples(self, X: Any) -> Array:  # noqa: N803
        """Return the importance-weighted bound of log p(x) for each row, in nats, ``(n_samples,)``.

        It is ``log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x)``, a lower bound in expectation that approaches log p(x) as K grows,
        for the density of a row in the units of its columns, or up to a constant for a likelihood such as ``mse``.
        The noise of the K samples is fixed, and the same for all rows.

        Raises:
            UsageError: The posterior or the prior has no density.

        References:
            Burda et al. (2016), "Importance Weighted Autoencoders", ICLR, arXiv:1509.00519, equation 8.
        """
        x, _ = self._rows(X)
        if reason := without_density(self._vae.posterior, self._vae.prior):
            raise UsageError(f"log p(x) cannot be estimated, since {reason}")
        noise = self._vae.posterior.draw_noise(self.num_samples, torch.Generator().manual_seed(0), like=x)[:, None]
        scores = []
        for part in x.split(max(1, AT_ONCE // self.num_samples)):
            trace = self._vae.trace_from(self._vae.encode(part), noise.expand(-1, len(part), -1), part)
            scores.append(torch.logsumexp(trace.log_weight, 0) - math.log(self.num_samples))
        log_p: Array = self._array(scores, np.float64) - np.log(self.scale_).sum()
        return log_p

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Return the mean of `score_samples`, the score that a grid search maximises."""
        del y
        return float(self.score_samples(X).mean())

    @property
    def _n_features_out(self) -> int:
        return self._vae.latent_dim

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_vae"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "model_" in state:
            self._load()

    def _load(self) -> None:
        """Read the model from its bytes; nothing is unpickled."""
        with tempfile.TemporaryDirectory(prefix="vaekit-") as folder:
            file = Path(folder) / "model.safetensors"
            file.write_bytes(self.model_)
            self._vae = load(file).double()

    def _spec(self, file: Path, seed: int) -> Any:
        """Return the spec of a run on the data in a file."""
        options: dict[str, Any] = {
            "dataset": "array",
            "dataset.path": str(file),
            "dataset.key": "x",
            "pictures": "none",
            "seed": seed,
        }
        for name in ("latent_dim", "encoder", "decoder", "posterior", "likelihood", "epochs", "device"):
            options[name] = getattr(self, name)
        options |= {name: value for name in ("prior", "loss") if (value := getattr(self, name)) is not None}
        if "link" in roles.likelihoods.spec(self.likelihood).model_fields:
            options["likelihood.link"] = "identity"
        return build_spec({}, options | dict(self.options or {}))

    def _standardisation(self, X: Array) -> tuple[Array, Array]:  # noqa: N803
        """Return the mean of each column and its standard deviation; 1 where it is constant up to rounding."""
        if not self.standardize:
            return np.zeros(X.shape[1]), np.ones(X.shape[1])
        mean, std = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
        rounding = len(X) * np.finfo(X.dtype).eps * np.abs(mean)
        return mean, np.where(std > rounding, std, 1.0)

    def _scaled(self, X: Array) -> Array:  # noqa: N803
        scaled: Array = (X - self.mean_) / self.scale_
        return scaled

    def _rows(self, X: Any) -> tuple[Tensor, Any]:  # noqa: N803
        """Return rows in the form the model takes, and their type."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, reset=False)
        return torch.from_numpy(self._scaled(X)), X.dtype

    @staticmethod
    def _array(parts: Sequence[Tensor], dtype: Any) -> Array:
        array: Array = torch.cat(list(parts)).numpy().astype(dtype)
        return array

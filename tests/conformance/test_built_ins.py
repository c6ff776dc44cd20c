"""vaekit's own components pass the conformance checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from small import small

import vaekit
from vaekit.registry import Registry
from vaekit.roles import REGISTRIES, datasets
from vaekit.testing import Check, checks

VARIED = ("check_gradient", "check_independence", "check_autocast", "check_onnx")
DECLARATIONS = ("check_documentation", "check_spec_round_trip")
SLOW = ("mlflow", "wandb", "onnx")
EXPECTED = {
    ("loss", "factor"): {"check_coverage": "an untrained critic knows nothing of the total correlation"},
    ("loss", "ms_ssim"): {"check_coverage": "it is no likelihood"},
    ("loss", "prior_nll"): {"check_coverage": "it is no divergence, as it leaves out the entropy of q"},
    ("loss", "flow_matching"): {"check_coverage": "it is no divergence, and it needs a flow"},
    ("loss", "aae"): {"check_coverage": "an untrained critic knows nothing of the divergence"},
    ("loss", "vae_gan"): {"check_coverage": "features of a critic are compared instead of pixels"},
    ("loss", "ciwae"): {"check_coverage": "where q = p, its part of the ELBO is looser than the bound of all samples"},
    ("loss", "miwae"): {"check_coverage": "where q = p, bounds of fewer samples are looser than that of all"},
    ("loss", "commitment"): {"check_coverage": "it is no divergence, and it needs codes"},
    ("loss", "joint_capacity"): {"check_coverage": "it needs a categorical latent beside Gaussian ones"},
    ("prior", "hypersphere"): {"check_gradient_of_density": "a uniform density has no derivative"},
    ("prior", "uniform"): {"check_gradient_of_density": "probabilities of codes have no derivative"},
    ("prior", "pixelcnn"): {"check_gradient_of_density": "probabilities of codes have no derivative"},
    ("posterior", "vq"): {
        "check_foreign_values": "values that are not the nearest entries have no probability",
        "check_gradient_of_density": "the straight-through estimator is not a derivative",
    },
    ("posterior", "residual_vq"): {
        "check_foreign_values": "values that are not the nearest entries have no probability",
        "check_gradient_of_density": "the straight-through estimator is not a derivative",
    },
    ("posterior", "fsq"): {
        "check_foreign_values": "values that are not the nearest levels have no probability",
        "check_gradient_of_density": "the straight-through estimator is not a derivative",
    },
    ("posterior", "categorical"): {"check_gradient_of_density": "a one-hot vector has the gradient of a relaxed one"},
    ("posterior", "joint"): {"check_gradient_of_density": "a one-hot vector has the gradient of a relaxed one"},
}


def variants(registry: Registry[Any], kind: str) -> list[dict[str, Any]]:
    """All non-default choices of normalisation and upsampling, for components with these options."""
    fields = registry.spec(kind).model_fields
    names = [name for name in ("normalization", "upsampling") if name in fields]
    return [{name: value} for name in names for value in get_args(fields[name].annotation) if value != fields[name].default]


def cases() -> list[Any]:
    found = []
    for registry in REGISTRIES:
        for kind in registry.kinds() if registry is not datasets else ():
            for check in checks(registry.role):
                more = variants(registry, kind) if check.__name__ in VARIED else []
                for options in ({}, *more):
                    name = "-".join([registry.role, kind, *options.values(), check.__name__])
                    slow = check.__name__ == "check_onnx" or (kind in SLOW and check.__name__ not in DECLARATIONS)
                    marks = [pytest.mark.slow] if slow else []
                    found.append(pytest.param(check, kind, small(registry, kind) | options, id=name, marks=marks))
    return found


@pytest.fixture(scope="module")
def own_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Provide MLflow with a database and a folder for artifacts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'runs.db'}")
        patch.chdir(tmp_path_factory.mktemp("artifacts"))
        yield


@pytest.mark.usefixtures("own_database")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
@pytest.mark.parametrize(("check", "kind", "options"), cases())
def test_built_in_component_conforms(check: Check, kind: str, options: dict[str, Any]) -> None:
    if check.role == "logger" and check.__name__ not in DECLARATIONS:
        pytest.importorskip(kind)
    check(kind, options=options, expected_failures=EXPECTED.get((check.role, kind)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 9, 7), dtype=np.uint8)
    np.save(folder / "images.npy", pixels)
    (folder / "pictures").mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / "pictures" / f"{number}.png")
    return {
        "array": folder / "images.npy",
        "folder": folder / "pictures",
        "huggingface": folder / "table",
        "latents": folder / "run",
    }


@pytest.fixture(scope="module")
def table(files: dict[str, Path]) -> None:
    library = pytest.importorskip("datasets")
    pictures = [{"bytes": file.read_bytes(), "path": None} for file in sorted(files["folder"].iterdir())]
    features = library.Features({"image": library.Image()})
    library.Dataset.from_dict({"image": pictures}, features).save_to_disk(files["huggingface"])


@pytest.fixture(scope="module")
def first(files: dict[str, Path]) -> None:
    options = {"dataset": "array", "dataset.path": str(files["array"]), "latent_dim": 2, "epochs": 1, "pictures": "none"}
    vaekit.train(**options, **{"encoder.hidden": (4,), "decoder.hidden": (4,), "batch_size": 16}, out=files["latents"])


LOCAL = ("digits", "array", "folder", "huggingface", "latents")


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("check", checks("dataset"))
def test_dataset_without_download_conforms(
    check: Check, kind: str, files: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    if kind in {"huggingface", "latents"}:
        request.getfixturevalue("table" if kind == "huggingface" else "first")
    check(kind, options={"run" if kind == "latents" else "path": str(files[kind])} if kind in files else {})


@pytest.mark.parametrize("kind", sorted(set(datasets.kinds()) - set(LOCAL)))
@pytest.mark.parametrize(
    "check",
    [check for check in checks("dataset") if check.__name__ in {*DECLARATIONS, "check_defaults"}],
)
def test_downloaded_dataset_conforms(check: Check, kind: str) -> None:
    check(kind)

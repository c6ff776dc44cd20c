"""`vaekit plugins new`, `vaekit plugins check`, and real wheels of the example packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from sites import ROOT, Site

from vaekit.cli import main
from vaekit.roles import REGISTRIES

ROLES = tuple(registry.role for registry in REGISTRIES)


def install_wheels(packages: Iterable[Path], target: Path) -> None:
    """Build wheels with the packages' own backend and install them with pip."""
    pytest.importorskip("hatchling")
    wheels = target.with_name("wheels")
    wheels.mkdir()
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    for package in packages:
        subprocess.run([sys.executable, "-c", build, str(wheels)], cwd=package, check=True, capture_output=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", "--target"]
    subprocess.run([*pip, str(target), *map(str, sorted(wheels.glob("*.whl")))], check=True)


def run_tests(folders: Iterable[Path], site: Path) -> None:
    """Run the packages' tests with only vaekit and the installed wheels importable."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "VAEKIT_PLUGINS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--import-mode=importlib"]
    done = subprocess.run(
        [*command, *map(str, folders)], cwd=site, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.slow
def test_written_packages_of_every_role_install_and_pass_their_own_tests(tmp_path: Path) -> None:
    packages = [tmp_path / f"written-{role}" for role in ROLES]
    for role, package in zip(ROLES, packages, strict=True):
        assert main(["plugins", "new", f"my_{role}", "--role", role, "--out", str(package)]) == 0
    install_wheels(packages, tmp_path / "site")
    run_tests([package / "tests" for package in packages], tmp_path / "site")


@pytest.mark.slow
def test_example_packages_install_and_pass_their_own_tests(tmp_path: Path) -> None:
    packages = sorted((ROOT / "plugins").glob("*"))
    assert len(packages) >= 2
    install_wheels(packages, tmp_path / "site")
    run_tests([package / "tests" for package in packages], tmp_path / "site")


def test_a_package_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "new", "acme_unet", "--role", "decoder", "--out", str(tmp_path / "acme")]) == 0
    out = capsys.readouterr().out
    files = {path.relative_to(tmp_path / "acme").as_posix() for path in (tmp_path / "acme").rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "pyproject.toml",
        "src/vaekit_acme_unet/__init__.py",
        "src/vaekit_acme_unet/py.typed",
        "tests/test_acme_unet.py",
    }
    for file in files:
        assert file in out
        assert "$" not in (tmp_path / "acme" / file).read_text("utf-8")
    assert "class AcmeUnet(vaekit.Backbone)" in (tmp_path / "acme/src/vaekit_acme_unet/__init__.py").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--role", "network"], "unknown role 'network'"),
        (["Acme-Unet"], "a component cannot be called 'Acme-Unet'"),
        (["class"], "a component cannot be called 'class'"),
        (["../x"], "a component cannot be called '../x'"),
        (["cnn"], "already provides the encoder 'cnn'"),
        (["acme", "--out", "."], "already exists"),
    ],
)
def test_invalid_packages_are_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    assert main(["plugins", "new", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_check_reports_each_check_and_fails_if_one_fails(site: Site) -> None:
    source = """
import torch, vaekit

@vaekit.priors("acme")
class Acme(vaekit.Prior):
    '''Claims a density that it does not have.'''

    provides = frozenset({vaekit.Capability.LOG_PROB})

    def forward(self, model=None, c=None):
        from vaekit.distributions import Delta

        return Delta(torch.zeros(self.latent_dim))
"""
    site.install("vaekit-acme", "vaekit_acme", source, "priors: acme = vaekit_acme:Acme\npriors: gone = vaekit_acme:Gone")
    good, bad, broken, unknown = site.vaekit(*(f"plugins check {name}" for name in ("prior:normal", "acme", "gone", "gon")))
    assert (good.code, good.err) == (0, "")
    assert "passed  check_state_dict" in good.out
    assert "failed" not in good.out
    assert bad.code == 1
    assert "prior acme  (vaekit-acme 1.2)" in bad.out
    assert "failed  check_capabilities" in bad.out
    assert "expected: declared: True" in bad.out
    assert broken.code == 1
    assert "plugin vaekit-acme 1.2 cannot provide 'gone'" in broken.err
    assert unknown.code == 2
    assert "did you mean gone" in unknown.err

"""Installed zoo models: listed, shown and trained by name without importing the package; broken ones are harmless."""

from __future__ import annotations

import json
from pathlib import Path

from sites import Site

MODEL = """
title: Acme
year: 2020
about: A small model.
reference: 'Acme et al. (2020), "A Model", arXiv:2001.00001.'
spec: {model: {latent_dim: 3, encoder: {kind: mlp, hidden: [8]}, loss: [{kind: tc, beta: 2}]}}
"""


def test_an_installed_model_is_in_the_zoo_and_a_broken_one_is_harmless(site: Site) -> None:
    announced = (
        "zoo: acme_model = vaekit_acme\nzoo: absent = vaekit_acme\nzoo: wrong = vaekit_acme\nzoo: beta-tcvae = vaekit_acme"
    )
    site.install("vaekit-acme", "vaekit_acme", "1 / 0", announced)
    (site.folder / "acme_model.yaml").write_text(MODEL, "utf-8")
    (site.folder / "wrong.yaml").write_text(MODEL + "price: 3", "utf-8")
    listed, shown, trained, absent, wrong, plugins = site.vaekit(
        "zoo --json",
        "zoo show acme-model",
        "train --model acme-model --epochs 1 --pictures none --out run --quiet",
        "train --model absent",
        "zoo show wrong",
        "plugins",
    )
    found = [json.loads(line)["name"] for line in listed.out.splitlines()]
    assert listed.code == 0
    assert "acme-model" in found
    assert not {"absent", "wrong"} & {*found}
    assert "plugin vaekit-acme 1.2 cannot provide 'absent': its file is missing" in listed.err
    assert "encoder mlp(hidden=8)" in shown.out
    assert trained.code == 0
    assert "latent_dim: 3" in Path(site.folder, "run/spec.yaml").read_text("utf-8")
    assert absent.code == 1
    assert "expected: absent.yaml in that package" in absent.err
    assert "price: unknown option" in wrong.err
    lines = {line.split()[1]: line.split()[2] for line in plugins.out.splitlines() if line.startswith("  model")}
    assert lines == {"acme_model": "ready", "absent": "broken", "wrong": "broken", "beta-tcvae": "shadowed"}

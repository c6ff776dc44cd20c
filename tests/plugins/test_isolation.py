"""Plugins that are broken in every way that we could think of: each fails when it is chosen, by name, and breaks nothing else."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

import vaekit
from tests.plugins.conftest import ENCODER, Site

GOOD = ENCODER.format(kind="acme", width=8)
TINY = ("--epochs", "1", "--latent-dim", "2", "--pictures", "none", "--decoder", "mlp", "--decoder.hidden", "8")


class Broken(NamedTuple):
    """A plugin that cannot be used, and what is said of it."""

    source: str
    says: str
    entry_point: str = "encoders: acme = vaekit_acme:Acme"
    requires: str = "vaekit"


BROKEN = {
    "import fails": Broken("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "syntax error": Broken("def f(:", "SyntaxError: "),
    "exits on import": Broken("raise SystemExit(7)", "SystemExit: 7"),
    "no such attribute": Broken("", "AttributeError: module 'vaekit_acme' has no attribute 'Acme'"),
    "damaged entry point": Broken("", "vaekit_acme:::Acme", "encoders: acme = vaekit_acme:::Acme"),
    "function": Broken("def Acme(in_shape, out_shape): ...", "encoder 'acme' is not a vaekit.Backbone"),
    "module": Broken("", "encoder 'acme' is not a vaekit.Backbone", "encoders: acme = vaekit_acme"),
    "class without the base": Broken("import torch\nclass Acme(torch.nn.Module): ...", "encoder 'acme' is not a vaekit.Backbone"),
    "class of another role": Broken(GOOD, "loss 'acme' is not a vaekit.Loss", "losses: acme = vaekit_acme:Acme"),
    "abstract class": Broken("import vaekit\nclass Acme(vaekit.Backbone):\n  '''A.'''", "encoder 'acme' does not define forward"),
    "registered under another name": Broken(ENCODER.format(kind="other", width=8), "registered as 'other' already"),
    "positional parameters do not fit": Broken(
        GOOD.replace("out_shape: tuple[int, ...], *, depth", "out_shape: tuple[int, ...], depth"),
        "positional parameter 'depth' is not among what assembly can hand to it",
    ),
    "option of a type that is no schema": Broken(
        GOOD.replace("depth: int = 2", "depth: torch.nn.Module = None"), "the options cannot be turned into a schema"
    ),
    "hidden options": Broken(GOOD.replace("*, depth: int = 2", "**options: int"), "hides options from the schema"),
    "made for another vaekit": Broken(
        GOOD, f"it needs vaekit>=99, and this is vaekit {vaekit.__version__}", requires="vaekit>=99"
    ),
    "constructor fails": Broken(GOOD.replace("super().__init__(in_shape, out_shape)", "1 / 0"), "ZeroDivisionError: division by zero"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_fails_when_chosen_and_breaks_no_other_command(site: Site, case: str) -> None:
    source, says, entry_point, requires = BROKEN[case]
    site.install("vaekit-acme", "vaekit_acme", source, entry_point, requires=requires)
    role = entry_point.partition(":")[0]
    chosen = ("--loss", "acme") if role == "losses" else ("--encoder", "acme", *TINY)
    code = f"""
import sys
from vaekit.cli import main
for command in (["components", "list"], ["components", "show", "cnn"], ["--help"]):
    assert main(command) == 0
assert main(["schema"]) == 0
print("HERE", file=sys.stderr)
sys.exit(main(["train", *{chosen!r}]))
"""
    done = site.run("-c", code)
    before, _, after = done.stderr.partition("HERE\n")
    assert before == ""
    assert done.returncode == 1, after
    assert after.startswith("error: plugin vaekit-acme 1.2 cannot provide 'acme': ")
    assert says in after
    assert f"entry point {entry_point.partition(': ')[2]} in group vaekit.{role}" in after
    assert "Traceback" not in after


def test_debug_shows_the_traceback_of_a_plugin(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", "import no_such_module", "encoders: acme = vaekit_acme:Acme")
    done = site.vaekit("--debug", "components", "show", "acme")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "import no_such_module" in done.stderr


def test_plugins_are_listed_with_their_state_and_what_is_wrong(site: Site) -> None:
    site.install(
        "vaekit-acme",
        "vaekit_acme",
        GOOD,
        "encoders: acme = vaekit_acme:Acme\nencoders: mlp = vaekit_acme:Acme\ndecoders: gone = vaekit_acme:Gone",
    )
    site.install("vaekit-exit", "vaekit_exit", "print('noise')\nraise SystemExit(0)", "losses: leave = vaekit_exit:Leave")
    done = site.vaekit("plugins")
    assert (done.returncode, done.stderr) == (0, "noise\n")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["vaekit-acme", "1.2"] in lines
    assert ["encoder", "acme", "ready", "One", "linear", "layer."] in lines
    assert "vaekit's own encoder 'mlp' is used" in done.stdout
    assert "module 'vaekit_acme' has no attribute 'Gone'" in done.stdout
    assert "SystemExit: 0" in done.stdout
    assert [line[2] for line in lines if len(line) > 2 and line[0] in {"encoder", "decoder", "loss"}] == [
        "ready", "shadowed", "broken", "broken"
    ]  # fmt: skip


def test_two_plugins_of_one_name_are_both_named_when_it_is_chosen(site: Site) -> None:
    for owner in ("acme", "other"):
        site.install(f"vaekit-{owner}", f"vaekit_{owner}", GOOD, f"encoders: acme = vaekit_{owner}:Acme")
    done = site.vaekit("components", "show", "acme")
    assert done.returncode == 1
    assert "2 installed plugins claim the encoder 'acme'" in done.stderr
    for owner in ("acme", "other"):
        assert f"vaekit-{owner} 1.2 (acme = vaekit_{owner}:Acme in group vaekit.encoders)" in done.stderr
    assert site.vaekit("components", "show", "cnn").returncode == 0
    assert site.vaekit("plugins").stdout.count("2 installed plugins claim the encoder 'acme'") == 2


def test_a_built_in_name_is_vaekits_own_with_a_warning_that_names_both(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", "raise RuntimeError('imported')", "encoders: cnn = vaekit_acme:CNN")
    done = site.vaekit("components", "show", "encoder:cnn")
    assert done.returncode == 0
    assert f"(vaekit {vaekit.__version__})" in done.stdout
    assert done.stderr == "warning: plugin vaekit-acme 1.2 also claims the encoder 'cnn'; vaekit's own is used\n"


def test_what_a_plugin_prints_on_import_does_not_touch_json(site: Site) -> None:
    site.install(
        "vaekit-acme", "vaekit_acme", "print('welcome')\n" + GOOD.replace("\n    ", "\n"), "encoders: acme = vaekit_acme:Acme"
    )
    code = "import numpy as np; np.save('x.npy', np.random.default_rng(0).integers(0, 256, (64, 6, 6), dtype=np.uint8))"
    assert site.run("-c", code).returncode == 0
    done = site.vaekit("train", "--json", "--encoder", "acme", "--dataset", "array", "--path", "x.npy", *TINY)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["start", "epoch", "end"]
    assert "welcome" in done.stderr


def test_plugins_can_be_switched_off(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", GOOD, "encoders: acme = vaekit_acme:Acme")
    assert "acme" in site.vaekit("components", "list").stdout
    assert "acme" not in site.vaekit("components", "list", VAEKIT_PLUGINS="0").stdout
    assert "acme" not in site.vaekit("components", "list", "--no-plugins").stdout
    done = site.vaekit("components", "show", "acme", "--no-plugins")
    assert done.returncode == 2
    assert "switched off" in site.vaekit("--no-plugins", "plugins").stdout


def test_metadata_that_nobody_can_read_are_passed_over(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", GOOD, "encoders: acme = vaekit_acme:Acme")
    site.install("vaekit-nameless", "vaekit_nameless", GOOD, "encoders: nameless = vaekit_nameless:Acme")
    (site.folder / "vaekit_nameless-1.2.dist-info" / "METADATA").unlink()
    damaged = site.folder / "damaged-1.0.dist-info"
    damaged.mkdir()
    (damaged / "entry_points.txt").write_bytes(b"[vaekit.encoders]\nbad = \xff\xfe\n")
    done = site.vaekit("components", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "acme            vaekit-acme 1.2 One linear layer." in done.stdout
    assert "nameless" in done.stdout


def test_names_are_listed_and_one_plugin_is_imported_when_it_is_chosen(site: Site) -> None:
    canary = "import pathlib; pathlib.Path(__file__).with_suffix('.imported').touch()\n"
    for owner in ("acme", "other"):
        source = canary + ENCODER.format(kind=owner, width=8).replace("\n    ", "\n")
        site.install(f"vaekit-{owner}", f"vaekit_{owner}", source, f"encoders: {owner} = vaekit_{owner}:Acme")
    assert "vaekit-other 1.2" in site.vaekit("components").stdout
    assert not list(site.folder.glob("*.imported"))
    shown = site.vaekit("components", "show", "acme")
    assert "encoder acme  (vaekit-acme 1.2)" in shown.stdout
    assert "--encoder.depth int  (default 2)" in shown.stdout
    assert [file.name for file in site.folder.glob("*.imported")] == ["vaekit_acme.imported"]


def test_a_summary_is_read_where_the_class_is_imported_from(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", "from vaekit_acme_parts import Unet as Acme", "encoders: acme = vaekit_acme:Acme")
    (site.folder / "vaekit_acme_parts.py").write_text("class Unet:\n    '''A U-Net.'''\n", "utf-8")
    assert "vaekit-acme 1.2 A U-Net." in site.vaekit("components").stdout


def test_of_two_installations_of_a_distribution_the_first_on_the_path_counts(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", GOOD, "encoders: acme = vaekit_acme:Acme", version="2.0")
    older = Site(site.folder / "older")
    older.folder.mkdir()
    older.install("Vaekit_Acme", "vaekit_acme", GOOD, "encoders: acme = vaekit_acme:Acme", version="1.0")
    code = f"import sys; sys.path.append({str(older.folder)!r}); import vaekit; print(vaekit.encoders.origin('acme'))"
    assert site.run("-c", code).stdout == "vaekit-acme 2.0\n"

"""Plugins broken in every conceivable way: each fails by name when it is chosen, and breaks nothing else."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pytest
from sites import ENCODER, Done, Site

import vaekit

GOOD = ENCODER.format(kind="acme", width=8)


class Broken(NamedTuple):
    """An unusable plugin and its error message."""

    source: str
    says: str
    entry_point: str = "encoders: {kind} = {module}:Acme"
    requires: str = "vaekit"


BROKEN = {
    "import fails": Broken("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "syntax error": Broken("def f(:", "SyntaxError: "),
    "exits on import": Broken("raise SystemExit(7)", "SystemExit: 7"),
    "no such attribute": Broken("", "has no attribute 'Acme'"),
    "damaged entry point": Broken("", "{module}:::Acme", "encoders: {kind} = {module}:::Acme"),
    "function": Broken("def Acme(in_shape, out_shape): ...", "encoder '{kind}' is not a vaekit.Backbone"),
    "module": Broken("", "encoder '{kind}' is not a vaekit.Backbone", "encoders: {kind} = {module}"),
    "class without the base": Broken("import torch\nclass Acme(torch.nn.Module): ...", "'{kind}' is not a vaekit.Backbone"),
    "class of another role": Broken(GOOD, "loss '{kind}' is not a vaekit.Loss", "losses: {kind} = {module}:Acme"),
    "abstract class": Broken("import vaekit\nclass Acme(vaekit.Backbone): ...", "encoder '{kind}' does not define forward"),
    "registered under another name": Broken(ENCODER.format(kind="other", width=8), "already registered as 'other'"),
    "positional parameters do not fit": Broken(
        GOOD.replace("out_shape: tuple[int, ...], *, depth", "out_shape: tuple[int, ...], depth"),
        "unknown positional parameter 'depth'",
    ),
    "option of a type that is no schema": Broken(
        GOOD.replace("depth: int = 2", "depth: torch.nn.Module = None"), "cannot derive a schema"
    ),
    "hidden options": Broken(GOOD.replace("*, depth: int = 2", "**options: int"), "hides options from the schema"),
    "made for another vaekit": Broken(
        GOOD, f"it requires vaekit>=99, but this is vaekit {vaekit.__version__}", requires="vaekit>=99"
    ),
    "constructor fails": Broken(GOOD.replace("super().__init__(in_shape, out_shape)", "1 / 0"), "ZeroDivisionError: division"),
}
KINDS = {case: f"broken_{number}" for number, case in enumerate(BROKEN)}
HEALTHY = ("components list", "components show cnn", "--help", "schema", "plugins")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """The outcomes of commands with all broken plugins installed, and of choosing each."""
    site = Site(tmp_path_factory.mktemp("site"))
    chosen = {}
    for case, kind in KINDS.items():
        broken, module = BROKEN[case], f"vaekit_{kind}"
        entry_point = broken.entry_point.format(kind=kind, module=module)
        site.install(
            f"vaekit-{kind}", module, broken.source.replace('"acme"', f'"{kind}"'), entry_point, requires=broken.requires
        )
        role = "loss" if entry_point.startswith("losses") else "encoder"
        chosen[case] = f"train --{role} {kind} --epochs 1 --latent-dim 2 --pictures none --out {case.replace(' ', '-')}"
    return dict(zip((*HEALTHY, *chosen), site.vaekit(*HEALTHY, *chosen.values()), strict=True))


@pytest.mark.parametrize("command", HEALTHY)
def test_broken_plugins_break_no_other_command(outcomes: dict[str, Done], command: str) -> None:
    assert (outcomes[command].code, outcomes[command].err) == (0, "")
    assert len(outcomes[command].out) > 100


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_fails_when_chosen_and_names_itself_and_the_cause(outcomes: dict[str, Done], case: str) -> None:
    kind, module = KINDS[case], f"vaekit_{KINDS[case]}"
    code, out, err = outcomes[case]
    assert (code, out) == (1, ""), err
    assert err.startswith(f"error: plugin vaekit-{kind} 1.2 cannot provide '{kind}': ")
    assert BROKEN[case].says.format(kind=kind, module=module) in err
    group, _, entry_point = BROKEN[case].entry_point.format(kind=kind, module=module).partition(": ")
    assert f"entry point {entry_point} in group vaekit.{group}" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback_of_a_plugin(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", "import no_such_module", "encoders: acme = vaekit_acme:Acme")
    done = site.run("-m", "vaekit", "--debug", "components", "show", "acme")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "import no_such_module" in done.stderr


def test_plugins_are_listed_with_their_state_and_problem(site: Site) -> None:
    names = "encoders: acme = vaekit_acme:Acme\nencoders: mlp = vaekit_acme:Acme\ndecoders: gone = vaekit_acme:Gone"
    site.install("vaekit-acme", "vaekit_acme", GOOD, names)
    site.install("vaekit-exit", "vaekit_exit", "print('noise')\nraise SystemExit(0)", "losses: leave = vaekit_exit:Leave")
    (done,) = site.vaekit("plugins")
    assert (done.code, done.err) == (0, "noise\n")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["vaekit-acme", "1.2"] in lines
    assert ["encoder", "acme", "ready", "Two", "linear", "layers."] in lines
    assert "vaekit's own encoder 'mlp' is used" in done.out
    assert "module 'vaekit_acme' has no attribute 'Gone'" in done.out
    assert "SystemExit: 0" in done.out
    states = [line[2] for line in lines if len(line) > 2 and line[0] in {"encoder", "decoder", "loss"}]
    assert states == ["ready", "shadowed", "broken", "broken"]


def test_two_plugins_of_one_name_are_both_named_when_it_is_chosen(site: Site) -> None:
    for owner in ("acme", "other"):
        site.install(f"vaekit-{owner}", f"vaekit_{owner}", GOOD, f"encoders: acme = vaekit_{owner}:Acme")
    chosen, other, listed = site.vaekit("components show acme", "components show cnn", "plugins")
    assert chosen.code == 1
    assert "2 installed plugins claim the encoder 'acme'" in chosen.err
    for owner in ("acme", "other"):
        assert f"vaekit-{owner} 1.2 (acme = vaekit_{owner}:Acme in group vaekit.encoders)" in chosen.err
    assert other.code == 0
    assert listed.out.count("2 installed plugins claim the encoder 'acme'") == 2


def test_built_ins_take_precedence_with_a_warning(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", "raise RuntimeError('imported')", "encoders: cnn = vaekit_acme:CNN")
    (done,) = site.vaekit("components show encoder:cnn")
    assert done.code == 0
    assert f"(vaekit {vaekit.__version__})" in done.out
    assert done.err == "warning: plugin vaekit-acme 1.2 also claims the encoder 'cnn'; vaekit's own is used\n"


def test_output_of_a_plugin_on_import_does_not_corrupt_json(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", "print('welcome')\n" + GOOD, "encoders: acme = vaekit_acme:Acme")
    np.save(site.folder / "x.npy", np.random.default_rng(0).integers(0, 256, (64, 6, 6), dtype=np.uint8))
    options = "--dataset array --path x.npy --epochs 1 --batch-size 16 --latent-dim 2 --pictures none --decoder mlp"
    done = site.run("-m", "vaekit", "train", "--json", "--encoder", "acme", *options.split())
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["start", "epoch", "end"]
    assert "welcome" in done.stderr


def test_plugins_can_be_disabled(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", GOOD, "encoders: acme = vaekit_acme:Acme")
    commands = "components list", "components list --no-plugins", "components show acme --no-plugins", "--no-plugins plugins"
    used, off, shown, listed = site.vaekit(*commands)
    assert "acme" in used.out
    assert "acme" not in off.out
    assert shown.code == 2
    assert "disabled" in listed.out
    (off,) = site.vaekit("components list", VAEKIT_PLUGINS="0")
    assert "acme" not in off.out


def test_unreadable_metadata_are_ignored(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", GOOD, "encoders: acme = vaekit_acme:Acme")
    site.install("vaekit-nameless", "vaekit_nameless", GOOD, "encoders: nameless = vaekit_nameless:Acme")
    (site.folder / "vaekit_nameless-1.2.dist-info" / "METADATA").unlink()
    damaged = site.folder / "damaged-1.0.dist-info"
    damaged.mkdir()
    (damaged / "entry_points.txt").write_bytes(b"[vaekit.encoders]\nbad = \xff\xfe\n")
    (done,) = site.vaekit("components list")
    assert (done.code, done.err) == (0, "")
    assert "acme            vaekit-acme 1.2 Two linear layers." in done.out
    assert "nameless" in done.out


def test_names_are_listed_and_one_plugin_is_imported_when_it_is_chosen(site: Site) -> None:
    canary = "import pathlib; pathlib.Path(__file__).with_suffix('.imported').touch()\n"
    for owner in ("acme", "other"):
        source = canary + ENCODER.format(kind=owner, width=8)
        site.install(f"vaekit-{owner}", f"vaekit_{owner}", source, f"encoders: {owner} = vaekit_{owner}:Acme")
    (listed,) = site.vaekit("components")
    assert "vaekit-other 1.2" in listed.out
    assert not list(site.folder.glob("*.imported"))
    (shown,) = site.vaekit("components show acme")
    assert "encoder acme  (vaekit-acme 1.2)" in shown.out
    assert "--encoder.depth int  (default 2)" in shown.out
    assert [file.name for file in site.folder.glob("*.imported")] == ["vaekit_acme.imported"]


def test_a_summary_is_read_from_the_defining_module(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", "from vaekit_acme_parts import Unet as Acme", "encoders: acme = vaekit_acme:Acme")
    (site.folder / "vaekit_acme_parts.py").write_text('class Unet:\n    """A U-Net."""\n', "utf-8")
    (done,) = site.vaekit("components")
    assert "vaekit-acme 1.2 A U-Net." in done.out


def test_of_two_installations_of_a_distribution_the_first_on_the_path_counts(site: Site) -> None:
    site.install("vaekit-acme", "vaekit_acme", GOOD, "encoders: acme = vaekit_acme:Acme", version="2.0")
    older = Site(site.folder / "older")
    older.folder.mkdir()
    older.install("Vaekit_Acme", "vaekit_acme", GOOD, "encoders: acme = vaekit_acme:Acme", version="1.0")
    code = f"import sys; sys.path.append({str(older.folder)!r}); import vaekit; print(vaekit.encoders.origin('acme'))"
    assert site.run("-c", code).stdout == "vaekit-acme 2.0\n"


MUTE = """
class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")

raise Mute
"""


def test_unusual_plugins_are_listed_and_harmless(site: Site) -> None:
    site.install("vaekit-mute", "vaekit_mute", MUTE, "encoders: mute = vaekit_mute:Mute")
    site.install("vaekit-doc", "vaekit_doc", GOOD + "\nAcme.__doc__ = 5\n", "encoders: doc = vaekit_doc:Acme")
    site.install("vaekit-deep", "vaekit_deep", f"x = {'(' * 500}{')' * 500}", "encoders: deep = vaekit_deep:Acme")
    site.install("vaekit-binary", "vaekit_binary", GOOD.replace('"acme"', '"binary"'), "encoders: binary = vaekit_binary:Acme")
    (site.folder / "vaekit_binary-1.2.dist-info" / "METADATA").write_bytes(b"\x80\xff\0" * 100)
    listed, schema, *others = site.vaekit(
        "plugins", "schema", "--help", "components list", "train --help", "train --encoder mute"
    )
    assert (listed.code, schema.code, [other.code for other in others]) == (0, 0, [0, 0, 0, 1])
    assert "vaekit_mute.Mute" in listed.out
    assert "binary          ready" in listed.out
    assert json.loads(schema.out)
    assert others[-1].err.startswith("error: plugin vaekit-mute 1.2 cannot provide 'mute': vaekit_mute.Mute")


def test_output_of_a_plugin_to_the_descriptor_of_stdout_does_not_corrupt_json(site: Site) -> None:
    noise = "import os\nos.write(1, b'noise 1\\n')\nos.system('echo noise 2')\nprint('noise 3')\n"
    site.install("vaekit-acme", "vaekit_acme", noise + GOOD, "encoders: acme = vaekit_acme:Acme")
    done = site.run("-m", "vaekit", "schema")
    assert done.returncode == 0
    assert json.loads(done.stdout)
    assert sorted(done.stderr.split("\n")) == ["", "noise 1", "noise 2", "noise 3"]


def test_names_with_markup_break_no_help(site: Site) -> None:
    picture = "import vaekit\n\nclass Shown(vaekit.Picture):\n    '[/red] a picture'\n    def still(self): ...\n"
    exporter = (
        "import vaekit\n\nclass Sent(vaekit.Exporter):\n    '[/red] a file'\n    def export(self, trained, part, path): ...\n"
    )
    site.install("vaekit-red", "vaekit_red", GOOD.replace('"acme"', '"[/red]x"'), "encoders: [/red]x = vaekit_red:Acme")
    site.install("vaekit-shown", "vaekit_shown", picture, "pictures: [/red]y = vaekit_shown:Shown")
    site.install("vaekit-sent", "vaekit_sent", exporter, "exporters: [/red]z = vaekit_sent:Sent")
    commands = ["--help", "train --help", "train --encoder [/red]x --help", "components list", "[/red]y --help", "export --help"]
    for command, done in zip(commands, site.vaekit(*commands, "plugins"), strict=False):
        assert (done.code, done.err) == (0, ""), command
        assert "[/red]" in done.out, command


FAILING = {
    "no memory": ("raise MemoryError('3 TiB')", "out of memory"),
    "raises": ("raise KeyError('x')", "the encoder 'acme' of plugin vaekit-acme 1.2 failed: KeyError: 'x'"),
    "a function of its module raises": (
        "return helper(x)",
        "the encoder 'acme' of plugin vaekit-acme 1.2 failed: ZeroDivisionError",
    ),
    "torch raises": ("return self.net(x.flatten(1)[:, 1:])", "the encoder 'acme' of plugin vaekit-acme 1.2 failed: RuntimeError"),
    "float64": ("return self.net(x).double()", "the encoder 'acme' of vaekit-acme 1.2 violates its contract: its output"),
    "another shape": ("return self.net(x).flatten(1)", "the encoder 'acme' of vaekit-acme 1.2 violates its contract: its output"),
    "no tensor": ("return [self.net(x)]", "the encoder 'acme' of vaekit-acme 1.2 violates its contract: its output"),
    "NaN": ("return self.net(x) * float('nan')", "the encoder 'acme' of vaekit-acme 1.2 violates its contract: its output"),
}


def test_errors_in_a_forward_pass_name_the_plugin_and_its_contract(site: Site) -> None:
    np.save(site.folder / "x.npy", np.random.default_rng(0).integers(0, 256, (64, 6, 6), dtype=np.uint8))
    options = "--dataset array --path x.npy --epochs 1 --batch-size 16 --latent-dim 2 --pictures none --decoder mlp"
    helper = "\n\ndef helper(x):\n    return 1 / 0\n"
    for number, (case, (body, expected)) in enumerate(FAILING.items()):
        own = Site(site.folder / str(number))
        own.folder.mkdir()
        source = ENCODER.format(kind="acme", width=8).replace("return self.net(x)", body) + helper
        own.install("vaekit-acme", "vaekit_acme", source, "encoders: acme = vaekit_acme:Acme")
        (done,) = own.vaekit(f"train --encoder acme {options} --out run".replace("x.npy", "../x.npy"))
        assert (done.code, done.out) == (1, ""), case
        assert done.err.startswith(f"error: {expected}"), (case, done.err)
        assert "Traceback" not in done.err
        assert not (own.folder / "run").exists()

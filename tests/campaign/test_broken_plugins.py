"""Plugins broken in a hundred ways are named and break nothing else."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import SMALL, Campaign, Commands, Done, listed

pytestmark = pytest.mark.slow

GOOD = '''
import torch, vaekit

class Acme(vaekit.Backbone):
    """Two linear layers."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, depth: int = 2) -> None:
        super().__init__(in_shape, out_shape)
        self.inner = torch.nn.Linear(torch.Size(in_shape).numel(), 8)
        self.outer = torch.nn.Linear(8, torch.Size(out_shape).numel())

    def forward(self, x):
        y = self.outer(self.inner(x.flatten(1))).unflatten(1, self.out_shape)
        return y
'''
METADATA = b"Metadata-Version: 2.1\nName: vaekit-acme\nVersion: 1.2\nRequires-Dist: vaekit\n"
ENTRY = b"[vaekit.encoders]\n%s = vaekit_acme:Acme\n"
EXCEPTIONS = """
class Mute(Exception):
    def __str__(self): raise ValueError
class Silent(Exception):
    def __repr__(self): raise ValueError
    __str__ = __repr__
class Numeric(Exception):
    def __str__(self): return 3
class Endless(Exception):
    def __str__(self): return str(self)
"""


class Variant(NamedTuple):
    """A distribution with an encoder ``kind`` that may be broken.

    Args:
        source: Its module.
        kind: The encoder's name.
        metadata: Its METADATA; None if there is none.
        entries: Its entry points; None for those of ``kind``.
    """

    source: str = GOOD
    kind: str = "acme"
    metadata: bytes | None = METADATA
    entries: bytes | None = None


RAISED = listed(r"""
    ValueError('x') | KeyError('[/red]x') | SystemExit(0) | SystemExit('bye') | GeneratorExit() | BaseException('x') | EOFError()
    MemoryError() | RecursionError() | StopIteration() | UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'x') | OSError(28, 'full')
    ExceptionGroup('g', [ValueError(1)]) | UserWarning('x') | BrokenPipeError() | ValueError('\x1b[31m\n' * 9) | TimeoutError
    ValueError('x' * 10**6) | ValueError('\udcff') | ValueError('😀') | __import__('vaekit').VaekitError('x', remedy='y')
    __import__('typer').Exit(3) | __import__('typer').Abort() | AssertionError | ImportError(None)
    Mute() | Silent() | Numeric() | Endless()
""")
SOURCES = {
    "recursion": "def f(): f()\nf()",
    "exit": "import sys\nsys.exit()",
    "syntax": "def f(:",
    "zero byte": "x = '\0'",
    "unknown coding": "# coding: nonsense\n",
    "indentation": "if 1:\n  x\n y",
    "closes stdout": "import sys\nsys.stdout.close()" + GOOD,
    "no stdout": "import sys\nsys.stdout = None" + GOOD,
    "prints": "print('noise')" + GOOD,
    "prints to the descriptor": "import os\nos.write(1, b'noise')" + GOOD,
    "prints in a child": "import os\nos.system('echo noise')" + GOOD,
    "warns": "import warnings\nwarnings.warn('noise')" + GOOD,
    "warnings are errors": "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('noise')" + GOOD,
    "abstract": "import vaekit\nclass Acme(vaekit.Backbone): ...",
    "an instance": GOOD + "\nAcme = Acme((1, 2, 2), (2,))",
    "another role": "from vaekit.components.losses.kl import KL as Acme",
    "vaekit's own": "from vaekit.components.encoders.mlp import MLP as Acme",
    "deleted": GOOD + "\ndel Acme",
    "metaclass": "class M(type):\n    def __getattr__(self, name): raise ValueError(name)\nclass Acme(metaclass=M): ...",
    "odd class": "class Acme:\n    __class__ = property(lambda self: 1 / 0)\nAcme = Acme()",
    "positional": GOOD.replace("*, depth", "depth"),
    "arguments": GOOD.replace("*, depth: int = 2", "*depth"),
    "no parameters": GOOD.replace("in_shape: tuple[int, ...], out_shape: tuple[int, ...], *, depth: int = 2", ""),
    "no documentation": GOOD.replace('"""Two linear layers."""', ""),
    "documentation is a number": GOOD + "\nAcme.__doc__ = 3",
    "documentation is markup": GOOD.replace("Two linear", "[/red][bold]\\x1b[31mTwo"),
    "signature is a number": GOOD + "\nAcme.__signature__ = 3",
}
OBJECTS = listed("None | 3 | print | object() | lambda: 0 | type('A', (), {}) | int | ...")
OPTIONS = listed("""
    depth | depth=2 | depth: Nonsense = 2 | depth: 'Nonsense' = 2 | depth: int = 'x' | depth: int = None | kind: int = 2
    copy: int | model_dump: int = 2 | _depth: int = 2 | depth: torch.Tensor = None | depth: object = object() | **depth: int
    depth: float = float('nan') | depth: int = 10**400 | depth: list[int] = [] | depth: type = int | é: int = 2 | depth: dict = {}
    depth: bytes = b'x' | depth: complex = 1j | help: int = 2 | json: bool = True | epochs: int = 1 | depth: '[/red]' = 2
    depth: int | out: int = 1 | depth: vaekit.Backbone = None | depth: tuple = () | class_: str = '[/red]'
""")
UNHARMFUL = listed("""
    y.detach() | y[:1] | y.half() | y.bfloat16() | y.int() | y.bool() | y * torch.nan | y / 0 | torch.full_like(y, torch.inf)
    y + y.mean(0) | y + torch.rand_like(y) | (_ for _ in ()).throw(SystemExit(0)) | print('noise') or y
""")
HARMFUL = listed("""
    None | x | 3.0 | 'x' | [y] | (y, y) | y.detach().numpy() | y[:, :1] | y.flatten(1) | y[..., None] | y.double() | y.T | y.sum()
    y.to(torch.complex64) | y.to('meta') | y.to_sparse() | torch.zeros(0) | x.zero_() and y | 1 / 0 | y.no_such_method() | [][0]
    torch.zeros(10**15) | {}['[/red]'] | exit(3) | self.forward(x) | self.nothing | next(iter([])) | y.cuda()
    (_ for _ in ()).throw(Mute()) | torch.nn.Parameter(y)
""")
SUPER = "super().__init__(in_shape, out_shape)"
CONSTRUCTORS = listed(f"""
    1 / 0 | raise SystemExit(0) | raise Mute() | pass | super().__init__(out_shape, in_shape) | super().__init__((), ())
    super().__init__(None, None); self.double() | {SUPER}; self.x = torch.nn.Parameter(torch.zeros(2).double())
    {SUPER}; self.register_buffer('x', torch.tensor(float('nan'))) | {SUPER}; self.x = torch.nn.Parameter(torch.zeros(0))
    print('noise'); {SUPER} | torch.nn.Module.__init__(self)
    {SUPER}; self.x = torch.nn.LazyLinear(3) | {SUPER}; self.state_dict = None | {SUPER}; self.train = None
""")
KINDS = [
    *listed("""
        [/red]x | [bold] | a b | größe | 😀 | --x | - | . | .. | a.b | a,b | none | auto | A | help | kind | quiet | ' | " | {}
        %s | $(x) | a/b | ../x | mlp | __init__ | 0 | a;b | encoder:acme
    """),
    *("x" * 300, "a\tb", "\x1b[31mred", "\u2028", "\u202eevil"),
]
ANNOUNCED = {
    "no metadata": Variant(metadata=None),
    "empty metadata": Variant(metadata=b""),
    "binary metadata": Variant(metadata=bytes(range(256))),
    "metadata in Latin-1": Variant(metadata=METADATA + b"Author: Gr\xf6\xdfe\n"),
    "no name": Variant(metadata=b"Version: 1\n"),
    "no version": Variant(metadata=b"Name: vaekit-acme\n"),
    "name with an escape": Variant(metadata=METADATA.replace(b"-acme", b"\x1b[31m")),
    "name with markup": Variant(metadata=METADATA.replace(b"-acme", b"[/red]")),
    "version of words": Variant(metadata=METADATA.replace(b"1.2", b"not a version; rm -rf")),
    "requires nonsense": Variant(metadata=METADATA + b"Requires-Dist: ??? !!\n"),
    "requires an extra": Variant(metadata=METADATA + b"Requires-Dist: vaekit; nonsense == '1'\n"),
    "requires another": Variant(metadata=METADATA + b"Requires-Dist: vaekit<0\n"),
    "two names": Variant(metadata=METADATA + b"Name: other\n"),
    "long metadata": Variant(metadata=METADATA + b"Keywords: x\n" * 50_000),
    "binary entry points": Variant(entries=bytes(range(256)) + b"\n[vaekit.encoders]\n"),
    "no section": Variant(entries=b"vaekit. acme = vaekit_acme:Acme\n"),
    "unknown role": Variant(entries=b"[vaekit.nothings]\nacme = vaekit_acme:Acme\n" + ENTRY % b"acme"),
    "given twice": Variant(entries=(ENTRY % b"acme") * 2),
    "no value": Variant(entries=b"[vaekit.encoders]\nacme =\n"),
    "no module": Variant(entries=b"[vaekit.encoders]\nacme = :Acme\n"),
    "a path": Variant(entries=b"[vaekit.encoders]\nacme = ../vaekit_acme.py:Acme\n"),
    "long value": Variant(entries=b"[vaekit.encoders]\nacme = " + b"a." * 10_000 + b":Acme\n"),
    "module of the standard library": Variant(entries=b"[vaekit.encoders]\nacme = antigravity_of_nothing:Acme\n"),
}
VARIANTS = {
    **{f"raises {text}": Variant(f"{EXCEPTIONS}\nraise {text}") for text in RAISED},
    **{f"is {text}": Variant(f"Acme = {text}") for text in OBJECTS},
    **{f"source: {name}": Variant(source) for name, source in SOURCES.items()},
    **{f"option {text}": Variant(GOOD.replace("depth: int = 2", text)) for text in OPTIONS},
    **{f"returns {text}": Variant(EXCEPTIONS + GOOD.replace("return y", f"return {text}")) for text in UNHARMFUL + HARMFUL},
    **{f"constructor {text}": Variant(EXCEPTIONS + GOOD.replace(SUPER, text)) for text in CONSTRUCTORS},
    **{f"named {kind}": Variant(kind=kind) for kind in KINDS},
    **{f"announced with {name}": variant for name, variant in ANNOUNCED.items()},
}


def install(variant: Variant, site: Path) -> None:
    """Install a variant."""
    info = site / "vaekit_acme-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "vaekit_acme.py").write_text(variant.source, "utf-8")
    if variant.metadata is not None:
        (info / "METADATA").write_bytes(variant.metadata)
    (info / "entry_points.txt").write_bytes(ENTRY % variant.kind.encode() if variant.entries is None else variant.entries)


def faults_of(name: str, commands: Commands, folder: Path) -> list[str]:
    """Return the failures of a variant."""
    variant, site, faults = VARIANTS[name], folder / "site", list[str]()
    install(variant, site)
    words = " ".join(SMALL).split(" --encoder mlp --encoder.hidden 8 ")
    training = ["train", *" ".join(words).split(), "--decoder", "mlp", "--epochs", "1", "--pictures", "none", "--json"]

    def run(*command: str, works: bool = False) -> Done:
        done = commands.start(*command, cwd=folder, site=site).finish()
        shown = f"{name}: {command[0]} {command[1] if command[0] == 'plugins' else command[-1]}"
        said = f"exit code {done.code}, … {done.err[-200:].strip()!r}"
        try:
            done.clean()
        except AssertionError:
            faults.append(f"{shown}: {said}")
        else:
            if works and done.code != 0:
                faults.append(f"{shown}: {said}")
        return done

    run("components", "list", works=True)
    run("plugins", "list", works=True)
    run("--help", works=True)
    for command in (["schema"], [*training, "--encoder", "mlp", "--out", "built-in"]):
        lines = run(*command, works=True).out
        try:
            [json.loads(line) for line in ([lines] if command == ["schema"] else lines.splitlines())]
        except ValueError as error:
            faults.append(f"{name}: {command[0]}: stdout is no JSON: {error}, {lines[:60]!r}")
    run("train", f"--encoder={variant.kind}", "--help")
    trained = run(*training, f"--encoder={variant.kind}", "--out", "own")
    about = (variant.kind, "vaekit-acme", "encoder", "the loss is not finite", "out of memory")
    if trained.code != 0 and not any(words in trained.err for words in about):
        faults.append(f"{name}: train names no plugin: {trained.err[-200:].strip()!r}")
    checked = run("plugins", "check", f"encoder:{variant.kind}")
    if checked.code == 0 and trained.code != 0:
        faults.append(f"{name}: passes the checks, and training ends with {trained.code}: {trained.err[-100:]!r}")
    return faults


def test_broken_plugins(campaign: Campaign) -> None:
    faults: list[str] = []
    chosen = random.Random("plugins").sample(sorted(VARIANTS), campaign.size(len(VARIANTS)))
    for number, name in enumerate(chosen):
        faults += faults_of(name, campaign.commands, campaign.place(number))
        shutil.rmtree(campaign.folder / str(number))
    campaign.tally("plugins", len(chosen), faults=len(faults))
    assert not faults, "\n".join(faults)

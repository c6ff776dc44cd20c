"""Players: gradients reach only the intended parameters, in eager mode, compiled and across processes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

import vaekit
from vaekit import roles
from vaekit.compute.distributed import ProcessGroup
from vaekit.data.facts import Facts
from vaekit.distributions import DiagonalGaussian
from vaekit.errors import UsageError
from vaekit.interfaces import MODEL_PARTS, Aim, Capability, Loss, Optim, Posterior
from vaekit.model.assembly import build_objective, build_vae
from vaekit.model.objective import Inputs, Objective, Reconstruction
from vaekit.specs.options import build_spec
from vaekit.specs.resolve import resolve
from vaekit.store.record import load_splits
from vaekit.trace import Site, Trace
from vaekit.training.hardware import fit_to_machine
from vaekit.training.step import Step

SHAPE = (1, 4, 4)


class Criticise(Loss):
    """A critic with its own network; with ``fool``, the model is pushed towards codes that look like prior samples."""

    def __init__(self, *, fool: bool = False):
        super().__init__()
        self.critic, self.fool = nn.Linear(3, 1), fool

    def aims(self):
        critic = Aim("criticise", moves=(), own=("critic",), optim=Optim(1e-4, (0.5, 0.9)), judged=False)
        return {"fool": Aim(), "critic": critic} if self.fool else {"critic": critic}

    def forward(self, trace: Trace):
        return self.critic(trace.z).squeeze(-1)

    def criticise(self, trace: Trace):
        return -self.critic(trace.z).squeeze(-1) + self.critic(torch.zeros_like(trace.z)).squeeze(-1).square()


class CodeNorm(Loss):
    """A second bound for the encoder only, for players that share a producer."""

    def __init__(self, *moves):
        super().__init__()
        self.moves = moves or MODEL_PARTS

    def aims(self):
        return {"norm": Aim(moves=self.moves)}

    def forward(self, trace: Trace):
        return trace.z.square().sum(-1)


class Linear(nn.Module):
    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.in_shape, self.out_shape = in_shape, out_shape
        self.linear = nn.Linear(torch.Size(in_shape).numel(), torch.Size(out_shape).numel())

    def forward(self, x):
        return self.linear(x.flatten(1)).unflatten(1, self.out_shape)


def make_vae():
    torch.manual_seed(0)
    return vaekit.VAE(Linear(SHAPE, (2, 3)), Linear((3,), SHAPE)).double()


def kl():
    return roles.losses.build(roles.losses.spec("kl")())


class Only(Loss):
    """Another loss that trains only some parts of the model."""

    samples = None

    def __init__(self, loss, *moves):
        super().__init__()
        self.loss, self.moves = loss, moves

    def aims(self):
        return {type(self.loss).__name__.lower(): Aim(moves=self.moves)}

    def forward(self, trace: Trace):
        return self.loss(trace)


def two_players(fool=True):
    """FactorVAE's topology: a model that plays against a critic."""
    return Objective(make_vae(), {"reconstruction": Reconstruction(), "kl": kl(), "critic": Criticise(fool=fool).double()})


def shared_producer():
    """PIWAE's topology: encoder and decoder are trained by different bounds."""
    losses = {
        "norm": CodeNorm("encoder"),
        "kl": Only(kl(), "encoder"),
        "reconstruction": Only(Reconstruction(), "decoder"),
    }
    return Objective(make_vae(), losses)


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(6, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return Inputs(x, x, noise, torch.tensor(0.0))


def gradients(objective, function=None):
    objective.zero_grad()
    total, *_ = (function or objective)(inputs())
    total.backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters()}


def expected(objective, index):
    """The gradient of a single player's losses with respect to its own parameters, by autograd."""
    trace = objective.vae(inputs().x, inputs().noise)
    player = objective.players[index]
    terms = [objective.terms[name] for name in player.aims]
    total = sum(getattr(objective.losses[loss], aim.method)(trace).mean() for loss, aim in terms)
    own = player.names
    parameters = dict(objective.named_parameters())
    return dict(zip(own, torch.autograd.grad(total, [parameters[name] for name in own]), strict=True))


@pytest.mark.parametrize("make", [two_players, shared_producer])
def test_each_player_trains_its_own_parameters_with_its_own_losses(make):
    objective = make()
    found = gradients(objective)
    for index in range(2):
        for name, gradient in expected(objective, index).items():
            torch.testing.assert_close(found[name], gradient, msg=lambda m, name=name: f"{name}: {m}")


def test_the_critics_loss_does_not_reach_the_encoder():
    with_critic, objective = gradients(two_players(fool=False)), two_players(fool=False)
    objective.losses["critic"].critic.weight.data.mul_(1000)
    changed = gradients(objective)
    for name in with_critic:
        if name.startswith("vae."):
            assert torch.equal(with_critic[name], changed[name])


@pytest.mark.parametrize("make", [two_players, shared_producer])
def test_compiled_in_one_graph_gradients_stay_in_scope(make):
    objective = make()
    compiled = torch.compile(objective.forward, backend="aot_eager", fullgraph=True)
    eager, graph = gradients(objective), gradients(objective, compiled)
    for name in eager:
        torch.testing.assert_close(graph[name], eager[name])


def test_parameters_of_the_same_aims_form_a_player():
    objective = two_players()
    assert [player.aims for player in objective.players] == [("reconstruction", "kl", "fool"), ("critic",)]
    assert objective.players[1].names == ("losses.critic.critic.weight", "losses.critic.critic.bias")
    assert objective.players[1].optim == Optim(1e-4, (0.5, 0.9))
    assert [player.aims for player in shared_producer().players] == [("norm", "kl"), ("reconstruction",)]
    assert sorted(name for player in objective.players for name in player.names) == sorted(dict(objective.named_parameters()))


def test_aims_that_are_not_judged_are_not_part_of_the_loss():
    total, terms, _ = two_players()(inputs())
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"] + terms["fool"])
    torch.testing.assert_close(total.detach(), terms["loss"] + terms["critic"])


def test_untrained_parts_and_contradictory_optimisers_are_refused():
    with pytest.raises(UsageError, match="no loss trains the decoder"):
        Objective(make_vae(), {"norm": CodeNorm("encoder")})

    class Slow(CodeNorm):
        def aims(self):
            return {"slow": Aim(optim=Optim(1e-5))}

    class Fast(CodeNorm):
        def aims(self):
            return {"fast": Aim(optim=Optim(1e-1))}

    with pytest.raises(UsageError, match=r"same name(.*\n)*.*norm, of one and other"):
        Objective(make_vae(), {"one": CodeNorm(), "other": CodeNorm()})
    with pytest.raises(UsageError, match="different optimisers"):
        Objective(make_vae(), {"slow": Slow(), "fast": Fast()})


def test_the_objective_of_one_player_is_the_negative_elbo():
    vae = make_vae()
    objective = Objective(vae, {"reconstruction": Reconstruction(), "kl": kl()})
    total, terms, trace = objective.evaluate(inputs())
    torch.testing.assert_close(total, (trace.kl - trace.log_likelihood).mean())
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"])


def test_reconstruction_is_summed_over_pixels_and_averaged_over_the_batch():
    """The trap that changes the meaning of β: a mean over pixels with a sum over latents."""
    objective = Objective(make_vae(), {"reconstruction": Reconstruction(), "kl": kl()})
    trace = objective.vae(inputs().x, inputs().noise)
    pixels = nn.functional.binary_cross_entropy(trace.reconstruction, trace.x, reduction="none")
    _, terms, _ = objective(inputs())
    torch.testing.assert_close(terms["reconstruction"], pixels.flatten(1).sum(1).mean())


def test_gradients_stay_in_scope_under_ddp_with_two_processes(tmp_path):
    """Two gloo ranks, each with half the batch, end with the gradients of one process with the whole."""
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys, torch, torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel
        from test_objective import gradients, inputs, shared_producer, two_players
        from vaekit.model.objective import Inputs

        rank, rendezvous = int(sys.argv[1]), sys.argv[2]
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
        for make in (two_players, shared_producer):
            objective = make()
            whole = gradients(objective)
            objective.zero_grad()
            wrapped = DistributedDataParallel(objective)
            full = inputs()
            part = slice(3 * rank, 3 * rank + 3)
            total, *_ = wrapped(Inputs(full.x[part], full.target[part], full.noise[part], full.epoch))
            total.backward()
            for name, parameter in objective.named_parameters():
                torch.testing.assert_close(parameter.grad, whole[name], msg=lambda m: f"{make.__name__} {name}: {m}")
            del wrapped
        dist.barrier()
        dist.destroy_process_group()
        os._exit(0)  # gloo's threads can abort the exit of a busy machine's interpreter
        """)
    )
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "rendezvous")], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_losses_with_networks_start_from_the_seed_without_the_global_generator():
    with roles.losses.temporarily():
        roles.losses("learning")(Criticise)
        spec = resolve({"model": {"loss": [{"kind": "kl"}, {"kind": "learning"}]}})
        vae = build_vae(spec.model, Facts(data_shape=(1, 28, 28)), seed=0)
        states = []
        for global_seed, seed in ((0, 7), (1, 7), (1, 8)):
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            states.append(build_objective(spec.model, vae, seed=seed).losses["learning"].critic.weight)
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


class Scaled(NamedTuple):
    """A density that contains another one, like a mixture or a flow."""

    base: DiagonalGaussian
    parts: list[DiagonalGaussian]
    options: dict[str, torch.Tensor]

    @property
    def mean(self):
        return self.base.mean

    def rsample(self, noise):
        return self.base.rsample(noise)

    def log_prob(self, value):
        return self.base.log_prob(value) + self.parts[0].log_prob(value) + self.options["shift"]


def test_a_density_within_a_density_is_detached_too():
    mu = torch.zeros(2, 3, requires_grad=True)
    inner = DiagonalGaussian(mu, mu + 1)
    q = Scaled(inner, [inner], {"shift": mu.sum()})
    detached = Trace(x=mu, sites=(Site(mu, q, q),), decoded=q).detach()
    for density in (detached.site.q, detached.site.p, detached.likelihood):
        assert isinstance(density, Scaled)
        assert not density.log_prob(torch.zeros(2, 3)).requires_grad
        torch.testing.assert_close(density.log_prob(torch.zeros(2, 3)), q.log_prob(torch.zeros(2, 3)))


def test_a_critics_loss_does_not_reach_the_encoder_through_a_nested_density():
    class Nested(Posterior):
        provides = frozenset({Capability.LOG_PROB})
        param_shape = (2, 3)

        def forward(self, params, model=None):
            inner = DiagonalGaussian(params[:, 0], params[:, 1])
            return Scaled(inner, [inner], {"shift": params.sum((1, 2))})

    class ReadDensity(Criticise):
        def criticise(self, trace):
            return self.critic(trace.z).squeeze(-1) * trace.site.log_q

    torch.manual_seed(0)
    vae = vaekit.VAE(Linear(SHAPE, (2, 3)), Linear((3,), SHAPE), posterior=Nested(3)).double()
    found = gradients(Objective(vae, {"reconstruction": Reconstruction(), "critic": ReadDensity().double()}))
    alone = Objective(vae, {"reconstruction": Reconstruction()})
    for name, gradient in gradients(alone).items():
        torch.testing.assert_close(found[name], gradient)


def test_an_object_that_holds_tensors_and_cannot_be_detached_is_refused():
    class Opaque:
        def __init__(self):
            self.mu = torch.zeros(2, 3, requires_grad=True)

    z = torch.zeros(2, 3)
    q = Scaled(Opaque(), [], {})
    with pytest.raises(TypeError, match="Opaque contains tensors and cannot be detached"):
        Trace(x=z, sites=(Site(z, q, q),), decoded=q).detach()


def test_a_model_of_two_players_is_not_sharded():
    spec = fit_to_machine(build_spec({}, {"parallel": "fsdp", "device": "cpu", "batch_size": 2}))
    with pytest.raises(UsageError, match="cannot be sharded"):
        Step(spec, shared_producer(), load_splits(spec), ProcessGroup(0, 2))

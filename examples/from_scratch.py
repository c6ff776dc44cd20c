"""A variational autoencoder from scratch: every formula, the code that computes it, and a check that vaekit agrees.

    python examples/from_scratch.py [--epochs 10] [--seed 0] [--out from_scratch]

Read it from top to bottom; each chapter is a function. A chapter explains a formula, computes it in plain PyTorch, and ends
with assertions: first that the formula is true (compared with a sum, an integral or a simulation), then that vaekit's function
gives the same number. Four pictures illustrate the numbers.

Notation: ``x`` is an image, and ``z`` is a short vector that explains it, its code. ``p(z)``, a standard normal, is the
distribution of codes before any image has been seen. ``p(x|z)``, the decoder, gives the probability of an image given its code.
``q(z|x)``, the encoder, guesses which codes could have produced an image. Everything is measured in nats: logarithms have base
e. Equation numbers refer to the first paper.

References:
    Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114.
    Chen et al. (2018), "Isolating Sources of Disentanglement in Variational Autoencoders", NeurIPS, arXiv:1802.04942.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vaekit
from vaekit import roles
from vaekit.components.losses.beta import Beta
from vaekit.components.losses.tc import decompose
from vaekit.distributions import DiagonalGaussian, StandardNormal, kl_per_dim
from vaekit.drawing.axes import PALETTE, Axes
from vaekit.drawing.grid import pairs
from vaekit.drawing.picture import write_picture
from vaekit.trace import Site

DIM = 2
"""Size of a code: two, so that codes can be plotted in a plane."""


def close(ours: Tensor | float, other: Tensor | float, tolerance: float = 1e-4) -> None:
    """Raise an error unless two numbers or tensors agree."""
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(other), rtol=tolerance, atol=tolerance, check_dtype=False)


def chapter_1_the_bound(out: Path) -> None:
    """Why there is a bound.

    A model should make the observed images likely, so we would like to maximise log p(x), where p(x) sums over all codes that
    could have produced x: ``p(x) = ∫ p(z) p(x|z) dz``. If the decoder is a neural network, this integral is intractable. But
    take any guess q(z) of where the codes are. The logarithm is concave: the log of a mean is at least the mean of the logs.
    Therefore

        log p(x) = log E_q[ p(z) p(x|z) / q(z) ]  >=  E_q[ log p(x|z) + log p(z) - log q(z) ]  =  the bound (equation 2).

    The gap measures exactly how wrong the guess is: ``log p(x) = bound + KL(q(z) || p(z|x))`` (equation 1). So raising the bound
    makes images more likely and improves the guess at the same time.

    In this chapter everything is a one-dimensional Gaussian, so log p(x) is known: z ~ N(0, 1) and x ~ N(2 z, 1) give
    x ~ N(0, 5).
    """
    x, slope = 1.5, 2.0
    log_p_x = -0.5 * (math.log(2 * math.pi * 5) + x**2 / 5)
    best_mean, best_var = slope * x / 5, 1 / 5  # the true p(z|x), by Bayes' rule for Gaussians

    def bound(mean: float, var: float) -> float:
        """Compute the expectations under N(mean, var) by hand: E[z] = mean, E[z²] = mean² + var."""
        log_likelihood = -0.5 * (math.log(2 * math.pi) + x**2 - 2 * x * slope * mean + slope**2 * (mean**2 + var))
        log_prior = -0.5 * (math.log(2 * math.pi) + mean**2 + var)
        entropy = 0.5 * (math.log(2 * math.pi * var) + 1)  # -E_q[log q]
        return log_likelihood + log_prior + entropy

    close(bound(best_mean, best_var), log_p_x)  # the right guess leaves no gap
    for mean, var in ((0.0, 1.0), (best_mean, 0.02), (1.0, 0.2)):
        q = DiagonalGaussian(torch.tensor([[mean]]), torch.tensor([[math.log(var)]]))
        truth = DiagonalGaussian(torch.tensor([[best_mean]]), torch.tensor([[math.log(best_var)]]))
        gap = kl_per_dim(q, truth)
        assert gap is not None
        close(log_p_x - bound(mean, var), gap.sum())  # a wrong guess leaves a gap of KL(q || p(z|x)), as vaekit computes it

    axes = Axes(
        (-0.5, 1.7), (log_p_x - 3, log_p_x + 0.4), ("mean of q", "nats"), "the bound, for three widths of q, is below log p(x)"
    )
    axes.line([axes.at(-0.5, log_p_x), axes.at(1.7, log_p_x)], "#1a1a1a", 2)
    axes.text(axes.at(1.25, log_p_x + 0.15), "log p(x)")
    for colour, std in zip(PALETTE, (best_var**0.5, 0.15, 1.1), strict=False):
        means = [-0.5 + 2.2 * i / 200 for i in range(201)]
        values = [(mean, bound(mean, std**2)) for mean in means]
        axes.line([axes.at(*point) for point in values if point[1] > log_p_x - 3], colour, 2)
        axes.text(axes.at(best_mean - 0.12, bound(best_mean, std**2) - 0.12), f"sd {std:.2f}")
    write_picture(axes.finish(), out / "1-bound.png")


def chapter_2_drawing_so_that_gradients_pass(model: vaekit.VAE) -> None:
    """The reparameterisation trick.

    The bound is a mean over samples z ~ N(mu, sigma²), and training needs its gradient with respect to mu and sigma. A random
    sample has no gradient, but a formula has. So draw noise that does not depend on the parameters, and compute z from it
    (equation 10):

        z = mu + sigma · noise,   noise ~ N(0, 1).

    As an example, take the mean of z². It is mu² + sigma², with derivatives 2 mu and 2 sigma; averages over samples must agree.
    """
    mu, logvar = torch.tensor([[0.7, -1.2]], requires_grad=True), torch.tensor([[0.4, -0.8]], requires_grad=True)
    noise = torch.randn(200_000, 1, 2, generator=torch.Generator().manual_seed(0))
    z = mu + torch.exp(0.5 * logvar) * noise  # networks output log sigma²: it may be any number, and sigma is always positive
    slope_mu, slope_logvar = torch.autograd.grad(z.square().mean(0).sum(), (mu, logvar))
    close(slope_mu, 2 * mu, 0.02)
    close(slope_logvar, logvar.exp(), 0.02)  # by the chain rule, 2 sigma · dsigma/dlogvar = sigma²
    close(z, model.reparameterize(mu, logvar, noise))


def chapter_3_the_kl_of_two_gaussians() -> None:
    """How far the guess q is from the prior p, in closed form.

    ``KL(q || p) = E_q[log q(z) - log p(z)]``. For q = N(mu, sigma²) and p = N(0, 1) the densities are

        log q = -½ (log 2π + log sigma² + (z - mu)² / sigma²),      log p = -½ (log 2π + z²).

    Under q, the mean of (z - mu)² is sigma², and the mean of z² is mu² + sigma². The constants cancel, which leaves (appendix B)

        KL = ½ (mu² + sigma² - 1 - log sigma²)

    for each dimension of the code. The dimensions are independent, so their KLs add up. The KL is 0 for mu = 0 and sigma = 1, and
    positive otherwise.
    """
    mu, logvar = torch.tensor([[0.7, -1.2, 0.0]]), torch.tensor([[0.4, -0.8, 0.0]])
    by_hand = 0.5 * (mu**2 + logvar.exp() - 1 - logvar)
    q, p = DiagonalGaussian(mu, logvar), StandardNormal(torch.zeros(3))
    z = q.rsample(torch.randn(400_000, 1, 3, generator=torch.Generator().manual_seed(0)))
    simulated = q.log_prob_per_dim(z) - p.log_prob_per_dim(z)
    standard_error = simulated.std(0) / math.sqrt(len(z))
    assert ((simulated.mean(0) - by_hand).abs() <= 5 * standard_error + 1e-6).all()
    theirs = kl_per_dim(q, p)
    assert theirs is not None
    close(by_hand, theirs)
    assert by_hand[0, 2] == 0


def networks(seed: int) -> tuple[nn.Module, nn.Module]:
    """Return two small networks: from images to (mu, log sigma²), and from codes to one logit per pixel."""
    torch.manual_seed(seed)
    to_hidden, from_code = nn.Linear(784, 256), nn.Linear(DIM, 256)
    for layer in (to_hidden, from_code):  # which keeps the scale of a signal that a ReLU follows; torch's default shrinks it
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    encoder = nn.Sequential(nn.Flatten(), to_hidden, nn.ReLU(), nn.Linear(256, 2 * DIM), nn.Unflatten(1, (2, DIM)))
    decoder = nn.Sequential(from_code, nn.ReLU(), nn.Linear(256, 784), nn.Unflatten(1, (1, 28, 28)))
    return encoder, decoder


def bound_of_a_batch(encoder: nn.Module, decoder: nn.Module, x: Tensor, noise: Tensor, beta: float = 1.0) -> Tensor:
    """Return the bound for each image of a batch: a complete VAE, equation 10 with one sample.

    The first half asks how well the decoder restores the image: ``log p(x|z)``. Each pixel is black or white like a coin with
    probability sigmoid(logit). Probabilities of independent coins multiply, so their logs *add up over the pixels*. (Averaging
    instead is the most common bug in VAE code: it makes the other half weigh 784 times as much.) The second half is chapter
    3's.
    """
    mu, logvar = encoder(x).unbind(1)
    z = mu + torch.exp(0.5 * logvar) * noise
    log_likelihood = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum((1, 2, 3))
    kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
    return log_likelihood - beta * kl


def chapter_4_the_estimator(encoder: nn.Module, decoder: nn.Module, model: vaekit.VAE, x: Tensor) -> None:
    """The bound for real images: ours and vaekit's, with the same networks and the same noise.

    A batch represents the dataset: the mean over its images is an unbiased estimate of the mean over all images (equation 8).
    One sample of z per image is enough, since every batch brings new samples.
    """
    noise = torch.randn(len(x), DIM, generator=torch.Generator().manual_seed(0))
    trace = model(x, noise)  # one forward pass in vaekit: its trace contains everything
    kl = trace.kl
    assert kl is not None
    close(bound_of_a_batch(encoder, decoder, x, noise), trace.log_likelihood - kl)
    close(bound_of_a_batch(encoder, decoder, x, noise), trace.log_weight + (trace.site.log_q - trace.site.log_p) - kl)


def chapter_5_what_beta_and_tc_change(encoder: nn.Module, decoder: nn.Module, model: vaekit.VAE, x: Tensor) -> None:
    """Two ways to obtain better organised codes.

    β-VAE multiplies the KL by β: ``log p(x|z) - β KL``. With β > 1, a code pays more for each nat of information about its
    image, so it keeps only what is worth the price, and images become blurrier.

    β-TCVAE looks inside the KL. Averaged over images, the KL is the sum of three terms (equation 2 of the second paper), where
    ``q(z) = mean over images of q(z|x)`` is the distribution of the codes of all images and q(z_d) that of one dimension:

        E KL = E log q(z|x)/q(z)   +   E log q(z) / Π q(z_d)   +   Σ E log q(z_d)/p(z_d)
               what codes tell         how much dimensions          how far each dimension
               about their images      depend on one another        is from a standard normal

    Only the middle term, the total correlation, works against one meaning per dimension, so β multiplies only this term.
    Computing q(z) takes the density of every code under every image: a B × B table.
    """
    noise = torch.randn(len(x), DIM, generator=torch.Generator().manual_seed(0))
    trace = model(x, noise)
    kl = trace.kl
    assert kl is not None
    close(bound_of_a_batch(encoder, decoder, x, noise, beta=4.0), trace.log_likelihood - Beta(beta=4.0)(trace))

    mu, logvar = encoder(x).unbind(1)
    z = mu + torch.exp(0.5 * logvar) * noise
    table = -0.5 * (math.log(2 * math.pi) + logvar + (z[:, None] - mu) ** 2 / logvar.exp())  # [i, j, d]: log q(z_i,d | x_j)
    images = math.log(len(x))
    log_q_of_own = table.sum(2).diagonal()
    log_q = torch.logsumexp(table.sum(2), 1) - images  # first the sum over d, then the mean over images
    log_q_of_each = (torch.logsumexp(table, 1) - images).sum(1)  # the other order: as if dimensions were independent
    log_p = -0.5 * (math.log(2 * math.pi) + z**2).sum(1)
    ours = torch.stack([log_q_of_own - log_q, log_q - log_q_of_each, log_q_of_each - log_p])
    close(ours.sum(0), log_q_of_own - log_p)  # the three terms add up to the KL of these samples
    close(
        ours, torch.stack(decompose(Site(z, DiagonalGaussian(mu, logvar), StandardNormal(torch.zeros(DIM))), None, "stratified"))
    )


def chapter_6_training(
    encoder: nn.Module, decoder: nn.Module, images: Tensor, test: Tensor, *, epochs: int, seed: int, out: Path
) -> float:
    """Train: draw a batch, compute the bound, take a step uphill. That is all. Return the final bound for test images.

    Whenever a batch is drawn, grey pixels become black or white at random, with their brightness as the probability of white,
    because the likelihood is that of black and white pixels.
    """
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(128):
            x = torch.bernoulli(images[index], generator=generator)
            bound = bound_of_a_batch(encoder, decoder, x, torch.randn(len(x), DIM, generator=generator)).mean()
            optimizer.zero_grad()
            (-bound).backward()
            optimizer.step()
    with torch.no_grad():
        mu, _ = encoder(test[:16]).unbind(1)
        write_picture(pairs(test[:16], decoder(mu).sigmoid()), out / "2-reconstructions.png")
        x, noise = torch.bernoulli(test, generator=generator), torch.randn(len(test), DIM, generator=generator)
        return bound_of_a_batch(encoder, decoder, x, noise).mean().item()


def chapter_7_the_same_in_one_call(epochs: int, seed: int, out: Path) -> float:
    """All of the above is `vaekit.train`. The pictures show the codes of test digits, and images decoded from codes in between.

    After so few steps, the codes do not fill the prior yet; where there are none, the decoder has not learned anything.
    """
    network = {"hidden": (256,), "activation": "relu"}
    settings = {f"{part}.{name}": value for part in ("encoder", "decoder") for name, value in network.items()}
    settings |= {"latent_dim": DIM, "epochs": epochs, "seed": seed, "schedule": "constant"}
    run = vaekit.train(encoder="mlp", dataset="digits", pictures="none", device="cpu", out=out / "run", **settings)
    run.pictures.scatter(out=out / "3-codes.png")
    run.pictures.manifold(out=out / "4-manifold.png")
    evaluation = run.evaluation()
    assert evaluation is not None
    return float(evaluation["elbo"])


def main(epochs: int, out: Path, seed: int = 0) -> dict[str, float]:
    """Go through all chapters; return the bounds reached from scratch and by vaekit."""
    out.mkdir(parents=True, exist_ok=True)
    encoder, decoder = networks(seed)
    gaussian, bce = roles.posteriors.get("gaussian"), roles.likelihoods.get("bce")
    model = vaekit.VAE(encoder, decoder, posterior=gaussian(DIM), likelihood=bce((1, 28, 28)))
    digits = roles.datasets.build(roles.datasets.spec("digits")()).load()
    images, test = (part.gather(torch.arange(len(part))).float() / 255 for part in (digits.train, digits.test))
    black_and_white = (images[:64] > 0.5).float()

    chapter_1_the_bound(out)
    chapter_2_drawing_so_that_gradients_pass(model)
    chapter_3_the_kl_of_two_gaussians()
    chapter_4_the_estimator(encoder, decoder, model, black_and_white)
    chapter_5_what_beta_and_tc_change(encoder, decoder, model, black_and_white)
    print("the formulas hold, and vaekit computes the same numbers")
    reached = {"from scratch": chapter_6_training(encoder, decoder, images, test, epochs=epochs, seed=seed, out=out)}
    chapter_4_the_estimator(encoder, decoder, model, black_and_white)  # both still agree after training
    reached["vaekit"] = chapter_7_the_same_in_one_call(epochs, seed, out)
    for name, bound in reached.items():
        print(f"{name}: a bound of {bound:.1f} nats per image after {epochs} epochs")
    print(f"{out}/: 1-bound.png, 2-reconstructions.png, 3-codes.png, 4-manifold.png")
    return reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("from_scratch"))
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.out, arguments.seed)

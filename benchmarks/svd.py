"""How near to the best rank-64 copy of a large matrix, and how fast?

    python -m benchmarks.svd [--device cuda] [--json FILE] [--quick]

Three spectra: one that decays slowly, one that decays, and that of a Gaussian matrix, which hardly does. The first two
are known by construction. For the third, scipy's Lanczos method, which runs until it has converged, gives the singular
values; it is slow and runs once, on the CPU.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor
from torch.utils.benchmark import timer

from benchmarks._harness import Contestants, Race, Result, Settings, main
from lora_edu.methods.lowrank import relative_error, truncated_svd

Factors = tuple[Tensor, Tensor, Tensor]


def measure(settings: Settings) -> list[Result]:
    size, r = (128, 8) if settings.quick else (8192, 64)
    return [result for case in cases(size, settings.device) for result in compare(*case, r, settings)]


def cases(size: int, device: torch.device) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """A name, a matrix, and its singular values where they are known."""
    generator = torch.Generator().manual_seed(0)
    for power in (0.5, 1.0):
        S = torch.arange(1, size + 1).double() ** -power
        yield f"sigma = i^-{power:g}", matrix_with(S, generator).to(device), S
    yield "Gaussian", torch.randn(size, size, generator=generator).to(device), None


def matrix_with(S: Tensor, generator: torch.Generator) -> Tensor:
    """A dense float32 matrix with these singular values: diagonal, between two random reflections."""
    u, v = (t / t.norm() for t in torch.randn(2, S.numel(), generator=generator))
    W = torch.diag(S.float())
    W.addr_(u, W.T @ u, alpha=-2)
    return W.addr_(W @ v, v, alpha=-2)


def compare(name: str, W: Tensor, S: Tensor | None, r: int, settings: Settings) -> list[Result]:
    start = timer()
    converged = lanczos(W, r)
    lanczos_seconds = timer() - start
    total, largest = (W, converged[1]) if S is None else (S, S[:r])
    optimum = (sum_of_squares(total) - sum_of_squares(largest)).sqrt().item()
    contestants: Contestants = {
        "randomized": lambda: truncated_svd(W, r, "randomized"),
        "krylov": lambda: truncated_svd(W, r, "krylov"),
        "svd_lowrank": lambda: svd_lowrank(W, r),
    }
    race = Race(contestants, settings, unit_bytes=W.nbytes)

    def excess(factors: Factors) -> str:
        U, S, Vh = factors
        error = relative_error(W, U * S @ Vh) * sum_of_squares(W).sqrt().item()
        return f"{error / optimum - 1:.4%}"

    above = {who: excess(factors) for who, factors in race.outputs.items()} | {
        "scipy svds": excess(converged)
    }

    def agreement(ours: str, peer: str) -> str:
        return f"error above the least: {above[ours]}, peer {above[peer]}"

    krylov = replace(
        race.result(name, "krylov", "krylov", agreement("krylov", "scipy svds")),
        peer="scipy svds",
        peer_seconds=lanczos_seconds,
        peer_memory=None,
        ratios=[seconds / lanczos_seconds for seconds in race.seconds["krylov"]],
    )
    randomized = agreement("randomized", "svd_lowrank")
    return [race.result(name, "randomized", "svd_lowrank", randomized), krylov]


def svd_lowrank(W: Tensor, r: int) -> Factors:
    """PyTorch's own randomized SVD; ten columns more than wanted, as ``q`` is to be an overestimate."""
    U, S, V = torch.svd_lowrank(W, q=r + 10, niter=2)
    return U[:, :r], S[:r], V[:, :r].T


def lanczos(W: Tensor, r: int) -> Factors:
    U, S, Vh = (torch.from_numpy(np.array(factor)).to(W.device) for factor in svds(W.cpu().numpy(), k=r))
    return U, S, Vh


def sum_of_squares(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values, dtype=torch.float64).square()


if __name__ == "__main__":
    main("The largest singular values of a matrix", measure)

"""GPTQ from scratch: round one column of a weight, and let the columns still to come repair the error.

Frantar et al. 2022, "GPTQ", arXiv 2210.17323, algorithm 1, without its lazy batches: the same numbers, more slowly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lora_edu.methods.blockwise import nearest_level

DAMPING = 0.01  # of the mean of H's diagonal, as in the paper (section 3.3)


def gptq(W: Tensor, H: Tensor, code: Tensor, blocksize: int = 64) -> Tensor:
    """The weight as it is read back, so rounded that its outputs err little on inputs like those that H was made of.

    Parameters
    ----------
    W
        Weight (out, in), float32.
    H
        X.T @ X of calibration inputs X (tokens, in); a multiple of the identity gives plain rounding to nearest.
    code
        Levels in [-1, 1]; each row times its absmax in a stretch of `blocksize` columns, kept in 16 bits.

    Raises
    ------
    ValueError
        If H is not (in, in), or `blocksize` does not divide the columns.
    """
    columns = W.shape[1]
    if H.shape != (columns, columns) or blocksize < 1 or columns % blocksize:
        raise ValueError(f"H must be ({columns}, {columns}) and blocksize divide {columns}, got {blocksize}")
    damped = H.double() + DAMPING * H.double().diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    U = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True).float()
    rest, W_hat, absmax = W.clone(), torch.empty_like(W), W.new_ones(len(W))
    for j in range(columns):
        if j % blocksize == 0:
            absmax = rest[:, j : j + blocksize].abs().amax(1).clamp(min=1e-8)
        W_hat[:, j] = code[nearest_level(rest[:, j] / absmax, code)] * absmax.half().float()
        error = (rest[:, j] - W_hat[:, j]) / U[j, j]
        rest[:, j + 1 :] -= torch.outer(error, U[j, j + 1 :])
    return W_hat


def output_error(W: Tensor, W_hat: Tensor, X: Tensor) -> float:
    """Size of the change of the outputs over the size of the outputs, for inputs X (tokens, in)."""
    return ((X @ (W_hat - W).T).norm() / (X @ W.T).norm()).item()

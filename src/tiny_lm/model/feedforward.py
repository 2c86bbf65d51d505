"""The position-wise half of a block: FeedForward with GELU (GPT-2) and SwiGLU (Llama).

Sources: Radford et al. 2019 (GPT-2), Hendrycks & Gimpel 2016 (arXiv 1606.08415), Shazeer 2020 (arXiv 2002.05202).
"""

from torch import Tensor, nn
from torch.nn import functional as F


class FeedForward(nn.Module):
    """fc2(GELU(fc1 x)), with biases; GELU by tanh, as GPT-2 was trained. (B, T, d_model) -> (B, T, d_model)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_ff)
        self.fc2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """w2(SiLU(w1 x) * w3 x), no biases. (B, T, d_model) -> (B, T, d_model)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(d_model, d_ff, bias=False)  # gate
        self.w2 = nn.Linear(d_ff, d_model, bias=False)  # down
        self.w3 = nn.Linear(d_model, d_ff, bias=False)  # up

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))

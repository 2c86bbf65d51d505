"""The position-wise half of a block: FeedForward with GELU (GPT-2) and SwiGLU (Llama).

Sources: Radford et al. 2019 (GPT-2), Hendrycks & Gimpel 2016 (arXiv 1606.08415), Shazeer 2020 (arXiv 2002.05202).
"""

from torch import Tensor, nn
from torch.nn import functional as F


class GELU(nn.Module):
    """GELU in the tanh approximation that GPT-2 was trained with (`gelu_new` in transformers)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class FeedForward(nn.Module):
    """fc2(GELU(fc1 x)), with biases. (B, T, d_model) -> (B, T, d_model)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_ff)
        self.gelu = GELU()
        self.fc2 = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """w2(SiLU(w1 x) * w3 x), no biases. (B, T, d_model) -> (B, T, d_model)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(d_model, d_ff, bias=False)  # gate
        self.w2 = nn.Linear(d_ff, d_model, bias=False)  # down
        self.w3 = nn.Linear(d_model, d_ff, bias=False)  # up

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))

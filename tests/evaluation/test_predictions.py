from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import LLAMA3

from tiny_lm.evaluation.predictions import predictions
from tiny_lm.model.registry import build_model


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_predictions_are_those_of_the_softmax_and_losses_those_of_training(precision: str) -> None:
    torch.manual_seed(0)
    model = build_model(replace(LLAMA3, n_layers=1), 40).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, y = torch.randint(0, 40, (2, 3, 16)).unbind()
    y[0, 9:] = -100
    (batch,) = predictions(model, [(x, y, torch.tensor([4, 2, 2]))], precision=precision, progress=False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        losses, probs = model.token_losses(x, y), model(x).float().softmax(-1)
    assert (batch.nats == losses.double().numpy()).all()
    assert batch.confidence == pytest.approx(probs.max(-1).values.numpy(), rel=1e-4)
    if precision == "32":  # bfloat16 has ties
        assert (batch.top == probs.argmax(-1).numpy()).all()
    assert (batch.is_target == (y != -100).numpy()).all()
    assert (batch.x == x.numpy()).all()
    assert batch.document.tolist() == [4, 2, 2]
    assert (batch.nats.dtype, batch.confidence.dtype, batch.top.dtype) == (np.float64, np.float64, np.int64)

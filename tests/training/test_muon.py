import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from tiny_lm.training.muon import Muon, MuonAdamW, orthogonalize

SHAPES = [(8, 8), (24, 8), (8, 24), (8, 8)]


def matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def set_gradients(parameters, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)


def steps(optimizer, parameters, numbers):
    for number in numbers:
        set_gradients(parameters, number)
        optimizer.step()


@pytest.mark.parametrize("shape", [(5, 16, 16), (3, 16, 40), (2, 40, 16)])
def test_orthogonalized_matrices_keep_their_directions_and_get_singular_values_near_one(shape):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    result = left.mT @ orthogonalize(given) @ right.mT  # diagonal if the singular vectors are kept
    values = result.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(result, torch.diag_embed(values), atol=1e-6, rtol=0)
    assert (values > 0.3).all()
    assert (values < 1.3).all()
    assert abs(values.mean() - 0.95) < 0.1


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.95, 0.0), (0.5, 0.3)])
def test_steps_equal_those_of_torchs_muon_except_for_its_bfloat16(momentum, weight_decay):
    ours, theirs = matrices(), matrices()
    group = {"params": ours, "lr": 0.1, "weight_decay": weight_decay}
    steps(Muon([group], momentum=momentum), ours, range(4))
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=weight_decay, momentum=momentum)
    steps(reference, theirs, range(4))
    start = matrices()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        assert (mine - other).norm() < 0.03 * (other - before).norm()


def test_a_matrix_without_a_gradient_stays():
    parameters = matrices()
    before = parameters[1].detach().clone()
    optimizer = Muon([{"params": parameters, "lr": 0.1}], momentum=0.9)
    set_gradients(parameters, 0)
    parameters[1].grad = None
    optimizer.step()
    assert torch.equal(parameters[1], before)
    assert not torch.equal(parameters[0], matrices()[0])


def both(parameters, vector):
    muon = Muon([{"params": parameters, "lr": 0.1}], momentum=0.9)
    return MuonAdamW(muon, AdamW([{"params": [vector], "lr": 0.2}], weight_decay=0.1))


def test_the_combined_optimizer_steps_as_each_of_its_parts():
    parameters, vector = matrices(), nn.Parameter(torch.ones(3))
    steps(both(parameters, vector), [*parameters, vector], range(3))
    alone, vector_alone = matrices(), nn.Parameter(torch.ones(3))
    muon = Muon([{"params": alone, "lr": 0.1}], momentum=0.9)
    adamw = AdamW([vector_alone], lr=0.2, weight_decay=0.1)
    for number in range(3):
        set_gradients([*alone, vector_alone], number)
        muon.step()
        adamw.step()
    assert all(torch.equal(a, b) for a, b in zip([*parameters, vector], [*alone, vector_alone], strict=True))


def test_a_state_dict_resumes_both_parts_exactly():
    parameters, vector = matrices(), nn.Parameter(torch.ones(3))
    optimizer = both(parameters, vector)
    steps(optimizer, [*parameters, vector], range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = [nn.Parameter(p.detach().clone()) for p in [*parameters, vector]]
    steps(optimizer, [*parameters, vector], range(2, 5))
    fresh = both(resumed[:-1], resumed[-1])
    fresh.load_state_dict(saved)
    for group in fresh.param_groups:
        assert group["lr"] in (0.1, 0.2)
    steps(fresh, resumed, range(2, 5))
    assert all(torch.equal(a, b) for a, b in zip([*parameters, vector], resumed, strict=True))


def test_learning_rates_set_on_the_combined_groups_reach_the_parts_also_after_a_resume():
    parameters, vector = matrices(), nn.Parameter(torch.ones(3))
    optimizer = both(parameters, vector)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    steps(optimizer, [*parameters, vector], range(1))
    assert all(torch.equal(a, b) for a, b in zip(parameters, matrices(), strict=True))
    assert torch.equal(vector, torch.ones(3))

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from tiny_lm.training.muon import Muon, MuonAdamW, _orthogonalize_square, _orthogonalize_wide, orthogonalize

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
def test_orthogonalized_matrices_keep_their_singular_vectors(shape):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    result = left.mT @ orthogonalize(given) @ right.mT
    torch.testing.assert_close(result, torch.diag_embed(result.diagonal(dim1=-2, dim2=-1)), atol=1e-6, rtol=0)


def test_singular_values_from_a_thousandth_of_the_norm_come_close_to_one():
    values = torch.cat([torch.logspace(-2.995, -1, 300), torch.linspace(0.1, 0.9, 300)]).double()
    others = torch.sqrt(1 - values**2)  # the other singular value, so that the norm is 1
    found = orthogonalize(torch.diag_embed(torch.stack([values, others], dim=1))).diagonal(dim1=-2, dim2=-1)[:, 0]
    assert 0.5 < (found - 1).abs().max() < 0.56  # so the grid contains the worst values


def test_wide_matrices_are_orthogonalized_like_others_with_smaller_matmuls():
    x = torch.randn(3, 128, 384, generator=torch.Generator().manual_seed(0))
    x /= x.norm(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(_orthogonalize_wide(x), _orthogonalize_square(x), atol=1e-5, rtol=0)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    hard = (left * torch.logspace(-3, -0.5, 128)) @ right  # singular values down to a thousandth
    torch.testing.assert_close(_orthogonalize_wide(hard), _orthogonalize_square(hard), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.95, 0.0), (0.5, 0.3)])
def test_steps_are_those_of_torchs_muon_up_to_how_exactly_it_orthogonalizes(momentum, weight_decay):
    ours, theirs = matrices(), matrices()
    group = {"params": ours, "lr": 0.1, "weight_decay": weight_decay}
    steps(Muon([group], momentum=momentum), ours, range(4))
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=weight_decay, momentum=momentum)
    steps(reference, theirs, range(4))
    for mine, other, before in zip(ours, theirs, matrices(), strict=True):
        assert torch.cosine_similarity((mine - before).flatten(), (other - before).flatten(), dim=0) > 0.9
        assert (mine - before).norm().item() == pytest.approx((other - before).norm().item(), rel=0.2)


def test_steps_with_exact_orthogonalization_are_those_of_the_formula(monkeypatch):
    def exact(given):
        left, _, right = torch.linalg.svd(given, full_matrices=False)
        return left @ right

    monkeypatch.setattr("tiny_lm.training.muon.orthogonalize", exact)
    parameters = matrices()
    steps(Muon([{"params": parameters, "lr": 0.1, "weight_decay": 0.3}], momentum=0.9), parameters, range(3))
    for index, p in enumerate(matrices()):
        weight, average = p.detach(), torch.zeros_like(p)
        for number in range(3):
            copies = matrices()
            set_gradients(copies, number)
            gradient = copies[index].grad
            average = 0.9 * average + 0.1 * gradient
            update = exact((0.9 * average + 0.1 * gradient)[None])[0]
            m, n = weight.shape
            weight = weight * (1 - 0.1 * 0.3) - 0.1 * max(1, m / n) ** 0.5 * update
        torch.testing.assert_close(parameters[index].detach(), weight)


def test_maps_in_one_matrix_are_stepped_as_matrices():
    generator = torch.Generator().manual_seed(0)
    whole = nn.Parameter(torch.randn(12, 10, generator=generator))
    parts = [nn.Parameter(part.clone()) for part in whole.detach().split(4)]
    for optimizer, parameters in (
        (Muon([{"params": [whole], "lr": 0.1, "maps": 3}], momentum=0.9), [whole]),
        (Muon([{"params": parts, "lr": 0.1}], momentum=0.9), parts),
    ):
        for step in range(2):
            gradient = torch.randn(12, 10, generator=torch.Generator().manual_seed(step))
            for p, g in zip(parameters, gradient.split(12 // len(parameters)), strict=True):
                p.grad = g
            optimizer.step()
    torch.testing.assert_close(whole.detach(), torch.cat([p.detach() for p in parts]))


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

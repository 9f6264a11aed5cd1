"""Muon: that of torch where torch has one, and the same for each matrix of a stack."""

import pytest
import torch
from tiny_muon import Muon, orthogonal


def stepped(optimizer: type, start: torch.Tensor, gradients: torch.Tensor, **options: object) -> torch.Tensor:
    parameter = torch.nn.Parameter(start.clone())
    found = optimizer([parameter], lr=0.03, weight_decay=0.1, **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        found.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_matrices_are_treated_as_torch_treats_them(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    expected = stepped(torch.optim.Muon, start, gradients, adjust_lr_fn="match_rms_adamw")
    found = stepped(Muon, start, gradients)
    assert (found - expected).abs().max() < 0.05 * (expected - start).abs().max()  # the iteration runs in bfloat16


@pytest.mark.parametrize("shape", [(3, 24, 40), (3, 40, 24)])
def test_a_stack_is_treated_matrix_by_matrix(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(2, *shape)
    gradients[:, 1] *= 1000  # one matrix does not scale the others down
    found = stepped(Muon, start, gradients)
    for number in range(3):
        alone = stepped(Muon, start[number], gradients[:, number])
        assert (found[number] - alone).abs().max() < 0.02 * (alone - start[number]).abs().max()


def test_a_convolution_is_treated_as_its_matrix() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 3, 2, 4, 4), torch.randn(2, 8, 3, 2, 4, 4)
    found = stepped(Muon, start, gradients)
    assert torch.equal(found.flatten(1), stepped(Muon, start.flatten(1), gradients.flatten(2)))


def test_singular_values_become_about_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(2, 20, 50) * 7).float())
    assert values.min() > 0.5 and values.max() < 1.4


def test_what_gets_no_gradient_stays() -> None:
    start = torch.randn(4, 4)
    parameter = torch.nn.Parameter(start.clone())
    Muon([parameter], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(parameter.detach(), start)
    parameter.grad = torch.zeros(4, 4)
    Muon([parameter], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(parameter.detach(), 0.5 * start)

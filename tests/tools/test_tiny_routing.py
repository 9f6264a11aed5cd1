"""Balance of experts: what counts as balanced, and that both ways pull towards it."""

import pytest
import torch
from tiny_families import family
from tiny_routing import BIAS_STEP, LOSS_SHARE, Routers, balance_loss, move_bias, shares


def chosen(logits: torch.Tensor, active: int) -> tuple[torch.Tensor, torch.Tensor]:
    return logits, logits.topk(active, -1).indices


def test_shares_count_every_choice() -> None:
    assert shares(torch.tensor([[0, 1], [0, 3]]), 5).tolist() == [0.5, 0.25, 0, 0.25, 0]


def test_the_loss_is_least_where_experts_are_used_alike() -> None:
    even = torch.eye(4).repeat(8, 1) * 3
    uneven = torch.tensor([[3.0, 0, 0, 0]]).repeat(32, 1)
    assert balance_loss([chosen(even, 1)]).item() == pytest.approx(LOSS_SHARE)
    assert balance_loss([chosen(uneven, 1)] * 2).item() > 4 * LOSS_SHARE
    uneven.requires_grad_()
    balance_loss([chosen(uneven, 1)]).backward()
    assert (uneven.grad[:, 0] > 0).all() and (uneven.grad[:, 1:] < 0).all()


def test_the_bias_moves_against_rare_and_frequent_experts_only() -> None:
    model = family("glm4_moe_lite").model()
    routers = Routers(model)
    assert len(routers.routers) == 3
    logits = torch.zeros(100, 8)
    experts = torch.tensor([[0, 1]] * 40 + [[0, 2]] * 30 + [[3, 4]] * 20 + [[5, 6]] * 10)
    move_bias(routers.routers[:1], [(logits, experts)])
    step = [-1, 0, 0, 0, 0, 1, 1, 1]  # 70, 40, 30, 20, 20, 10, 10 and 0 uses, 25 on average
    assert routers.routers[0].e_score_correction_bias.tolist() == pytest.approx([BIAS_STEP * s for s in step])
    assert not routers.routers[1].e_score_correction_bias.any()


@pytest.mark.parametrize(("name", "layers"), [("qwen3", 0), ("qwen3_moe", 4), ("glm4_moe_lite", 3)])
def test_routers_are_watched_until_closed(name: str, layers: int) -> None:
    model = family(name).model()
    routers = Routers(model)
    model(torch.arange(20)[None])
    seen = routers.take()
    assert [(tuple(logits.shape), tuple(experts.shape)) for logits, experts in seen] == [((20, 8), (20, 2))] * layers
    assert routers.take() == []
    model(torch.arange(20)[None])
    routers.close()
    routers.take()
    model(torch.arange(20)[None])
    assert routers.take() == []

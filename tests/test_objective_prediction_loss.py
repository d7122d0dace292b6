"""The prediction loss against its formula."""

import numpy as np
import pytest
import torch

from lewm.objective import prediction_loss


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_equals_the_formula(beta: float) -> None:
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, 3, 5, 4)) * 2
    gap = np.abs(u - v)
    expected = np.where(gap < beta, gap**2 / (2 * beta), gap - beta / 2).sum(-1).mean()
    assert 0 < (gap < beta).sum() < gap.size
    s_hat, s_next = torch.tensor(u), torch.tensor(v)
    assert prediction_loss(s_hat, s_next, beta=beta, reduction="sum").item() == pytest.approx(expected, rel=1e-12)
    assert prediction_loss(s_hat, s_next, beta=beta, reduction="mean").item() == pytest.approx(expected / 4, rel=1e-12)


def test_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    s_hat, s_next = torch.randn(2, 8, 16, 32)
    expected = prediction_loss(s_hat, s_next, beta=1.0, reduction="mean")
    with torch.autocast("cpu", torch.bfloat16):
        loss = prediction_loss(s_hat, s_next, beta=1.0, reduction="mean")
        of_half = prediction_loss(s_hat.bfloat16(), s_next, beta=1.0, reduction="mean")
    assert loss.dtype == of_half.dtype == torch.float32
    assert torch.equal(loss, expected)
    torch.testing.assert_close(of_half, expected, rtol=1e-2, atol=0)


def test_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"s_hat=\(2, 3, 4\): must have the shape of s_next"):
        prediction_loss(torch.zeros(2, 3, 4), torch.zeros(2, 1, 4), beta=1.0, reduction="mean")


def test_mse_is_half_the_squared_error_at_any_distance() -> None:
    s_hat, s_next = torch.tensor([[[0.0, 5.0]]]), torch.tensor([[[1.0, 1.0]]])
    settings = {"beta": 1.0, "reduction": "mean"}
    assert prediction_loss(s_hat, s_next, form="mse", **settings).item() == pytest.approx((1 + 16) / 4)
    assert prediction_loss(s_hat, s_next, **settings).item() == pytest.approx((0.5 + 3.5) / 2)

"""DreamerV3's equations against naive forms."""

import numpy as np
import torch
from torch import nn

from lewm.families.rivals.dreamer import (
    Dreamer,
    Recurrence,
    kl_losses,
    straight_through,
    unimix,
)
from tiny import batch_of, rival

CLASSES = 16


def test_one_percent_is_uniform() -> None:
    probs = unimix(torch.tensor([[0.0, 1.0, 40.0, -40.0]]))
    softmax = np.exp([0.0, 1.0, 40.0, -40.0]) / np.exp([0.0, 1.0, 40.0, -40.0]).sum()
    np.testing.assert_allclose(probs[0], 0.99 * softmax + 0.01 / 4, rtol=1e-5)


def test_straight_through_draws_and_passes_the_gradient_on() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[[0.0, 1.0, 2.0]]]).expand(4000, 1, 3).clone().requires_grad_()
    probs = unimix(logits)
    z = straight_through(probs)
    assert set(z.detach().round().flatten().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(z.sum(-1), torch.ones(4000, 1))
    torch.testing.assert_close(z.mean(0), probs[0], atol=0.03, rtol=0)
    weight = torch.tensor([1.0, -2.0, 0.5])
    (z * weight).sum().backward()
    through, logits.grad = logits.grad, None
    (unimix(logits) * weight).sum().backward()
    torch.testing.assert_close(through, logits.grad)


def test_kl_losses_equal_numpy() -> None:
    torch.manual_seed(0)
    q, p = unimix(3 * torch.randn(6, 2, 5)), unimix(3 * torch.randn(6, 2, 5))
    q[0] = p[0]  # below the free nats
    a, b = q.numpy(), p.numpy()
    naive = [sum(a[i, s, c] * np.log(a[i, s, c] / b[i, s, c]) for s in range(2) for c in range(5)) for i in range(6)]
    expected = np.mean([max(1.0, float(value)) for value in naive])
    assert naive[0] < 1 < max(naive)
    for loss in kl_losses(q, p):
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_kl_is_balanced_and_free_below_one_nat() -> None:
    torch.manual_seed(0)
    q_logits, p_logits = (3 * torch.randn(2, 6, 2, 5)).requires_grad_().unbind(0)
    for logits in (q_logits, p_logits):
        logits.retain_grad()
    dynamics, representation = kl_losses(unimix(q_logits), unimix(p_logits))
    dynamics.backward(retain_graph=True)
    assert q_logits.grad is None
    assert p_logits.grad is not None
    assert p_logits.grad.any()
    p_logits.grad = None
    representation.backward()
    assert p_logits.grad is None
    assert q_logits.grad is not None
    assert q_logits.grad.any()
    close = torch.randn(3, 2, 5, requires_grad=True)
    dynamics, representation = kl_losses(unimix(close), unimix(close * 1.01))
    (dynamics + representation).backward()
    assert (dynamics.item(), representation.item()) == (1.0, 1.0)
    assert close.grad is not None
    assert not close.grad.any()


def test_recurrence_equals_numpy() -> None:
    torch.manual_seed(0)
    cell = Recurrence(latent=6, action=2, deterministic=4, hidden=5).double()
    h, z, a = torch.randn(3, 4).double(), torch.randn(3, 6).double(), torch.randn(3, 2).double()

    def norm(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    weights = {name: value.numpy() for name, value in cell.state_dict().items()}
    x = norm(np.concatenate([z, a], axis=1) @ weights["embed.0.weight"].T + weights["embed.0.bias"])
    x = x * sigmoid(x)
    gates = norm(np.concatenate([h, x], axis=1) @ weights["gates.weight"].T)
    reset, candidate, update = np.split(gates, 3, axis=1)
    candidate, update = np.tanh(sigmoid(reset) * candidate), sigmoid(update - 1)
    expected = update * candidate + (1 - update) * h.numpy()
    np.testing.assert_allclose(cell(h, z, a).detach(), expected, rtol=1e-10)


def test_loss_is_the_sum_of_its_parts() -> None:
    torch.manual_seed(0)
    model = Dreamer(rival("dreamer"))
    frames, actions = torch.randint(256, (3, 4, 32, 32, 3), dtype=torch.uint8), torch.randn(3, 3, 2)
    out = model.losses(batch_of(frames, actions), torch.Generator())
    torch.testing.assert_close(out["loss"], out["loss_pred"] + out["loss_dyn"] + 0.1 * out["loss_rep"])
    out["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_reconstruction_is_summed_over_a_frame() -> None:
    torch.manual_seed(0)
    model = Dreamer(rival("dreamer"))
    last = model.decoder[-1]
    assert isinstance(last, nn.ConvTranspose2d)
    assert last.bias is not None
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, 0.5)
    frames = torch.randint(256, (3, 4, 32, 32, 3), dtype=torch.uint8)
    expected = ((frames.numpy() / 255.0 - 0.5) ** 2).sum((2, 3, 4)).mean()
    out = model.losses(batch_of(frames, torch.randn(3, 3, 2)), torch.Generator())
    np.testing.assert_allclose(out["loss_pred"].item(), expected, rtol=1e-5)


def test_representations_are_distributions() -> None:
    torch.manual_seed(0)
    model = Dreamer(rival("dreamer")).eval()
    frames = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    tokens = model.encode(frames)
    ahead = model.rollout(tokens[:, None], torch.randn(3, 0, 2), torch.randn(3, 2, 2))
    for probs in (tokens, ahead):
        sums = probs.unflatten(-1, (-1, CLASSES)).sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))

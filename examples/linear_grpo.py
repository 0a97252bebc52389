"""The loss of GRPO (group-relative policy optimisation), from hidden states and a head.

All it needs of the policy is one number or two for each token: its log-probability, and the
entropy where there is a bonus for it. Both are differentiable, so the loss is plain PyTorch and
can be changed like that. Advantages and the other policies' log-probabilities are constants.

Run it: ``python examples/linear_grpo.py`` (needs torch and numba).
"""

from __future__ import annotations

import torch

import xent.torch


def grpo_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    labels: torch.Tensor,
    advantage: torch.Tensor,
    old: torch.Tensor,
    reference: torch.Tensor,
    *,
    temperature: float = 1.0,
    clip: float = 0.2,
    kl_weight: float = 0.04,
    entropy_weight: float = 0.01,
) -> torch.Tensor:
    """Return the mean over sampled tokens of the clipped objective, as a loss.

    Parameters
    ----------
    hidden, head
        Hidden states of prompt and completion, and the head.  (B, T, D), (V, D)
    labels
        The tokens; -100 for those of the prompt and padding.  (B, T)
    advantage
        Of each completion within its group.                   (B,)
    old, reference
        Log-probabilities of the tokens by the policy that sampled them and by the one to stay
        near.                                                  (B, T - 1)
    """
    s = xent.torch.linear_softmax_statistics(hidden, head, labels, shift=1, temperature=temperature)
    sampled = labels[:, 1:] != -100
    ratio = torch.exp(s.log_probability - old)
    gain = torch.minimum(
        ratio * advantage[:, None], ratio.clamp(1 - clip, 1 + clip) * advantage[:, None]
    )
    apart = reference - s.log_probability
    divergence = torch.expm1(apart) - apart  # never negative; its mean over samples is the KL
    objective = gain - kl_weight * divergence + entropy_weight * s.entropy
    return -torch.where(sampled, objective, 0.0).sum() / sampled.sum()


def group_advantage(rewards: torch.Tensor) -> torch.Tensor:
    """Return each reward's distance from the mean of its group, in standard deviations."""
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)


def token_log_probability(
    hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return log-probabilities alone, of a policy that is a constant."""
    with torch.no_grad():
        return -xent.torch.linear_cross_entropy(
            hidden,
            head,
            labels,
            shift=1,
            temperature=temperature,
            reduction="none",
            out_dtype=torch.float32,
        )


def sampled_group(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return hidden states, a head, labels and rewards, as sampling would leave them."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(4, 10, 16, generator=g)
    head = torch.randn(211, 16, generator=g)
    labels = torch.randint(0, 211, (4, 10), generator=g)
    labels[:, :3] = -100  # the prompt
    labels[1, 8:] = -100  # padding
    return hidden, head, labels, torch.rand(1, 4, generator=g)


if __name__ == "__main__":
    hidden, head, labels, rewards = sampled_group()
    old = token_log_probability(hidden, head, labels)
    advantage = group_advantage(rewards).flatten()
    head.requires_grad_()
    optimizer = torch.optim.SGD([head], lr=0.1)
    for update in range(3):
        loss = grpo_loss(hidden, head, labels, advantage, old, old)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"update {update}: loss {loss.item():.4f}")

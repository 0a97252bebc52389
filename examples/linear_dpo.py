"""The loss of DPO (direct preference optimisation), from hidden states and a head.

It needs the log-probability of whole sequences by the policy and by a reference. Losses of rows
are minus the log-probabilities of tokens, and 0 where the label is ignored, so a sum over places
is all. The loss itself is the cross-entropy of a yes-or-no question: is the chosen one better?

Run it: ``python examples/linear_dpo.py`` (needs torch and numba).
"""

from __future__ import annotations

import torch

import xent.torch


def sequence_log_probability(
    hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the log-probability of each completion: (B, T, D), (V, D), (B, T) to (B,)."""
    losses = xent.torch.linear_cross_entropy(
        hidden, head, labels, shift=1, reduction="none", out_dtype=torch.float32
    )
    return -losses.sum(-1)


def dpo_loss(policy: torch.Tensor, reference: torch.Tensor, beta: float = 0.1) -> torch.Tensor:
    """Return the mean loss; the first half of the sequences were chosen over the second."""
    chosen, rejected = (policy - reference).chunk(2)
    margin = beta * (chosen - rejected)
    return xent.torch.binary_cross_entropy_with_logits(margin, torch.ones_like(margin))


def pairs(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return hidden states, the policy's head, the reference's head and labels."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(6, 9, 16, generator=g)
    head = torch.randn(211, 16, generator=g)
    labels = torch.randint(0, 211, (6, 9), generator=g)
    labels[:, :4] = -100  # the prompt
    labels[2, 7:] = -100  # padding
    return hidden, head, head + 0.1 * torch.randn(211, 16, generator=g), labels


if __name__ == "__main__":
    hidden, head, reference_head, labels = pairs()
    with torch.no_grad():
        reference = sequence_log_probability(hidden, reference_head, labels)
    head.requires_grad_()
    optimizer = torch.optim.SGD([head], lr=1.0)
    for update in range(3):
        loss = dpo_loss(sequence_log_probability(hidden, head, labels), reference)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"update {update}: loss {loss.item():.4f}")

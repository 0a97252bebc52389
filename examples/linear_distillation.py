"""Learn from a larger model: from its likeliest tokens, or from its hidden states.

A teacher's distributions over the vocabulary are as large as logits. Either they are written to
disk once, k tokens for each place; or teacher and student run side by side and the teacher's
hidden states are all that is handed over. In both cases the logits of neither are in memory.

Run it: ``python examples/linear_distillation.py`` (needs torch and numba).
"""

from __future__ import annotations

import torch

import xent.torch


def top_k_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    ids: torch.Tensor,
    log_probabilities: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """Return the mean cross-entropy to a teacher's k likeliest tokens and the mass of the rest.

    The list at a place, (B, T, k), is what the teacher expects after it. Labels are the tokens,
    (B, T): a place counts if the next one has a label.
    """
    later = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    return xent.torch.linear_sparse_cross_entropy(
        hidden, head, ids, log_probabilities, tail="bucket", row_weight=(later != -100).float()
    )


def teacher_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    teacher_hidden: torch.Tensor,
    teacher_head: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float = 2.0,
    share: float = 0.5,
) -> torch.Tensor:
    """Return the data's cross-entropy and the teacher's divergence, in shares.

    Labels are the tokens, (B, T), and each place is asked for the next one. The vocabularies may
    differ in size, as those that are padded do.
    """
    divergence = xent.torch.linear_distillation(
        hidden,
        head,
        teacher_hidden,
        teacher_head,
        divergence="forward_kl",
        temperature=temperature,
        target=labels,
        shift=1,
    )
    data = xent.torch.linear_cross_entropy(hidden, head, labels, shift=1)
    # Gradients shrink with the square of the temperature.
    return (1 - share) * data + share * temperature**2 * divergence


def student_and_teacher(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return hidden states and head of a student, those of a wider teacher, and labels."""
    g = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(3, 8, 16, generator=g), 0.3 * torch.randn(211, 16, generator=g)
    wider, its_head = torch.randn(3, 8, 24, generator=g), 0.3 * torch.randn(224, 24, generator=g)
    labels = torch.randint(0, 211, (3, 8), generator=g)
    labels[:, :2] = -100
    return hidden, head, wider, its_head, labels


def likeliest(
    hidden: torch.Tensor, head: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a teacher would write to disk: k tokens of each place, and their logarithms."""
    with torch.no_grad():
        found = (hidden @ head.t()).log_softmax(-1).topk(k)
    return found.indices, found.values


if __name__ == "__main__":
    hidden, head, teacher_hidden, teacher_head, labels = student_and_teacher()
    ids, logs = likeliest(teacher_hidden, teacher_head[:211], 8)
    head.requires_grad_()
    optimizer = torch.optim.SGD([head], lr=1.0)
    for update in range(3):
        from_list = top_k_loss(hidden, head, ids, logs, labels)
        from_states = teacher_loss(hidden, head, teacher_hidden, teacher_head, labels)
        (from_list + from_states).backward()
        optimizer.step()
        optimizer.zero_grad()
        print(
            f"update {update}: {from_list.item():.4f} to the list, {from_states.item():.4f} in all"
        )

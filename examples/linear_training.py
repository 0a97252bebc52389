"""Train a small language model whose head is its embedding, without its logits in memory.

Three things of such a loop are arguments of the loss. ``shift=1`` asks each place for the next
token. ``normalizer`` is the number of tokens of the whole step, so micro-batches add up to the
gradient of the step, however their tokens are spread. And the head is the weight of the
embedding, which gets the gradients of both its uses.

Run it: ``python examples/linear_training.py`` (needs torch and numba).
"""

from __future__ import annotations

from typing import TypeAlias

import torch

import xent.torch

VOCABULARY = 101
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]


class TinyModel(torch.nn.Module):
    """An embedding and one layer, which see the last token only; the embedding is the head too."""

    def __init__(self, features: int = 32) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, features)
        self.layer = torch.nn.Linear(features, features)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return hidden states, not logits: (batch, places) to (batch, places, features)."""
        return torch.tanh(self.layer(self.embedding(tokens)))


def accumulate(model: TinyModel, micro_batches: list[Batch]) -> float:
    """Add the gradients of one step to the parameters, and return its loss."""
    items = sum(int((labels[:, 1:] != -100).sum()) for _, labels in micro_batches)
    total = 0.0
    for tokens, labels in micro_batches:
        loss = xent.torch.linear_cross_entropy(
            model(tokens), model.embedding.weight, labels, shift=1, normalizer=items
        )
        loss.backward()
        total += loss.item()
    return total


def micro_batch(rows: int, places: int, start: int) -> Batch:
    """Return sequences that follow a rule, and labels that ignore some ends as padding."""
    token = torch.arange(start, start + rows) % VOCABULARY
    tokens = [token]
    for _ in range(places - 1):
        tokens.append((5 * tokens[-1] + 3) % VOCABULARY)
    sequences = torch.stack(tokens, 1)
    length = torch.arange(rows)[:, None] % (places // 2) + places // 2
    return sequences, sequences.masked_fill(torch.arange(places) >= length, -100)


if __name__ == "__main__":
    torch.manual_seed(0)
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for step in range(41):
        loss = accumulate(model, [micro_batch(8, 12, 16 * step), micro_batch(8, 6, 16 * step + 8)])
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: {loss:.3f} nats per token")

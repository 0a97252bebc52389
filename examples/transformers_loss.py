"""xent as the loss of a causal language model of Hugging Face Transformers.

A model calls its `loss_function` with logits of any precision, labels and, from the Trainer,
``num_items_in_batch``: the number of predicted tokens in all micro-batches of a step, which a
mean must be divided by if gradient accumulation is to give the gradient of the whole step.
Transformers' own loss makes a float32 copy of the logits first; here it is not needed.

Run it: ``python examples/transformers_loss.py`` (needs torch, numba and transformers).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import xent.torch


def causal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    vocab_size: int,
    num_items_in_batch: torch.Tensor | int | None = None,
    ignore_index: int = -100,
    shift_labels: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Return the mean cross-entropy of the next token; takes what a `loss_function` is given."""
    if shift_labels is None:  # position i predicts token i + 1; the last predicts nothing
        shift_labels = torch.nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    return xent.torch.cross_entropy(
        logits.reshape(-1, vocab_size),
        shift_labels.reshape(-1),
        ignore_index=ignore_index,
        normalizer=num_items_in_batch,
        out_dtype=torch.float32,
    )


def tiny_model() -> GPT2LMHeadModel:
    """Return a randomly initialised model, small enough for an example."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=97,
            n_positions=32,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def compare(num_items_in_batch: int | None = None) -> tuple[float, float, float]:
    """Return Transformers' loss, ours, and the largest difference of a gradient."""
    tokens = torch.randint(0, 97, (4, 16), generator=torch.Generator().manual_seed(1))
    labels = tokens.masked_fill(tokens % 7 == 0, -100)
    results = []
    for ours in (False, True):
        model = tiny_model().eval()
        if ours:
            model.loss_function = causal_loss
        loss = model(tokens, labels=labels, num_items_in_batch=num_items_in_batch).loss
        loss.backward()
        results.append((loss.item(), [p.grad for p in model.parameters()]))
    (theirs, a), (mine, b) = results
    return theirs, mine, max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    for count in (None, 100):
        theirs, ours, difference = compare(count)
        print(f"{count} items: {theirs:.6f} {ours:.6f}, gradients within {difference:.1e}")

"""A causal language model of Hugging Face Transformers whose loss makes no logits.

Put `LinearLoss` before the model's class. With labels the model then returns its loss from hidden
states and head; without labels it is what it was, so it generates and evaluates as before. The
Trainer hands ``num_items_in_batch`` to such a forward.

Run it: ``python examples/linear_transformers.py`` (needs torch, numba and transformers).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

import xent.torch


class LinearLoss:
    """The loss of a causal language model, from its hidden states."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the mean loss of the next token where there are labels."""
        if labels is None:
            return super().forward(input_ids, attention_mask=attention_mask, **kwargs)
        states = self.base_model(input_ids, attention_mask=attention_mask, **kwargs)
        head = self.get_output_embeddings()
        loss = xent.torch.linear_cross_entropy(
            states.last_hidden_state,
            head.weight,
            labels,
            linear_bias=head.bias,
            shift=1,
            softcap=getattr(self.config, "final_logit_softcapping", None),
            normalizer=num_items_in_batch,
            out_dtype=torch.float32,
        )
        return CausalLMOutput(loss=loss)


class LinearGPT2LMHeadModel(LinearLoss, GPT2LMHeadModel):
    """GPT-2, whose head is its embedding."""


class LinearLlamaForCausalLM(LinearLoss, LlamaForCausalLM):
    """Llama, with a head of its own."""


SIZES = {"vocab_size": 97, "bos_token_id": 0, "eos_token_id": 0}
CONFIGURATIONS = {
    LinearGPT2LMHeadModel: GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=2, **SIZES),
    LinearLlamaForCausalLM: LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        **SIZES,
    ),
}


def tiny_model(kind: type[Any], configuration: Any) -> Any:
    """Return a randomly initialised model, small enough for an example."""
    torch.manual_seed(0)
    return kind(configuration).eval()


def tokens_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Return random tokens, of which some are not asked for."""
    tokens = torch.randint(0, 97, (4, 16), generator=torch.Generator().manual_seed(1))
    return tokens, tokens.masked_fill(tokens % 7 == 0, -100)


def compare(kind: type[Any], num_items_in_batch: int | None = None) -> tuple[float, float, float]:
    """Return Transformers' loss, ours, and the largest difference of a gradient."""
    tokens, labels = tokens_and_labels()
    results = []
    for each in (kind.__bases__[1], kind):
        model = tiny_model(each, CONFIGURATIONS[kind])
        loss = model(tokens, labels=labels, num_items_in_batch=num_items_in_batch).loss
        loss.backward()
        results.append((loss.item(), [p.grad for p in model.parameters()]))
    (theirs, a), (mine, b) = results
    return theirs, mine, max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    for kind in CONFIGURATIONS:
        theirs, ours, difference = compare(kind, 100)
        print(f"{kind.__name__}: {theirs:.6f} {ours:.6f}, gradients within {difference:.1e}")

"""The GPU kernel behind xent.torch, through Triton's interpreter, against the definition.

In a process of its own, because the interpreter is chosen before triton is first imported.
"""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import warnings
import torch, xent.torch as F
warnings.simplefilter("ignore")  # the interpreter's NumPy divides by zero where a GPU does
torch.manual_seed(0)
x = torch.randn(6, 11, requires_grad=True)
y = torch.randint(0, 11, (6,))
y[2] = -100
for options in ({}, {"reduction": "none"}, {"label_smoothing": 0.1, "z_loss": 0.01}):
    values, firsts, seconds = [], [], []
    for kernel in ("triton_rows", "definition"):
        loss = F.cross_entropy(x, y, kernel=kernel, **options)
        cotangent = torch.linspace(0.5, 2.0, loss.numel()).reshape(loss.shape)
        (plain,) = torch.autograd.grad((loss * cotangent).sum(), x, retain_graph=True)
        (first,) = torch.autograd.grad((loss * cotangent).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        values.append(loss.detach())
        firsts.append(plain)
        seconds.append(second)
    torch.testing.assert_close(*values, rtol=5e-7, atol=0)
    torch.testing.assert_close(*firsts, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(*seconds, rtol=1e-6, atol=1e-8)
print("same")
"""


def test_the_gpu_kernel_gives_the_definitions_losses_and_derivatives():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"

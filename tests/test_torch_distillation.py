"""Losses against a teacher: its likeliest classes, or its hidden states and head."""

import math
import weakref

import mpmath as mp
import oracle
import pytest
import torch
from libraries import definition_alone
from torch.func import grad, hessian, jvp, vmap
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import xent.torch
from xent.errors import XentError
from xent.losses.autodiff import distilled
from xent.losses.kernels import linear_chunked, linear_distilled
from xent.torch.distillation import linear_distillation, linear_sparse_cross_entropy

ROWS, FEATURES, CLASSES, K = 13, 5, 40, 4
WIDE = torch.float64
# Everything at once, and one to three rows at a time.
SPACES = {"whole": 2**28, "rows": 10 * 4 * (CLASSES + 16)}
TAILS = linear_distilled.TAILS
DIVERGENCES = linear_distilled.DIVERGENCES


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def student(dtype=torch.float32, classes=CLASSES, rows=ROWS):
    g = generator(1)
    hidden = torch.randn(rows, FEATURES, generator=g).to(dtype).requires_grad_()
    head = torch.randn(classes, FEATURES, generator=g).to(dtype).requires_grad_()
    bias = torch.randn(classes, generator=g).to(dtype).requires_grad_()
    return hidden, head, bias


def listed(dtype=torch.float32, classes=CLASSES, rows=ROWS, k=K, share=0.9):
    """Return classes and masses that sum to a share; the last row has an entry of padding."""
    g = generator(2)
    ids = torch.stack([torch.randperm(classes, generator=g)[:k] for _ in range(rows)])
    mass = torch.rand(rows, k, generator=g, dtype=WIDE) + 0.1
    logs = torch.log(share * mass / mass.sum(1, keepdim=True))
    logs[-1, 1], ids[-1, 1] = -math.inf, -7
    return ids, logs.to(dtype)


def teacher(dtype=torch.float32, classes=CLASSES, rows=ROWS, features=7):
    g = generator(3)
    hidden = torch.randn(rows, features, generator=g).to(dtype)
    head = 0.7 * torch.randn(classes, features, generator=g)
    return hidden, head.to(dtype), torch.randn(classes, generator=g).to(dtype)


def moved(z, temperature=1.0, softcap=None, class_mask=None):
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / temperature
    return z if class_mask is None else z.masked_fill(~class_mask, -math.inf)


def logits_of(hidden, head, bias):
    return linear(hidden.to(WIDE), head.to(WIDE), None if bias is None else bias.to(WIDE))


def sparse_truth(hidden, head, bias, ids, logs, *, tail="renormalise", divergence=False, z_loss=0.0,
                 temperature=1.0, softcap=None, class_mask=None):  # fmt: skip
    """Return the loss of each row by the formulas of the docstring, row by row."""
    z = moved(logits_of(hidden, head, bias), temperature, softcap, class_mask)
    losses = []
    for row, own, log in zip(z, ids.tolist(), logs.to(WIDE), strict=True):
        pairs = [(j, m) for j, m in zip(own, log.exp(), strict=True) if m > 0]
        at = [j for j, _ in pairs]
        mass = torch.stack([m for _, m in pairs])
        total = mass.sum()
        log_p = row.log_softmax(0)
        others = torch.ones_like(row, dtype=torch.bool)
        others[at] = False
        others = others & (row > -math.inf)
        rest = 1.0 - total
        if tail == "renormalise":
            mass, rest = mass / total, torch.zeros_like(total)
        loss = -(mass * log_p[at]).sum()
        entropy = -torch.special.xlogy(mass, mass).sum()
        if tail == "uniform":
            loss = loss - rest * log_p[others].mean()
            entropy = entropy - torch.special.xlogy(rest, rest / others.sum())
        elif tail == "bucket":
            loss = loss - rest * log_p[others].logsumexp(0)
            entropy = entropy - torch.special.xlogy(rest, rest)
        loss = loss - entropy if divergence else loss
        losses.append(loss + z_loss * row.logsumexp(0) ** 2)
    return torch.stack(losses)


def divergence_truth(own, other, kind, beta=0.5):
    """Return the divergence of each row from both logits, by the formulas of the docstring."""
    log_p, log_q = own.log_softmax(1), other.log_softmax(1)
    p, q = log_p.exp(), log_q.exp()

    def kl(log_a, log_b):
        there = log_a > -math.inf
        gap = torch.where(there, log_a, 0.0) - torch.where(there, log_b, 0.0)
        return torch.where(there, log_a.exp() * gap, 0.0).sum(1)

    if kind == "forward_kl":
        return kl(log_q, log_p)
    if kind == "reverse_kl":
        return kl(log_p, log_q)
    if kind == "total_variation":
        return (p - q).abs().sum(1) / 2
    m = beta * q + (1 - beta) * p
    log_m = torch.where(m > 0, m, 1.0).log()
    return beta * kl(log_q, log_m) + (1 - beta) * kl(log_p, log_m)


def check_like(found, truth, inputs, rtol=3e-6, scale=2e-6):
    """Compare values and derivatives for a random upstream gradient."""
    torch.testing.assert_close(found.to(WIDE), truth, rtol=rtol, atol=1e-9)
    upstream = torch.rand(found.shape, dtype=WIDE, generator=generator(4)) + 0.5
    wanted = torch.autograd.grad(truth, inputs, upstream, retain_graph=True)
    for got, want in zip(
        torch.autograd.grad(found, inputs, upstream.to(found.dtype), retain_graph=True),
        wanted,
        strict=True,
    ):
        assert got.dtype == want.dtype
        assert bool((want != 0).any())
        atol = scale * float(want.abs().max())
        torch.testing.assert_close(got, want, rtol=2e-5, atol=atol)


# ---- sparse targets ------------------------------------------------------------------------------

ALLOWED = torch.arange(CLASSES) % 5 != 3
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.6, "z_loss": 1e-2},
    "softcap": {"softcap": 2.0, "temperature": 1.5, "z_loss": 1e-2},
    "divergence": {"divergence": True, "temperature": 2.0},
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("case", OPTIONS)
def test_sparse_losses_and_gradients_are_those_of_the_formulas(space, tail, case):
    inputs, sparse = student(), listed()
    options = OPTIONS[case]
    rows = sparse_truth(*inputs, *sparse, tail=tail, **options)
    weight = torch.rand(ROWS, generator=generator(5))
    weight[::4] = 0.0
    for reduction, truth in (
        ("none", rows * weight),
        ("sum", (rows * weight).sum()),
        ("mean", (rows * weight).sum() / weight.sum()),
    ):
        found = linear_sparse_cross_entropy(
            inputs[0], inputs[1], *sparse, linear_bias=inputs[2], tail=tail, reduction=reduction,
            row_weight=weight, workspace_bytes=SPACES[space], **options,
        )  # fmt: skip
        assert found.dtype == torch.float32
        check_like(found, truth, inputs)


def test_the_workspace_cuts_the_rows(monkeypatch):
    seen = []
    plan_of = linear_chunked.plan_of
    monkeypatch.setattr(
        linear_chunked, "plan_of", lambda *a, **k: seen.append(plan_of(*a, **k)) or seen[-1]
    )
    inputs, sparse = student(), listed()
    for tail in TAILS:
        linear_sparse_cross_entropy(*inputs[:2], *sparse, tail=tail, workspace_bytes=SPACES["rows"])
    for kind in DIVERGENCES:
        linear_distillation(
            *inputs[:2], *teacher()[:2], divergence=kind, workspace_bytes=SPACES["rows"]
        )
    pieces = [plan.rows for plan in seen]
    assert 2 <= min(pieces) <= max(pieces) < ROWS
    assert pieces[1] < pieces[0] == pieces[2]  # dense masses are held beside the logits
    assert {plan.classes for plan in seen} == {CLASSES}


@pytest.mark.parametrize("tail", TAILS)
def test_sparse_targets_of_classes_that_are_masked(tail):
    inputs, (ids, logs) = student(), listed()
    ids = ids - (ids % 5 == 3).int()  # no row lists a class that is masked,
    logs[(ids[:, :, None] == ids[:, None, :]).float().tril(-1).sum(2) > 0] = -math.inf  # or twice
    ids[4, 0] = 3  # but one does
    truth = sparse_truth(*inputs, ids, logs, tail=tail, class_mask=ALLOWED)
    for kernel in (None, "definition"):
        found = linear_sparse_cross_entropy(
            *inputs[:2], ids, logs, linear_bias=inputs[2], tail=tail, class_mask=ALLOWED,
            reduction="none", kernel=kernel,
        )  # fmt: skip
        assert found[4] == math.inf
        assert truth[4] == math.inf
        kept = torch.arange(ROWS) != 4
        check_like(found[kept], truth[kept], inputs)


@pytest.mark.parametrize("tail", TAILS)
def test_all_classes_listed_are_a_soft_target(tail):
    hidden, head, bias = student(classes=6)
    logs = torch.randn(ROWS, 6, generator=generator(6)).log_softmax(1)
    ids = torch.stack([torch.randperm(6, generator=generator(i)) for i in range(ROWS)])
    masses = torch.zeros(ROWS, 6).scatter(1, ids, logs.exp())
    soft = xent.torch.linear_cross_entropy(
        hidden, head, masses, linear_bias=bias, reduction="none", out_dtype=WIDE
    )
    found = linear_sparse_cross_entropy(
        hidden, head, ids, logs, linear_bias=bias, tail=tail, reduction="none"
    )
    check_like(found, soft, (hidden, head, bias))
    # a rest that is none of rounding has no class to go to
    found = linear_sparse_cross_entropy(
        hidden, head, ids, logs - 0.1, tail=tail, reduction="none", linear_bias=bias
    )
    assert bool((found == math.inf).all()) == (tail != "renormalise")


@pytest.mark.parametrize("tail", TAILS)
def test_a_hard_target_is_a_list_of_one(tail):
    inputs = student()
    y = torch.randint(0, CLASSES, (ROWS,), generator=generator(7))
    hard = xent.torch.linear_cross_entropy(*inputs[:2], y, linear_bias=inputs[2], reduction="none")
    found = linear_sparse_cross_entropy(
        *inputs[:2], y[:, None], torch.zeros(ROWS, 1), linear_bias=inputs[2], tail=tail,
        reduction="none",
    )  # fmt: skip
    torch.testing.assert_close(found, hard, rtol=5e-7, atol=0.0)
    check_like(found, hard.to(WIDE), inputs)


@pytest.mark.parametrize("kernel", [None, "definition"])
@pytest.mark.parametrize("tail", TAILS)
def test_sparse_losses_are_within_four_ulp_of_the_logits(tail, kernel):
    # one feature: the logits are the head's numbers, exactly
    g = generator(8)
    z = torch.randn(6, 200, generator=g)
    z[0] += 2.0**20
    z[1, 0] += 40.0
    z[2] *= 30.0
    z[3, 5] = -math.inf
    z[4, 0] += 90.0
    ids = torch.tensor([0, 3, 7, 11, 13]).expand(6, 5)
    logs = torch.log(torch.tensor([0.6, 0.2, 0.1, 1e-3, 1e-7])).expand(6, 5).clone()
    logs[1] = torch.tensor([-1e-12, -30.0, -40.0, -60.0, -90.0])
    logs[4] = torch.tensor([-1e-12, -30.0, -40.0, -60.0, -90.0])
    for row in range(6):
        found = linear_sparse_cross_entropy(
            torch.ones(1, 1), z[row][:, None], ids[row][None], logs[row][None], tail=tail,
            reduction="none", kernel=kernel,
        )  # fmt: skip
        with mp.workprec(400):
            x = [mp.mpf(float(a)) for a in z[row]]
            e = [mp.exp(a) for a in x]
            total = mp.fsum(e)
            m = [mp.exp(mp.mpf(float(a))) for a in logs[row]]
            at, s = ids[row].tolist(), mp.fsum(m)
            others = [j for j in range(200) if j not in at and e[j] > 0]
            loss = -mp.fsum(a * mp.log(e[j] / total) for a, j in zip(m, at, strict=True))
            if tail == "renormalise":
                loss = loss / s
            elif tail == "bucket":
                loss -= (1 - s) * mp.log(mp.fsum(e[j] for j in others) / total)
            else:
                loss -= (1 - s) / len(others) * mp.fsum(mp.log(e[j] / total) for j in others)
            assert oracle.ulps(float(found[0]), loss, "float32") <= 4, (row, tail)


@pytest.mark.parametrize("kernel", [None, "definition"])
@pytest.mark.parametrize("divergence", [False, True])
def test_masses_too_small_for_a_number_are_renormalised(kernel, divergence):
    hidden, head, bias = student(WIDE)
    ids, logs = listed(WIDE, share=1.0)
    how = {"linear_bias": bias, "divergence": divergence, "kernel": kernel, "reduction": "none"}
    truth = linear_sparse_cross_entropy(hidden, head, ids, logs, **how)
    slopes = torch.autograd.grad(truth.sum(), (hidden, head))
    for offset in (-740.0, -745.0, -800.0, -1e6):
        found = linear_sparse_cross_entropy(hidden, head, ids, logs + offset, **how)
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)
        for a, b in zip(torch.autograd.grad(found.sum(), (hidden, head)), slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    far = (logs - 800.0).requires_grad_()
    near = logs.clone().requires_grad_()
    a, b = (
        torch.autograd.grad(linear_sparse_cross_entropy(hidden, head, ids, x, **how).sum(), x)[0]
        for x in (far, near)
    )
    assert bool((b != 0).any())
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("tail", ["renormalise", "bucket"])
def test_a_divergence_from_masses_that_are_those_of_the_student_is_tiny(tail):
    # the logarithms of the student's own masses, rounded to float32, all of them or most
    z = torch.randn(50, generator=generator(9))
    logs, ids = z.to(WIDE).log_softmax(0).sort(descending=True)
    k = 50 if tail == "renormalise" else 20
    logs = logs[None, :k].to(torch.float32)
    found = linear_sparse_cross_entropy(
        torch.ones(1, 1), z[:, None], ids[None, :k], logs, tail=tail, divergence=True,
        reduction="none", out_dtype=WIDE,
    )  # fmt: skip
    assert 0.0 <= float(found) < 1e-13


def test_mistakes_in_sparse_targets_are_refused_with_their_row():
    inputs = student(rows=6)
    shape = (2, 3)
    hidden = inputs[0].reshape(*shape, FEATURES)
    ids, logs = listed(rows=6)

    def call(ids=ids, logs=logs, **how):
        return linear_sparse_cross_entropy(
            hidden, inputs[1], ids.reshape(*shape, -1), logs.reshape(*shape, -1), **how
        )

    def edited(array, place, value):
        array = array.clone()
        array[place] = value
        return array

    assert call().ndim == 0
    for how, words in (
        (
            {"ids": edited(ids, (4, 2), CLASSES)},
            r"ids must lie in \[0, 40\): got 40 at row \(1, 1\)",
        ),
        ({"ids": edited(ids, (1, 0), -1)}, r"got -1 at row \(0, 1\)"),
    ):
        with pytest.raises(IndexError, match=words):
            call(**how)
    for how, words in (
        ({"ids": edited(ids, (3, 2), int(ids[3, 0]))}, r"got \d+ twice at row \(1, 0\)"),
        ({"logs": edited(logs, (2, 1), math.nan)}, r"must not be NaN: got NaN at row \(0, 2\)"),
        ({"logs": edited(logs, (2, 1), 0.5)}, r"must be ≤ 0: got 0.5 at row \(0, 2\)"),
        ({"logs": edited(logs, (0, 1), -0.1)}, r"sum to 1 at most: got 1\.\d+ at row \(0, 0\)"),
        ({"logs": edited(logs, 5, -math.inf)}, r"must not all be −∞: got no class at row \(1, 2\)"),
    ):
        with pytest.raises(RuntimeError, match=words) as caught:
            call(**how)
        assert isinstance(caught.value, XentError)
        assert "Hint: " in str(caught.value)
        # a row that is not looked at has no mistakes
        weight = torch.ones(6)
        weight[[0, 2, 3, 5]] = 0.0
        assert math.isfinite(call(**how, row_weight=weight.reshape(shape)).detach())
    with pytest.raises(XentError, match="tail must be one of 'renormalise'"):
        call(tail="rest")
    with pytest.raises(RuntimeError, match="must list k ≥ 1 classes for each row"):
        call(ids=ids[:, :0])
    with pytest.raises(RuntimeError, match="must have the shape of ids"):
        call(logs=logs[:, 1:])
    with pytest.raises(RuntimeError, match="class indices must be integers"):
        call(ids=ids.float())
    with pytest.raises(NotImplementedError, match="log_probabilities must be float32"):
        call(logs=logs.long())
    with pytest.raises(XentError, match="workspace_bytes must hold the logits of one row"):
        call(workspace_bytes=100)
    with pytest.raises(RuntimeError, match="must be a matrix"):
        linear_sparse_cross_entropy(inputs[0], inputs[1][:, None], ids, logs)
    with pytest.raises(XentError, match="triton_linear"):
        call(kernel="triton_linear")


@pytest.mark.parametrize("tail", TAILS)
def test_mistakes_that_are_not_looked_for_make_their_row_nan(tail):
    inputs, (ids, logs) = student(), listed()
    ids, logs = ids.clone(), logs.clone()
    ids[1, 0], ids[3, 1], logs[5, 2], logs[7, 0], logs[9] = (
        CLASSES,
        ids[3, 0],
        math.nan,
        -0.01,
        -9e9,
    )
    logs[9] = -math.inf
    wrong = [1, 3, 5, 7, 9]
    rows = linear_sparse_cross_entropy(
        *inputs[:2], *listed(), tail=tail, reduction="none", kernel="linear_chunked"
    )
    # what a compiled call computes, and what a device computes that is not waited for
    targets = linear_distilled.SparseTargets(ids, logs, tail)
    call = linear_chunked.LinearRows(*inputs[:2], None, torch.arange(ROWS))
    for kernel in ("linear_chunked", "definition"):
        found = distilled.distilled_losses(call, targets, reduction="none", kernel=kernel)
        assert found.isnan().nonzero()[:, 0].tolist() == wrong
        kept = ~found.isnan()
        torch.testing.assert_close(found[kept], rows[kept])
        (slopes,) = torch.autograd.grad(found.sum(), inputs[0])
        assert slopes.isnan().all(1).nonzero()[:, 0].tolist() == wrong
        assert bool(slopes[kept].isfinite().all())


def test_ids_and_weights_are_asked_for_later_places():
    hidden, head, _ = student()
    hidden = hidden[:12].reshape(3, 4, FEATURES)
    ids, logs = (a[:12].reshape(3, 4, K) for a in listed())
    weight = torch.rand(3, 4, generator=generator(10))
    found = linear_sparse_cross_entropy(
        hidden, head, ids, logs, shift=1, row_weight=weight, reduction="none", tail="bucket"
    )
    want = linear_sparse_cross_entropy(
        hidden[:, :-1], head, ids[:, 1:], logs[:, 1:], row_weight=weight[:, 1:], reduction="none",
        tail="bucket",
    )  # fmt: skip
    assert found.shape == (3, 3)
    assert torch.equal(found, want)


def test_derivatives_by_log_probabilities_and_row_weights():
    hidden, head, bias = (a.detach()[:6] if a.ndim == 2 else a for a in student(WIDE, classes=6))
    head, bias = head[:6], bias.detach()
    ids, logs = listed(WIDE, classes=6, rows=6, k=3)
    logs[-1, 1], ids[-1] = -3.0, torch.tensor([0, 1, 2])
    weight = torch.rand(6, dtype=WIDE, generator=generator(11)) + 0.1
    for tail in TAILS:
        for divergence in (False, True):
            torch.autograd.gradcheck(
                lambda logs, weight, tail=tail, divergence=divergence: linear_sparse_cross_entropy(
                    hidden, head, ids, logs, linear_bias=bias, row_weight=weight, tail=tail,
                    divergence=divergence,
                ),
                (logs.requires_grad_(), weight.requires_grad_()),
            )  # fmt: skip


# ---- a teacher's logits --------------------------------------------------------------------------

SIDES = {
    "plain": ({}, {}),
    "temperature": ({"temperature": 0.6}, {"temperature": 0.6}),
    "both": ({"temperature": 1.5, "softcap": 2.0}, {"temperature": 0.8, "softcap": 3.0}),
    "softcap": ({"softcap": 2.0}, {}),
}


def sides(own, given):
    how = dict(own)
    if given.get("temperature", 1.0) != own.get("temperature", 1.0):
        how["teacher_temperature"] = given["temperature"]
    if "softcap" in given:
        how["teacher_softcap"] = given["softcap"]
    return how


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("case", SIDES)
def test_divergences_and_gradients_are_those_of_the_formulas(space, kind, case):
    inputs, known = student(), teacher()
    own, given = SIDES[case]
    truth = divergence_truth(
        moved(logits_of(*inputs), **own), moved(logits_of(*known), **given), kind, 0.3
    )
    target = torch.arange(ROWS)
    target[2::5] = -1
    weight = torch.rand(ROWS, generator=generator(5)) + 0.1
    kept = weight * (target >= 0)
    for reduction, want in (
        ("none", truth * kept),
        ("sum", (truth * kept).sum()),
        ("mean", (truth * kept).sum() / kept.sum()),
    ):
        found = linear_distillation(
            *inputs[:2], *known[:2], linear_bias=inputs[2], teacher_bias=known[2], divergence=kind,
            beta=0.3, target=target, ignore_index=-1, row_weight=weight, reduction=reduction,
            workspace_bytes=SPACES[space], **sides(own, given),
        )  # fmt: skip
        check_like(found, want, inputs)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("classes", [(CLASSES, 33), (33, CLASSES)])
def test_classes_of_one_vocabulary_alone_are_masked(kind, classes):
    inputs, known = student(classes=classes[0]), teacher(classes=classes[1])
    truth = divergence_truth(logits_of(*inputs)[:, :33], logits_of(*known)[:, :33], kind)
    how = {"linear_bias": inputs[2], "teacher_bias": known[2], "divergence": kind}
    found = linear_distillation(*inputs[:2], *known[:2], reduction="none", **how)
    check_like(found, truth, inputs)
    by_head = torch.autograd.grad(found.sum(), inputs[1])[0]
    assert by_head.shape == inputs[1].shape
    assert bool((by_head[33:] == 0).all())
    # and those of a mask, which are the student's
    mask = torch.arange(classes[0]) % 4 != 1
    truth = divergence_truth(
        logits_of(*inputs)[:, :33][:, mask[:33]], logits_of(*known)[:, :33][:, mask[:33]], kind
    )
    for kernel in (None, "definition"):
        found = linear_distillation(
            *inputs[:2], *known[:2], class_mask=mask, kernel=kernel, reduction="none", **how
        )
        check_like(found, truth, inputs)


def test_what_is_infinite_and_what_is_not():
    # logits as they are, of four classes: masked for the student, the teacher, both, or none
    own = torch.tensor([[0.0, 1.0, -math.inf, -math.inf]] * 2 + [[1.0, 0.0, 2.0, 3.0]])
    given = torch.tensor(
        [[0.5, 0.0, 1.0, -math.inf], [1.0, 3.0, -math.inf, -math.inf], [0, 0, -math.inf, 1.0]]
    )
    finite = {
        "forward_kl": [False, True, True],
        "reverse_kl": [True, True, False],
        "jensen_shannon": [True] * 3,
        "total_variation": [True] * 3,
    }
    eye, zero = torch.ones(1, 1), torch.zeros(4, 1)
    for kind in DIVERGENCES:
        truth = divergence_truth(own.to(WIDE), given.to(WIDE), kind)
        for row in range(3):
            for kernel in (None, "definition"):
                bias = own[row].clone().requires_grad_()
                found = linear_distillation(
                    eye, zero, eye, zero, linear_bias=bias, teacher_bias=given[row],
                    divergence=kind, kernel=kernel,
                )  # fmt: skip
                assert math.isfinite(found.detach()) == finite[kind][row]
                torch.testing.assert_close(found.to(WIDE), truth[row], rtol=1e-6, atol=0.0)
                (slope,) = torch.autograd.grad(found, bias)
                if finite[kind][row]:
                    assert bool(slope.isfinite().all())
                    assert abs(float(slope.sum())) < 1e-6
                elif kind == "forward_kl":  # p − q, as for a target that is masked
                    want = own[row].softmax(0) - given[row].softmax(0)
                    torch.testing.assert_close(slope, want, rtol=1e-6, atol=1e-7)
                else:
                    assert not bool(slope.isfinite().all())
        nothing = linear_distillation(
            eye, zero, eye, zero, linear_bias=torch.full((4,), -math.inf), reduction="none"
        )
    assert bool(nothing.isnan().all())  # no class is allowed


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_tiny_divergences_keep_their_digits(kind):
    g = generator(12)
    z = torch.randn(60, generator=g)
    for step in (0.0, 1e-2, 1e-4, 1e-6):
        other = z.to(WIDE) + step * torch.randn(60, generator=g, dtype=WIDE)
        found = linear_distillation(
            torch.ones(1, 1, dtype=WIDE), z[:, None].to(WIDE), torch.ones(1, 1, dtype=WIDE),
            other[:, None], divergence=kind, beta=0.25,
        )  # fmt: skip
        if step == 0.0:
            assert float(found) == 0.0
            continue
        with mp.workprec(300):
            p, q = (softmax_of(a) for a in (z, other))
            m = [(a + 3 * b) / 4 for a, b in zip(q, p, strict=True)]
            truth = {
                "forward_kl": kl_exactly(q, p),
                "reverse_kl": kl_exactly(p, q),
                "jensen_shannon": kl_exactly(q, m) / 4 + 3 * kl_exactly(p, m) / 4,
                "total_variation": mp.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
            }[kind]
            assert abs(mp.mpf(float(found)) / truth - 1) < 1e-7


@pytest.mark.parametrize("kernel", [None, "definition"])
@pytest.mark.parametrize("beta", [0.5, 0.3, 1e-9])
def test_equal_logits_have_no_divergence_and_keep_their_derivatives(kernel, beta):
    z = torch.randn(1, 50, generator=generator(15), dtype=WIDE)
    z[0, 7] = -math.inf
    one, none = torch.ones(1, 1, dtype=WIDE), torch.zeros(50, 1, dtype=WIDE)
    for kind in DIVERGENCES:
        bias = z[0].clone().requires_grad_()
        found = linear_distillation(
            one, none, one, none, linear_bias=bias, teacher_bias=z[0], divergence=kind, beta=beta,
            kernel=kernel,
        )  # fmt: skip
        assert float(found.detach()) == 0.0
        assert bool((torch.autograd.grad(found, bias)[0] == 0.0).all())
    # the curvature there is that of β·(1 − β)/2·Σ p·(d − Σ p·d)²
    bias = z[0].clone().requires_grad_()
    found = linear_distillation(
        one, none, one, none, linear_bias=bias, teacher_bias=z[0], divergence="jensen_shannon",
        beta=beta, kernel=kernel,
    )  # fmt: skip
    (slope,) = torch.autograd.grad(found, bias, create_graph=True)
    along = torch.randn(50, generator=generator(16), dtype=WIDE)
    (curved,) = torch.autograd.grad((slope * along)[torch.arange(50) != 7].sum(), bias)
    p = z[0].softmax(0)
    want = beta * (1.0 - beta) * p * (along - (p * along).sum())
    torch.testing.assert_close(curved, want, rtol=1e-9, atol=1e-12 * beta)


@pytest.mark.parametrize("kernel", [None, "definition"])
@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_teacher_that_is_not_defined_is_nan_with_its_gradient(kernel, kind, bad):
    hidden, head, _ = student()
    given, its_head = torch.ones(ROWS, 1), torch.zeros(CLASSES, 1)
    if bad == -math.inf:  # all of the classes
        given[3], its_head[:] = bad, 1.0
    else:
        given[3], its_head[0] = bad, 1.0
    found = linear_distillation(
        hidden, head, given, its_head, divergence=kind, reduction="none", kernel=kernel
    )
    slopes = torch.autograd.grad(found.sum(), hidden)[0]
    undefined = torch.arange(ROWS) == 3
    assert torch.equal(found.isnan(), undefined)
    assert torch.equal(slopes.isnan().all(1), undefined)
    assert torch.equal(slopes.isnan().any(1), undefined)


def kl_exactly(p, q):
    return mp.fsum(a * mp.log(a / b) for a, b in zip(p, q, strict=True))


def softmax_of(z):
    e = [mp.exp(mp.mpf(float(a))) for a in z]
    return [a / mp.fsum(e) for a in e]


def test_wide_and_far_logits_lose_nothing():
    z = torch.tensor([2.0**20, 2.0**20 - 100.0, 2.0**20 - 800.0, -900.0])
    other = torch.tensor([-100.0, 0.0, 700.0, 0.5])
    truth = {}
    with mp.workprec(3000):
        p, q = softmax_of(z), softmax_of(other)
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        truth["forward_kl"] = kl_exactly(q, p)
        truth["reverse_kl"] = kl_exactly(p, q)
        truth["jensen_shannon"] = (kl_exactly(p, m) + kl_exactly(q, m)) / 2
        truth["total_variation"] = mp.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
        for kind in DIVERGENCES:
            head = z[:, None].clone().requires_grad_()
            found = linear_distillation(
                torch.ones(1, 1), head, torch.ones(1, 1), other[:, None], divergence=kind
            )
            assert oracle.ulps(float(found.detach()), truth[kind], "float32") <= 1
            assert bool(torch.autograd.grad(found, head)[0].isfinite().all())


def test_what_does_not_fit_is_refused():
    hidden, head, _ = student()
    given, its_head, its_bias = teacher()

    def call(*arrays, **how):
        return linear_distillation(*arrays, **how)

    for arrays, how, words in (
        ((hidden, head, given[:5], its_head), {}, "must have the rows of input"),
        ((hidden, head, given, its_head[:0]), {}, "teacher_weight must have at least one class"),
        ((hidden, head[:0], given, its_head), {}, "linear_weight must have at least one class"),
        ((hidden, head, given, its_head[:, :3]), {}, "teacher_weight must be a matrix"),
        ((hidden, head, given, its_head), {"teacher_bias": its_bias[:3]}, "teacher_bias must"),
        ((hidden, head[:, :2], given, its_head), {}, "must be the same features"),
        ((hidden, head, given, its_head), {"class_mask": torch.ones(3) > 0}, "class_mask must be"),
        ((hidden, head, given, its_head), {"target": torch.zeros(3).long()}, "target must be"),
        ((hidden, head, given, its_head), {"target": torch.zeros(ROWS)}, "must be integers"),
    ):
        with pytest.raises(RuntimeError, match=words):
            call(*arrays, **how)
    for how, words in (
        ({"divergence": "kl"}, "divergence must be one of 'forward_kl'"),
        ({"beta": 0.0}, "beta must lie between 0 and 1, at neither: got 0.0"),
        ({"beta": 1.0}, "beta must lie between 0 and 1, at neither: got 1.0"),
        ({"beta": 1.5}, r"beta must lie in \[0, 1\]: got 1.5"),
        ({"out_dtype": torch.int64}, "out_dtype must be a float dtype"),
        ({"out_dtype": torch.bool}, "out_dtype must be a float dtype"),
        ({"teacher_temperature": 0.0}, "temperature must"),
        ({"workspace_bytes": 50}, "workspace_bytes must hold the logits of one row"),
        ({"kernel": "triton_linear"}, "triton_linear"),
        ({"shift": -1}, "shift must be 0"),
    ):
        with pytest.raises(XentError, match=words):
            call(hidden, head, given, its_head, **how)
    with pytest.raises(NotImplementedError, match="teacher_input must be float32"):
        call(hidden, head, given.long(), its_head)
    with pytest.raises(TypeError, match="teacher_weight must be a Tensor"):
        call(hidden, head, given, its_head.tolist())
    with pytest.raises(XentError, match="out_dtype must be a float dtype of torch, or None"):
        linear_sparse_cross_entropy(hidden, head, *listed(), out_dtype=torch.int32)


def test_a_teacher_without_features_knows_its_bias():
    hidden, head, _ = student()
    given, its_head, its_bias = teacher()
    found = linear_distillation(hidden, head, given[:, :0], its_head[:, :0], teacher_bias=its_bias)
    alone = torch.ones(ROWS, 1), its_bias[:, None]
    torch.testing.assert_close(found, linear_distillation(hidden, head, *alone))


def test_shares_near_their_ends_are_those_of_the_ends():
    hidden, head, _ = student(WIDE)
    pair = hidden, head, *teacher(WIDE)[:2]
    for beta, divergence in ((1e-200, "forward_kl"), (1.0 - 2.0**-53, "reverse_kl")):
        found = linear_distillation(*pair, divergence="jensen_shannon", beta=beta)
        end = linear_distillation(*pair, divergence=divergence)
        torch.testing.assert_close(found / min(beta, 1.0 - beta), end)


def test_labels_are_those_of_later_places():
    hidden, head, _ = student()
    given, its_head, _ = teacher()
    hidden, given = hidden[:12].reshape(3, 4, -1), given[:12].reshape(3, 4, -1)
    labels = torch.tensor([[0, 1, -100, 2], [-100, -100, 0, 0], [5, 99999, 1, -100]])
    found = linear_distillation(
        hidden, head, given, its_head, target=labels, shift=1, reduction="none"
    )
    rows = linear_distillation(hidden, head, given, its_head, reduction="none")
    torch.testing.assert_close(
        found, torch.where(labels[:, 1:] == -100, 0.0, rows[:, :-1]), rtol=1e-6, atol=0.0
    )
    mean = linear_distillation(hidden, head, given, its_head, target=labels, shift=1)
    torch.testing.assert_close(mean, found.sum() / 6)
    plain = linear_distillation(hidden, head, given, its_head, shift=1, reduction="none")
    torch.testing.assert_close(plain, rows[:, :-1])


def test_means_over_nothing_and_of_normalizers():
    hidden, head, _ = student()
    given, its_head, _ = teacher()
    nothing = torch.full((ROWS,), -100)
    for empty in ("nan", "zero"):
        for kernel in (None, "definition"):
            found = linear_distillation(
                hidden, head, given, its_head, target=nothing, empty=empty, kernel=kernel
            )
            assert found.isnan() if empty == "nan" else found == 0
            for slope in torch.autograd.grad(found, (hidden, head)):
                assert bool((slope == 0).all())
    total = linear_distillation(hidden, head, given, its_head, reduction="sum")
    for normalizer, divisor in (("count", ROWS), (7.0, 7.0), (torch.tensor(5.0), 5.0)):
        found = linear_distillation(hidden, head, given, its_head, normalizer=normalizer)
        torch.testing.assert_close(found, total / divisor)
    no_rows = linear_distillation(hidden[:0], head, given[:0], its_head, reduction="none")
    assert no_rows.shape == (0,)
    one = linear_distillation(hidden[0], head, given[0], its_head, reduction="none")
    assert one.shape == ()


# ---- dtypes, derivatives, memory -----------------------------------------------------------------

CALLS = {
    **{
        tail: lambda h, w, b, tail=tail, **how: linear_sparse_cross_entropy(
            h, w, *listed(rows=h.shape[0], classes=w.shape[0], k=3), linear_bias=b, tail=tail, **how
        )
        for tail in TAILS
    },
    **{
        kind: lambda h, w, b, kind=kind, **how: linear_distillation(
            h, w, *teacher(rows=h.shape[0], classes=w.shape[0])[:2], linear_bias=b,
            divergence=kind, beta=0.3, **how,
        )
        for kind in DIVERGENCES
    },
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("space", SPACES)
def test_half_types_are_those_of_their_values(call, dtype, space):
    inputs = student(dtype)
    wide = [a.detach().to(torch.float32).requires_grad_() for a in inputs]
    space = SPACES[space] + 4 * CLASSES * FEATURES
    found = CALLS[call](*inputs, reduction="none", workspace_bytes=space)
    assert found.dtype == torch.float32
    want = CALLS[call](*wide, reduction="none")
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-9)
    upstream = torch.rand(ROWS, generator=generator(13))
    for got, truth in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(want, wide, upstream),
        strict=True,
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(
            got.float(), truth, rtol=1e-2, atol=1e-2 * float(truth.abs().max()) / 2
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_teachers_of_half_types_are_those_of_their_values(dtype):
    inputs, known = student(), teacher(dtype)
    space = SPACES["rows"]
    for kernel in (None, "definition"):
        found, want = (
            linear_distillation(
                *inputs[:2], *[a.to(to) for a in known[:2]], teacher_bias=known[2].to(to),
                reduction="none", workspace_bytes=size, kernel=kernel,
            )
            for to, size in ((dtype, space), (torch.float32, 2**28))
        )  # fmt: skip
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-8)
    ids, logs = listed(dtype)
    found = linear_sparse_cross_entropy(*inputs[:2], ids, logs, tail="bucket")
    want = linear_sparse_cross_entropy(*inputs[:2], ids, logs.float(), tail="bucket")
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("call", CALLS)
def test_first_and_second_derivatives_are_right(call):
    hidden, head, bias = student(WIDE, classes=6, rows=2)
    inputs = [a.detach().requires_grad_() for a in (hidden[:, :3], head[:, :3], bias)]
    options = {"reduction": "none", "softcap": 3.0, "temperature": 1.3}
    options["workspace_bytes"] = 8 * 40  # one row at a time

    def rows(*arrays):
        return CALLS[call](*arrays, **options)

    assert torch.autograd.gradcheck(rows, inputs)
    assert torch.autograd.gradcheck(rows, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(rows, inputs, fast_mode=True)


@pytest.mark.parametrize("call", CALLS)
def test_rows_that_are_not_looked_at_may_be_anything(call):
    hidden, head, bias = student()
    weight = torch.ones(ROWS)
    weight[[2, 5]] = 0.0
    spoilt = hidden.detach().clone()
    spoilt[2], spoilt[5] = math.nan, math.inf
    spoilt.requires_grad_()
    for kernel in (None, "definition"):
        found, want = (
            CALLS[call](h, head, bias, row_weight=weight, kernel=kernel) for h in (spoilt, hidden)
        )
        torch.testing.assert_close(found, want)
        first = [
            torch.autograd.grad(loss, (h, head, bias), create_graph=True)
            for loss, h in ((found, spoilt), (want, hidden))
        ]
        second = [
            torch.autograd.grad(by, (h, head, bias), [torch.ones_like(a) for a in by])
            for by, h in zip(first, (spoilt, hidden), strict=True)
        ]
        for got, truth in zip(first[0] + second[0], first[1] + second[1], strict=True):
            torch.testing.assert_close(got, truth)


@pytest.mark.parametrize("call", CALLS)
def test_every_backward_pass_gives_the_same(call):
    inputs = student()
    for upstream in (1.0, 3.0):
        found = CALLS[call](*inputs)
        passes = [
            torch.autograd.grad(found, inputs, torch.tensor(upstream), retain_graph=True)
            for _ in range(3)
        ]
        differentiable = torch.autograd.grad(
            found, inputs, torch.tensor(upstream), create_graph=True
        )
        for first, *others in zip(*passes, differentiable, strict=True):
            for other in others:
                torch.testing.assert_close(first, other, rtol=1e-5, atol=1e-6)
    # third derivatives come from the definition's graph
    found = CALLS[call](*inputs)
    (once,) = torch.autograd.grad(found, inputs[2], create_graph=True)
    (twice,) = torch.autograd.grad(once[0], inputs[2], create_graph=True)
    (thrice,) = torch.autograd.grad(twice[1], inputs[2])
    defined = CALLS[call](*inputs, kernel="definition")
    (once,) = torch.autograd.grad(defined, inputs[2], create_graph=True)
    (twice,) = torch.autograd.grad(once[0], inputs[2], create_graph=True)
    (want,) = torch.autograd.grad(twice[1], inputs[2])
    torch.testing.assert_close(thrice, want, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("space", SPACES)
def test_activation_checkpoints(call, reduction, space):
    hidden, head, bias = student()
    how = {"reduction": reduction, "workspace_bytes": SPACES[space]}

    def loss(h):
        found = CALLS[call](torch.tanh(h), head, bias, **how)
        return found * torch.linspace(1.0, 2.0, ROWS) if reduction == "none" else found

    plain = torch.autograd.grad(loss(hidden).sum(), (hidden, head, bias))
    again = checkpoint(loss, hidden, use_reentrant=False).sum()
    for a, b in zip(torch.autograd.grad(again, (hidden, head, bias)), plain, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("space", SPACES)
def test_many_upstream_gradients_at_once(call, reduction, space):
    inputs = student(WIDE)
    how = {"reduction": reduction, "workspace_bytes": SPACES[space]}
    found = CALLS[call](*inputs, **how)
    upstream = torch.randn(3, *found.shape, generator=generator(17), dtype=WIDE)

    def one(v, **options):
        return torch.autograd.grad(found, inputs, v, retain_graph=True, **options)

    want = [torch.stack(each) for each in zip(*map(one, upstream), strict=True)]
    for got in (
        one(upstream, is_grads_batched=True),
        one(upstream, is_grads_batched=True, create_graph=True),
        vmap(one)(upstream),
    ):  # a teacher's product is float32, and is cut otherwise
        torch.testing.assert_close(list(got), want, rtol=1e-5, atol=2e-6)
    first = torch.autograd.grad(found, inputs, upstream[0], create_graph=True)
    vectors = [torch.randn(2, *a.shape, generator=generator(18), dtype=WIDE) for a in first]

    def second(*v, **options):
        return torch.autograd.grad(first, inputs, v, retain_graph=True, **options)

    want = [torch.stack(each) for each in zip(*map(second, *vectors), strict=True)]
    found = second(*vectors, is_grads_batched=True)
    torch.testing.assert_close(list(found), want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("call", CALLS)
def test_transforms_differentiate_the_definition(call):
    hidden, head, bias = (a.detach() for a in student(WIDE, classes=8, rows=3))
    known = listed(WIDE, classes=8, rows=3, k=3), teacher(WIDE, classes=8, rows=3)

    def loss(h, i, q, t):  # of one row
        if call in TAILS:
            return linear_sparse_cross_entropy(h, head, i, q, linear_bias=bias, tail=call)
        return linear_distillation(h, head, t, known[1][1], linear_bias=bias, divergence=call)

    each = (*known[0], known[1][0])
    rows = torch.stack([loss(h, *k) for h, *k in zip(hidden, *each, strict=True)])
    torch.testing.assert_close(vmap(loss)(hidden, *each), rows)
    leaf = hidden.clone().requires_grad_()
    total = sum(loss(h, *k) for h, *k in zip(leaf, *each, strict=True))
    (slopes,) = torch.autograd.grad(total, leaf)
    assert bool((slopes != 0).any())
    torch.testing.assert_close(vmap(grad(loss))(hidden, *each), slopes)
    tangent = torch.randn(hidden.shape, dtype=WIDE, generator=generator(14))
    along = jvp(lambda h: vmap(loss)(h, *each).sum(), (hidden,), (tangent,))[1]
    torch.testing.assert_close(along, (slopes * tangent).sum())
    curves = vmap(hessian(loss))(hidden, *each)
    want = torch.autograd.functional.hessian(lambda h: loss(h, *[k[0] for k in each]), hidden[0])
    torch.testing.assert_close(curves[0], want)


@pytest.mark.parametrize("call", ["bucket", "jensen_shannon"])
def test_compiled_calls_are_one_graph_and_right(call):
    hidden, head, bias = student()
    (ids, logs), known = listed(), teacher()

    def run(hidden, head, bias):
        if call in TAILS:
            return linear_sparse_cross_entropy(hidden, head, ids, logs, linear_bias=bias, tail=call)
        return linear_distillation(hidden, head, *known[:2], linear_bias=bias, divergence=call)

    torch.compiler.reset()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    found, want = (f(hidden, head, bias) for f in (compiled, run))
    torch.testing.assert_close(found, want)
    for got, truth in zip(
        *(torch.autograd.grad(a, (hidden, head, bias)) for a in (found, want)), strict=True
    ):
        torch.testing.assert_close(got, truth, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("softcap", [None, 4.0])
def test_long_rows_are_those_of_the_definition(call, softcap):
    inputs, weight = student(classes=300), torch.rand(ROWS, generator=generator(16))
    options = {"class_mask": torch.arange(300) % 7 != 5, "softcap": softcap, "reduction": "none"}
    kept = torch.isfinite(CALLS[call](*inputs, **options))
    options["row_weight"] = torch.where(kept, weight, 0.0)
    found, want = (
        CALLS[call](*inputs, workspace_bytes=4 * 316 * rows, kernel=kernel, **options)
        for rows, kernel in ((8, None), (4096, "definition"))
    )
    check_like(found, want.to(WIDE), inputs)


@pytest.mark.parametrize(("call", "summed", "by_row"), [("bucket", 3, 4), ("forward_kl", 4, 6)])
def test_products_are_as_many_as_the_page_says(call, summed, by_row, monkeypatch):
    done = []
    for name in ("logits", "add_to_hidden", "add_to_weight"):
        own = getattr(linear_chunked.Head, name)
        monkeypatch.setattr(
            linear_chunked.Head, name,
            lambda self, *a, own=own, **k: (done.append(1), own(self, *a, **k))[1],
        )  # fmt: skip
    for reduction, products in (("mean", summed), ("sum", summed), ("none", by_row)):
        done.clear()
        CALLS[call](*student(), reduction=reduction).sum().backward()
        assert len(done) == products


@pytest.mark.parametrize("call", CALLS)
def test_what_is_frozen_costs_no_product(call, monkeypatch):
    seen = []
    for name in ("add_to_hidden", "add_to_weight"):
        monkeypatch.setattr(
            linear_chunked.Head, name, lambda *_, name=name, **__: seen.append(name)
        )
    hidden, head, bias = student()
    for inputs, products in (
        ((hidden, head.detach(), None), ["add_to_hidden"]),
        ((hidden.detach(), head, None), ["add_to_weight"]),
        ((hidden.detach(), head.detach(), bias), []),
    ):
        for reduction in ("mean", "none"):
            seen.clear()
            found = CALLS[call](*inputs, reduction=reduction)
            found.backward(torch.ones_like(found))
            assert seen == products
    seen.clear()
    with torch.no_grad():
        assert not CALLS[call](hidden, head, bias).requires_grad
    assert not CALLS[call](hidden.detach(), head.detach(), None).requires_grad
    assert seen == []


def test_nothing_flows_to_the_teacher():
    inputs = student()
    known = [a.requires_grad_() for a in teacher()]
    for kernel in (None, "definition"):
        found = linear_distillation(*inputs[:2], *known[:2], teacher_bias=known[2], kernel=kernel)
        found.backward()
        assert all(a.grad is None for a in known)
        assert inputs[0].grad is not None
        # a teacher alone asks for nothing
        frozen = linear_distillation(
            inputs[0].detach(), inputs[1].detach(), *known[:2], kernel=kernel
        )
        assert not frozen.requires_grad


@pytest.mark.parametrize("call", CALLS)
def test_without_compiled_kernels_and_under_autocast(call):
    inputs = student()
    want = CALLS[call](*inputs, reduction="none")
    with definition_alone():
        check_like(CALLS[call](*inputs, reduction="none"), want.to(WIDE), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = CALLS[call](*inputs, reduction="none")
    torch.testing.assert_close(found, want, rtol=0.1, atol=0.1)
    assert not torch.equal(found, want)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert inputs[1].grad.dtype == torch.float32


def test_a_student_learns_the_teacher():
    hidden, known = student(rows=64)[0].detach(), teacher(rows=64)
    model = torch.nn.Linear(FEATURES, CLASSES)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = linear_distillation(hidden, model.weight, *known[:2], linear_bias=model.bias)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


class Held:
    """The memory of all tensors that operations return while one of its modes is open."""

    def __init__(self):
        self.tensors, self.counts, self.now, self.peak, self.largest = {}, {}, 0, 0, 0

    def forward(self):
        """Return the mode for a forward pass: the calls of torch's functions.

        One that sees operations would have them recorded, and so run the definition.
        """
        held = self

        class Mode(TorchFunctionMode):
            def __torch_function__(self, function, types, args=(), kwargs=None):
                return held.seen(function(*args, **(kwargs or {})))

        return Mode()

    def backward(self):
        """Return the mode for a backward pass: the operations, for it has no other."""
        held = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                return held.seen(function(*args, **(kwargs or {})))

        return Mode()

    def seen(self, made):
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in self.tensors:
                self.add(tensor)
        return made

    def add(self, tensor):
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            key, size = storage.data_ptr(), storage.nbytes()
        if not self.counts.get(key):
            self.now += size
        self.counts[key] = self.counts.get(key, 0) + 1
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
        name = id(tensor)

        def drop(_):
            del self.tensors[name]
            self.counts[key] -= 1
            if not self.counts[key]:
                self.now -= size

        self.tensors[name] = weakref.ref(tensor, drop)


def a_call(name, rows, classes=500, features=8):
    """Return a call with its target, and the bytes of its logits and of what it holds beside."""
    g = generator(15)
    hidden = torch.randn(rows, features, generator=g).requires_grad_()
    head = torch.randn(classes, features, generator=g).requires_grad_()
    target = (
        linear_distilled.SparseTargets(*listed(classes=classes, rows=rows, k=8), name)
        if name in TAILS
        else linear_distilled.Teacher(*teacher(classes=classes, rows=rows), divergence=name)
    )
    call = linear_chunked.LinearRows(hidden, head, None, torch.arange(rows))
    # gradients and their accumulators, losses, and what is held of each listed class
    beside = 2 * 4 * features * (rows + classes) + 8 * rows * 16
    return call, target, 4 * rows * classes, beside


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_memory_stays_within_the_workspace(name, reduction):
    call, target, logits, beside = a_call(name, rows=256)
    space = logits // 2
    held = Held()
    with held.forward():
        found = distilled.distilled_losses(
            call, target, reduction=reduction, limits=distilled.Limits(space)
        )
    assert space // 3 < held.peak <= 1.05 * space + beside
    assert held.largest <= space
    held = Held()
    with held.backward():
        found.backward(torch.ones_like(found))
    if reduction == "none":  # a sum has its gradients already
        assert space // 3 < held.peak <= 1.05 * space + beside
        assert held.largest <= space


@pytest.mark.parametrize("name", ["bucket", "jensen_shannon"])
def test_memory_of_second_derivatives_stays_within_the_workspace(name):
    call, target, logits, beside = a_call(name, rows=32)
    space = 24 * logits  # of the definition's numbers, for a third of the rows
    found = distilled.distilled_losses(
        call, target, reduction="none", limits=distilled.Limits(space)
    )
    inputs = call.hidden, call.weight
    by = torch.autograd.grad(found, inputs, torch.ones_like(found), create_graph=True)
    held = Held()
    with held.backward():
        torch.autograd.grad(by, inputs, [torch.ones_like(a) for a in by])
    assert space // 8 < held.peak <= space + 2 * beside

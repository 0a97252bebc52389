"""The recipes of docs/linear.md run, and give what the logits give in float64."""

import importlib.util
import re
import runpy
import textwrap
from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear, linear_cross_entropy, logsigmoid

import xent.torch
from xent.losses.kernels.linear_products import Head

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "linear.md").read_text(encoding="utf-8")
WIDE = torch.float64


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wide(*tensors):
    return [t.detach().to(WIDE).requires_grad_() for t in tensors]


def asking(*tensors):
    return [t.detach().clone().requires_grad_() for t in tensors]


def agree(found, truth, inputs, exact_inputs):
    """Compare a loss and its gradients with those from float64 logits."""
    torch.testing.assert_close(found.to(WIDE), truth, rtol=1e-5, atol=1e-7)
    pairs = zip(
        torch.autograd.grad(found, inputs), torch.autograd.grad(truth, exact_inputs), strict=True
    )
    for got, want in pairs:
        scale = float(want.abs().max())
        assert scale > 0.0
        torch.testing.assert_close(got.to(WIDE), want, rtol=1e-4, atol=1e-5 * scale)


def log_softmax(hidden, head, temperature=1.0):
    return (linear(hidden, head) / temperature).log_softmax(-1)


def of_next_tokens(log_p, labels):
    """Return log-probabilities of the next tokens, 0 where the label is ignored."""
    later = labels[:, 1:]
    own = log_p[:, :-1].gather(-1, later.clamp(min=0)[..., None])[..., 0]
    return torch.where(later != -100, own, 0.0)


# ---- what they print -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["training", "grpo", "dpo", "distillation"])
def test_an_example_minimises_what_it_prints(name, capsys):
    runpy.run_path(str(ROOT / "examples" / f"linear_{name}.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    losses = [float(re.findall(r"-?\d+\.\d+", line)[-1]) for line in lines]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)
    if name == "training":  # the rule is learnt
        assert losses[-1] < 0.1


def test_code_on_the_page_is_that_of_the_examples():
    examples = [
        path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("linear_*.py")
    ]
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
    recipes = [block for block in blocks if ">>>" not in block]
    assert len(recipes) >= 6
    for recipe in recipes:
        forms = (recipe, textwrap.indent(recipe, "    "))  # a function, or what stands in one
        assert any(form in text for form in forms for text in examples), recipe


# ---- language models -----------------------------------------------------------------------------


def test_micro_batches_add_up_to_the_gradient_of_the_step():
    example = load("linear_training")
    torch.manual_seed(1)
    model = example.TinyModel()
    exact = example.TinyModel().to(WIDE)
    exact.load_state_dict(model.state_dict())
    batches = [example.micro_batch(8, 12, 5), example.micro_batch(3, 6, 40)]
    loss = example.accumulate(model, batches)
    rows = []
    for tokens, labels in batches:
        log_p = log_softmax(exact(tokens), exact.embedding.weight)
        rows.append(of_next_tokens(log_p, labels)[labels[:, 1:] != -100])
    truth = -torch.cat(rows).mean()
    truth.backward()
    assert loss == pytest.approx(truth.item(), rel=1e-6)
    for got, want in zip(model.parameters(), exact.parameters(), strict=True):
        scale = float(want.grad.abs().max())
        torch.testing.assert_close(got.grad.to(WIDE), want.grad, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", ["LinearGPT2LMHeadModel", "LinearLlamaForCausalLM"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_of_transformers_keeps_its_loss_gradients_and_tokens(kind):
    example = load("linear_transformers")
    kind = getattr(example, kind)
    for items in (None, 100):
        theirs, ours, difference = example.compare(kind, items)
        assert ours == pytest.approx(theirs, rel=1e-6)
        assert difference < 1e-6
    tokens, labels = example.tokens_and_labels()
    model = example.tiny_model(kind, example.CONFIGURATIONS[kind]).to(WIDE)
    truth = -of_next_tokens(model(tokens).logits.log_softmax(-1), labels)
    truth = truth.sum() / (labels[:, 1:] != -100).sum()
    found = model(tokens, torch.ones_like(tokens), labels=labels).loss
    agree(found, truth, *[list(model.parameters())] * 2)
    written = model.generate(tokens[:1], max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert written.shape[1] > tokens.shape[1]


# ---- policies and preferences --------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_loss_of_grpo_is_that_of_the_logits(temperature):
    example = load("linear_grpo")
    hidden, head, labels, rewards = example.sampled_group()
    other = head + 0.3 * torch.randn(head.shape, generator=torch.Generator().manual_seed(5))
    old = example.token_log_probability(hidden, other, labels, temperature)
    reference = example.token_log_probability(hidden, other.flip(0), labels, temperature)
    advantage = example.group_advantage(rewards).flatten()
    inputs, exact_inputs = asking(hidden, head), wide(hidden, head)
    found = example.grpo_loss(
        *inputs, labels, advantage, old, reference, temperature=temperature, entropy_weight=0.1
    )
    log_p = log_softmax(*exact_inputs, temperature)
    new, kept = of_next_tokens(log_p, labels), labels[:, 1:] != -100
    frozen = [t.to(WIDE) for t in (other, other.flip(0))]
    before, near = (
        of_next_tokens(log_softmax(hidden.to(WIDE), w, temperature), labels) for w in frozen
    )
    ratio, a = (new - before).exp(), advantage.to(WIDE)[:, None]
    gain = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
    divergence = (near - new).exp() - (near - new) - 1
    entropy = -(log_p.exp() * log_p).sum(-1)[:, :-1]
    objective = gain - 0.04 * divergence + 0.1 * entropy
    assert (ratio[kept] > 1.2).any()  # some are clipped
    assert (ratio[kept] < 0.8).any()
    agree(found, -objective[kept].mean(), inputs, exact_inputs)


def test_the_loss_of_dpo_is_that_of_the_logits():
    example = load("linear_dpo")
    hidden, head, reference_head, labels = example.pairs()
    inputs, exact_inputs = asking(hidden, head), wide(hidden, head)
    reference = example.sequence_log_probability(hidden, reference_head, labels)
    found = example.dpo_loss(example.sequence_log_probability(*inputs, labels), reference)
    exact = of_next_tokens(log_softmax(*exact_inputs), labels).sum(-1)
    near = log_softmax(hidden.to(WIDE), reference_head.to(WIDE))
    margin = exact - of_next_tokens(near, labels).sum(-1)
    agree(found, -logsigmoid(0.1 * (margin[:3] - margin[3:])).mean(), inputs, exact_inputs)


# ---- teachers ------------------------------------------------------------------------------------


def test_distillation_from_a_list_is_that_of_the_logits():
    example = load("linear_distillation")
    hidden, head, wider, its_head, labels = example.student_and_teacher()
    ids, logs = example.likeliest(wider, its_head[:211], 8)
    inputs, exact_inputs = asking(hidden, head), wide(hidden, head)
    found = example.top_k_loss(*inputs, ids, logs, labels)
    log_p, masses = log_softmax(*exact_inputs), logs.to(WIDE).exp()
    listed = torch.zeros_like(log_p, dtype=torch.bool).scatter(-1, ids, True)
    rest = log_p.masked_fill(listed, -torch.inf).logsumexp(-1)
    rows = -(masses * log_p.gather(-1, ids)).sum(-1) - (1 - masses.sum(-1)) * rest
    agree(found, rows[:, :-1][labels[:, 1:] != -100].mean(), inputs, exact_inputs)


def test_both_ways_of_distillation_train_the_same_places():
    example = load("linear_distillation")
    hidden, head, wider, its_head, labels = example.student_and_teacher()
    labels[1, 4:6] = -100
    ids, logs = example.likeliest(wider, its_head[:211], 8)
    hidden.requires_grad_()
    from_list = example.top_k_loss(hidden, head, ids, logs, labels)
    from_states = example.teacher_loss(hidden, head, wider, its_head, labels)
    a, b = ((torch.autograd.grad(f, hidden)[0] != 0).any(-1) for f in (from_list, from_states))
    assert torch.equal(a, b)
    assert torch.equal(a[:, :-1], labels[:, 1:] != -100)
    assert not a[:, -1].any()


def test_distillation_from_states_is_that_of_the_logits():
    example = load("linear_distillation")
    hidden, head, wider, its_head, labels = example.student_and_teacher()
    inputs, exact_inputs = asking(hidden, head), wide(hidden, head)
    found = example.teacher_loss(*inputs, wider, its_head, labels)
    log_q = log_softmax(wider.to(WIDE), its_head[:211].to(WIDE), 2.0)
    log_p = log_softmax(*exact_inputs, 2.0)
    kept = labels[:, 1:] != -100
    divergence = (log_q.exp() * (log_q - log_p)).sum(-1)[:, :-1][kept].mean()
    data = -of_next_tokens(log_softmax(*exact_inputs), labels)[kept].mean()
    agree(found, 0.5 * data + 2.0 * divergence, inputs, exact_inputs)


# ---- what the page says --------------------------------------------------------------------------

ROWS, FEATURES, CLASSES = 512, 8, 4096


@pytest.fixture
def products(monkeypatch):
    """Return a function that counts the products of a loss and its backward pass."""
    done = []

    def counted(name, first_class):
        own = getattr(Head, name)

        def call(self, rows, *rest, **options):
            start, stop = rest[first_class : first_class + 2]
            done.append(rows.shape[0] * (stop - start))
            return own(self, rows, *rest, **options)

        monkeypatch.setattr(Head, name, call)

    counted("logits", 0)
    counted("add_to_hidden", 0)
    counted("add_to_weight", 1)

    def count(compute):
        done.clear()
        compute().backward()
        return sum(done) / (ROWS * CLASSES)

    return count


def made():
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, FEATURES, generator=g, requires_grad=True)
    head = torch.randn(CLASSES, FEATURES, generator=g, requires_grad=True)
    return hidden, head, torch.randint(0, CLASSES, (ROWS,), generator=g)


def test_products_are_as_many_as_the_page_says(products):
    h, W, y = made()
    table = dict(re.findall(r"^\| [^|]* \| `(linear_[^`]*)` \| ([^|]*) \|$", PAGE, flags=re.M))
    assert len(table) == 7
    names = {
        "h": h,
        "W": W,
        "y": y,
        "linear_cross_entropy": xent.torch.linear_cross_entropy,
        "linear_softmax_statistics": lambda *a: sum(
            x.sum() for x in xent.torch.linear_softmax_statistics(*a)[:4]
        ),
    }
    for call, said in table.items():
        found = products(lambda call=call: eval(call, dict(names)).sum())
        if " to " in said:
            low, high = map(float, said.split(" to "))
            cut = "workspace_bytes" in call  # elsewhere all logits fit the workspace
            assert (low < found < high) if cut else found == low, call
        else:
            assert found == float(said), call


def test_products_of_ignored_rows_small_workspaces_and_teachers(products):
    h, W, y = made()
    loss = xent.torch.linear_cross_entropy
    masked = torch.where(torch.arange(ROWS) % 2 == 0, -100, y)
    assert products(lambda: loss(h, W, masked)) == 1.5
    row_wise = products(lambda: loss(h, W, y, reduction="none", workspace_bytes=2**20).sum())
    assert 4.0 < row_wise < 5.0
    cut = products(lambda: loss(h, W, y, workspace_bytes=2**21, low_memory=True))
    assert 4.5 < cut < 5.0  # the last piece of a row's logits is still there
    smooth = products(lambda: loss(h, W, y, label_smoothing=0.1, workspace_bytes=2**20))
    assert smooth == 3.0
    ids, logs = y[:, None], torch.zeros(ROWS, 1)
    listed = products(lambda: xent.torch.linear_sparse_cross_entropy(h, W, ids, logs))
    taught = products(lambda: xent.torch.linear_distillation(h, W, h.detach(), W.detach().flip(0)))
    assert (listed, taught) == (3.0, 4.0)


def test_torchs_own_is_as_the_page_says():
    h, W, y = (t.detach()[:9] for t in made())
    y, h = y % 9, h.requires_grad_()
    options = torch.nn.LinearCrossEntropyOptions()
    assert not torch.func.jvp(
        lambda h: linear_cross_entropy(h, W, y, options=options), (h.detach(),), (h.detach(),)
    )[1].any()
    loss = linear_cross_entropy(h, W, y, options=options)
    assert not torch.autograd.grad(loss, h, create_graph=True)[0].requires_grad
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(loss, h)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda h: linear_cross_entropy(h, W, y, options=options))(h.detach())
    with pytest.warns(UserWarning, match="ignored"):
        linear_cross_entropy(h, W, y, options=options, label_smoothing=0.1)
    with pytest.raises(RuntimeError, match="dimensionality"):
        linear_cross_entropy(h[None], W, y[None])
    with pytest.raises(RuntimeError, match="Long"):
        linear_cross_entropy(h, W, y.int())

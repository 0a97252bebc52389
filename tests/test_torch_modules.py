"""The modules of xent.torch: torch's own in every habit, and options of ours beside."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import pytest
import torch

import xent.torch as X
from xent.errors import OptionError

NAMES = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "KLDivLoss", "NLLLoss"]
WEIGHTED = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "NLLLoss"]
G = torch.Generator().manual_seed(6)
Z = 2.0 * torch.randn(3, 4, generator=G)
Y = torch.tensor([0, 3, 1])
P = torch.randn(3, 4, generator=G).softmax(1)
W = torch.tensor([1.0, 0.5, 2.0, 3.0])
SAMPLES = {
    "BCELoss": (P, P.flip(0)),
    "BCEWithLogitsLoss": (Z, P),
    "CrossEntropyLoss": (Z, Y),
    "KLDivLoss": (Z.log_softmax(1), P),
    "NLLLoss": (Z.log_softmax(1), Y),
}


def both(name, *args, **kwargs):
    return getattr(X, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)


def options_of(name):
    """Return every option of torch's at another value than its default."""
    options = {"reduction": "sum"}
    if name in WEIGHTED:
        options["weight"] = W
    if name == "BCEWithLogitsLoss":
        options["pos_weight"] = W + 1
    if name in ("CrossEntropyLoss", "NLLLoss"):
        options["ignore_index"] = 3
    if name == "CrossEntropyLoss":
        options["label_smoothing"] = 0.2
    if name == "KLDivLoss":
        options["log_target"] = True
    return options


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_begins_with_torchs(name):
    ours, theirs = (
        list(inspect.signature(m.__init__).parameters.values())
        for m in (getattr(X, name), getattr(torch.nn, name))
    )
    assert [(p.name, p.default, p.kind) for p in ours[: len(theirs)]] == [
        (p.name, p.default, p.kind) for p in theirs
    ]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[len(theirs) :])
    forward = list(inspect.signature(getattr(X, name).forward).parameters.values())
    assert [p.name for p in forward[:3]] == ["self", "input", "target"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in forward[3:])


@pytest.mark.parametrize("name", NAMES)
def test_options_of_ours_are_those_of_the_function(name):
    function = {
        "BCELoss": X.binary_cross_entropy,
        "BCEWithLogitsLoss": X.binary_cross_entropy_with_logits,
        "CrossEntropyLoss": X.cross_entropy,
        "KLDivLoss": X.kl_div,
        "NLLLoss": X.nll_loss,
    }[name]

    def extras(callable_):
        parameters = inspect.signature(callable_).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    module = extras(getattr(X, name).__init__)
    assert module == getattr(X, name)._defaults
    of_call = extras(getattr(X, name).forward)
    assert {**of_call, **module} == extras(function)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", [False, True])
def test_attributes_buffers_state_and_repr_are_torchs(name, given):
    ours, theirs = both(name, **(options_of(name) if given else {}))
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert getattr(ours, "__constants__", None) == getattr(theirs, "__constants__", None)
    assert list(ours._buffers) == list(theirs._buffers)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for attribute, value in vars(theirs).items():
        if not attribute.startswith("_"):
            assert getattr(ours, attribute) == value
    assert list(ours.parameters()) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
@pytest.mark.filterwarnings("ignore:kl_div:UserWarning")
def test_the_value_is_torchs(name, given):
    ours, theirs = both(name, **(options_of(name) if given else {}))
    a, b = SAMPLES[name]
    torch.testing.assert_close(ours(a, b), theirs(a, b))


@pytest.mark.parametrize("name", WEIGHTED)
def test_state_dicts_are_exchanged_with_torchs(name):
    options = options_of(name)
    theirs = getattr(torch.nn, name)(**options)
    blank = {k: torch.zeros(4) for k in options if k.endswith("weight")}
    ours = getattr(X, name)(**{**options, **blank})
    ours.load_state_dict(theirs.state_dict())
    a, b = SAMPLES[name]
    torch.testing.assert_close(ours(a, b), theirs(a, b))
    back = getattr(torch.nn, name)(**{**options, **blank})
    back.load_state_dict(ours.state_dict())
    assert torch.equal(back.weight, W)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:kl_div:UserWarning")
def test_modules_are_copied_and_pickled_with_every_option(name):
    module = getattr(X, name)(**options_of(name), normalizer=3.0, empty="zero")
    a, b = SAMPLES[name]
    expected = module(a, b)
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    for twin in (
        copy.deepcopy(module),
        copy.copy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(saved, weights_only=False),
    ):
        assert type(twin) is type(module)
        assert repr(twin) == repr(module)
        assert (twin.normalizer, twin.empty) == (3.0, "zero")
        assert torch.equal(twin(a, b), expected)


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_move_with_the_module(name):
    module = getattr(X, name)(**options_of(name))
    assert module.double().weight.dtype is torch.float64
    assert module.to("meta").weight.device.type == "meta"
    assert module.half().weight.dtype is torch.float16
    if name == "BCEWithLogitsLoss":
        assert module.pos_weight.device.type == "meta"


@pytest.mark.parametrize("name", NAMES)
def test_the_deprecated_switches_warn_when_the_module_is_made(name):
    with pytest.warns(UserWarning, match="reduction='sum'"):
        module = getattr(X, name)(size_average=False)
    assert module.reduction == "sum"


def test_the_repr_shows_options_of_ours_that_are_set():
    assert repr(X.CrossEntropyLoss(label_smoothing=0.1)) == "CrossEntropyLoss()"
    module = X.CrossEntropyLoss(z_loss=1e-4, empty="zero", out_dtype=torch.float64)
    expected = "CrossEntropyLoss(z_loss=0.0001, out_dtype=torch.float64, empty='zero')"
    assert repr(module) == expected
    assert repr(X.BCELoss(clamp=None)) == "BCELoss(clamp=None)"


def test_options_of_ours_reach_the_function():
    options = {"z_loss": 0.1, "temperature": 0.5, "softcap": 9.0, "normalizer": "count"}
    more = {"out_dtype": torch.float64, "empty": "zero", "kernel": "definition"}
    module = X.CrossEntropyLoss(W, ignore_index=3, label_smoothing=0.1, **options, **more)
    r = torch.tensor([1.0, 2.0, 3.0])
    ours = module(Z, Y, row_weight=r)
    expected = X.cross_entropy(
        Z, Y, W, ignore_index=3, label_smoothing=0.1, row_weight=r, **options, **more
    )
    assert ours.dtype is torch.float64
    assert torch.equal(ours, expected)
    with pytest.raises(OptionError, match="kernel"):
        X.CrossEntropyLoss(kernel="none such")(Z, Y)
    assert X.BCELoss(clamp=None)(torch.zeros(1), torch.ones(1)) == torch.inf
    smoothed = X.BCEWithLogitsLoss(label_smoothing=0.2)(Z, P)
    assert torch.equal(smoothed, X.binary_cross_entropy_with_logits(Z, P, label_smoothing=0.2))


@pytest.mark.parametrize("name", NAMES)
def test_a_normalizer_for_one_call_overrules_the_modules(name):
    options = {"reduction": "batchmean"} if name == "KLDivLoss" else {}
    module = getattr(X, name)(normalizer=2.0, **options)
    a, b = SAMPLES[name]
    torch.testing.assert_close(module(a, b, normalizer=torch.tensor(8)), module(a, b) / 4)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_scripting_raises_clearly(name):
    module = getattr(X, name)()
    for scripted in (module, torch.nn.Sequential(torch.nn.Identity(), module)):
        with pytest.raises(RuntimeError, match=rf"cannot compile xent\.torch\.{name}.*Hint"):
            torch.jit.script(scripted)

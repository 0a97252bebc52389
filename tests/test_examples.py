"""The examples run, and do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("num_items_in_batch", [None, 100])
def test_the_transformers_recipe_gives_the_models_own_loss_and_gradients(num_items_in_batch):
    spec = importlib.util.spec_from_file_location("recipe", EXAMPLES / "transformers_loss.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    theirs, ours, difference = recipe.compare(num_items_in_batch)
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert difference < 1e-6

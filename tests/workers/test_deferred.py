"""The trainer that a coordinator describes is the one that trains."""

import pickle
from dataclasses import fields
from pathlib import Path

from search.settings import Recipe
from search.space import CLASSIC
from workers.datasets import load
from workers.deferred import DeferredTrainer
from workers.training import PreparedTrainer, Trainer


def test_a_deferred_trainer_is_made_of_the_same_parts(tmp_path: Path) -> None:
    """Sent to another process and prepared there, it has every part in its place."""
    digits = load("digits", tmp_path)
    parts = (digits, CLASSIC.rules, Recipe(100, epochs=1), 7, "cpu", digits.first(10), 1)
    prepared = pickle.loads(pickle.dumps(DeferredTrainer(*parts))).prepare()
    assert isinstance(prepared, PreparedTrainer)
    for field, part in zip(fields(Trainer), parts, strict=True):
        found = getattr(prepared.trainer, field.name)
        assert (found.sha256() == part.sha256()) if hasattr(part, "sha256") else (found == part)

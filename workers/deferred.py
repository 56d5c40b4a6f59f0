"""The trainer as the coordinator knows it: a description, without torch.

Importing torch takes a process a second or two, in which Ray can start its workers already.
"""

from dataclasses import dataclass

from search.settings import TRAINING_VERSION, Recipe
from search.shapes import Rules
from workers.datasets import Dataset
from workers.executors import Prepared


@dataclass(frozen=True)
class DeferredTrainer:
    """What ``workers.training.Trainer`` is made of; it is made where it trains."""

    dataset: Dataset  # at least the recipe's images
    rules: Rules
    recipe: Recipe
    search_seed: int
    device: str
    test: Dataset | None = None  # images to measure the final networks on
    version: int = TRAINING_VERSION

    def prepare(self) -> Prepared:
        """Import torch, and put the data on the device. Called once in the process that trains."""
        from workers.training import Trainer  # noqa: PLC0415  # imports torch

        made = self.dataset, self.rules, self.recipe, self.search_seed, self.device, self.test, self.version
        return Trainer(*made).prepare()

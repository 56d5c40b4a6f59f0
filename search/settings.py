"""What makes a search, and what ends a run of it.

A search's settings are stored when it is created and never change; a run that names other ones is
refused with the differences. Limits belong to a run and are free.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from search.errors import SettingsError, quoted
from search.space import NAME, NAME_RULE, SearchSpace, space_from_dict

LARGEST_INTEGER = 2**63 - 1  # what both databases store
MOST_EPOCHS = 100_000
TRAIN_IMAGES = 5_000  # the default: the first 5,000 training images, or all of a smaller dataset
SPLIT_SEED = 42  # of the permutation that says which fifth of them is for validation
CANDIDATES = 1_000
TRAINING_VERSION = 2  # of new searches: how a training computes; see workers/networks.py. All up to it can be trained


@dataclass(frozen=True)
class Recipe:
    """How a candidate is trained: plain SGD on cross-entropy. Raises SettingsError when out of range."""

    train_images: int = TRAIN_IMAGES  # the dataset's first so many images, split 0.8/0.2
    batch_size: int = 32  # the last partial batch is dropped in training
    epochs: int = 10
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        require("--train-images", self.train_images, 5, LARGEST_INTEGER)
        require("--batch-size", self.batch_size, 1, LARGEST_INTEGER)
        require("--epochs", self.epochs, 1, MOST_EPOCHS)
        if not (math.isfinite(self.learning_rate) and 0 < self.learning_rate <= 1000):
            raise SettingsError(f"--learning-rate {self.learning_rate}: must be above 0, up to 1000")
        if self.batch_size > self.images_for_training:
            raise SettingsError(
                f"--batch-size {self.batch_size}: more than the {self.images_for_training} images that are trained on "
                f"(0.8 of --train-images {self.train_images}), so no batch would be full"
            )

    @property
    def images_for_training(self) -> int:
        """Images trained on, of ``train_images``; the rest is for validation."""
        return self.train_images * 4 // 5


@dataclass(frozen=True)
class SearchSettings:
    """What a search is, for ever. ``as_dict`` is what is stored."""

    space: SearchSpace
    sampler: str
    sampler_version: int
    seed: int  # 0 to 2^63 - 1
    dataset: str  # a dataset's name, or the path of an .npz file
    dataset_sha256: str  # of the images and labels that are trained and validated on
    recipe: Recipe
    device: str  # cpu or cuda
    test: bool = False  # are final networks measured on the dataset's test images, too?
    training_version: int = 1  # other versions give other numbers, by rounding; searches without one are of version 1
    test_sha256: str = ""  # of these; "": it has none, or the search is from before this was stored
    lengths: tuple[int, int] | None = None  # fewest and most layers that the census draws; None: the space's

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        values = {
            "space": self.space.as_dict(),
            "sampler": self.sampler,
            "sampler_version": self.sampler_version,
            "seed": self.seed,
            "dataset": self.dataset,
            "dataset_sha256": self.dataset_sha256,
            "recipe": asdict(self.recipe),
            "device": self.device,
        }
        later = {  # each with what older searches are, which are stored without it
            "test": (self.test, False),
            "training_version": (self.training_version, 1),
            "test_sha256": (self.test_sha256, ""),
            "lengths": (self.lengths and list(self.lengths), None),
        }
        return {**values, **{name: value for name, (value, before) in later.items() if value != before}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SearchSettings":
        """The settings of plain values. Raises SpaceError; SettingsError, also for a setting that is not known here."""
        known = (("", values, cls), ("space.", values["space"], SearchSpace), ("recipe.", values["recipe"], Recipe))
        others = [
            f"{where}{key}" for where, part, kind in known for key in part.keys() - {f.name for f in fields(kind)}
        ]
        if others:
            raise SettingsError(
                f"the settings {quoted(', '.join(sorted(others)), 200)} are not known to this netsieve, "
                "a newer one made the search: update netsieve"
            )
        lengths = tuple(values["lengths"]) if "lengths" in values else None
        space, recipe = space_from_dict(values["space"]), Recipe(**values["recipe"])
        return cls(**{**values, "space": space, "recipe": recipe, "lengths": lengths})


def require_trainable(name: str, settings: SearchSettings) -> None:
    """Raise SettingsError unless this netsieve trains as the search of that name is trained."""
    if settings.training_version > TRAINING_VERSION:
        raise SettingsError(
            f"search {name} is trained by version {settings.training_version} of the training, here is version "
            f"{TRAINING_VERSION}: update netsieve"
        )


def difference(stored: SearchSettings, given: Mapping[str, Any]) -> list[str]:
    """One entry for each of the ``given`` values that is not the stored one: ``seed: stored 0, given 7``.

    ``given`` holds what the user typed, by the names of SearchSettings and Recipe. Spaces are equal
    when they draw and check the same, whatever their names; datasets when their content is the same.
    """
    known = {**asdict(stored.recipe), **{name: getattr(stored, name) for name in SETTING_NAMES}}
    known["space"] = f"{stored.space.name} ({stored.space.digest()[:12]})"
    if stored.sampler == "census" and stored.lengths is None:
        known["lengths"] = stored.space.min_layers, stored.space.max_layers
    found = []
    for name, value in given.items():
        if name == "space":
            if value.digest() == stored.space.digest():
                continue
            value = f"{value.name} ({value.digest()[:12]})"  # noqa: PLW2901  # shown as the stored one is
        if value != known[name]:
            found.append(f"{name.replace('_', '-')}: stored {_shown(known[name])}, given {_shown(value)}")
    return found


def _shown(value: Any) -> str:
    """A setting as it is typed: lengths as 2-6."""
    return "-".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)


SETTING_NAMES = (
    "sampler",
    "sampler_version",
    "seed",
    "dataset",
    "dataset_sha256",
    "device",
    "test",
    "test_sha256",
    "lengths",
)


@dataclass(frozen=True)
class Limits:
    """When a run ends. What is training then is finished. Raises SettingsError when out of range."""

    candidates: int = CANDIDATES  # draws, over the whole search
    max_completed: int | None = None  # completed candidates, over the whole search
    max_time_s: float | None = None  # of this run
    target_accuracy: float | None = None  # 0 to 1: ends once a completed candidate reaches it
    trial_timeout_s: float = 600.0  # in training, one candidate
    grace_s: float = 30.0  # after a first Ctrl-C or SIGTERM, for what is training
    db_outage_limit_s: float = 900.0  # that the database may be away before the run gives up

    def __post_init__(self) -> None:
        require("--candidates", self.candidates, 1, LARGEST_INTEGER)
        if self.max_completed is not None:
            require("--max-completed", self.max_completed, 1, LARGEST_INTEGER)
        if self.target_accuracy is not None and not 0 < self.target_accuracy <= 1:
            raise SettingsError(f"--target-accuracy {self.target_accuracy}: must be above 0, up to 1")


def require(option: str, value: int, low: int, high: int) -> None:
    """Raise SettingsError unless ``value`` is from ``low`` to ``high``."""
    if not low <= value <= high:
        raise SettingsError(f"{option} {value}: must be from {low} to {high}")


def require_name(name: str) -> str:
    """The name of a search. Raises SettingsError."""
    if not NAME.fullmatch(name):
        raise SettingsError(f"NAME {quoted(name)}: a search's name has {NAME_RULE}")
    return name

"""The main job in one call: train, guard, attack under two threats, report."""

from __future__ import annotations

from pathlib import Path

from notsure import models
from notsure.classifier import Classifier
from notsure.core.state import seeded
from notsure.data import Images
from notsure.training import CrossEntropy, Recipe, ReverseCrossEntropy, TrainingObjective, train

OBJECTIVES: dict[str, TrainingObjective] = {"CE": CrossEntropy(), "RCE": ReverseCrossEntropy()}


def default_recipe(architecture: str, epochs: int | None, seed: int) -> Recipe:
    """A recipe that suits the architecture; `epochs` overrides how long it trains."""
    if architecture.startswith("resnet"):
        # pang B.1's optimizer; one cycle in place of its 20,000 steps of piecewise rates
        return Recipe(epochs=epochs or 4, learning_rate=0.1, schedule="one-cycle", seed=seed)
    return Recipe(
        epochs=epochs or 30,
        optimizer="adamw",
        learning_rate=3e-3,
        weight_decay=1e-4,
        batch_size=64,
        schedule="one-cycle",
        precision="fp32",
        seed=seed,
    )


def trained_classifier(
    name: str,
    images: Images,
    *,
    architecture: str,
    recipe: Recipe,
    checkpoint: Path,
    progress: bool,
) -> Classifier:
    """A network trained with the objective of that name, or read from a finished checkpoint."""
    objective = OBJECTIVES[name]
    with seeded(recipe.seed):
        module = models.build(
            architecture,
            num_classes=images.num_classes,
            in_channels=images.in_channels,
            size=images.size,
        )
    # pang scales images to [-0.5, 0.5]
    classifier = Classifier(module, mean=0.5, std=1.0, reverse_logits=objective.reverse_logits)
    train(
        classifier,
        images,
        objective=objective,
        recipe=recipe,
        checkpoint=checkpoint,
        progress=progress,
    )
    return classifier

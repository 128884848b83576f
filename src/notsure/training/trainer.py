"""Training a classifier: an objective, a recipe, and the loop."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from notsure.classifier import Classifier
from notsure.data import Images
from notsure.models import architecture_of
from notsure.training.loop import History, Loop, Step
from notsure.training.objectives import Batch, CrossEntropy, TrainingObjective
from notsure.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(
    classifier: Classifier,
    data: Images | tuple[torch.Tensor, torch.Tensor],
    *,
    objective: TrainingObjective | None = None,
    recipe: Recipe | None = None,
    checkpoint: str | Path | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
) -> History:
    """Trains a classifier in place and leaves it in evaluation mode.

    Interrupting it (Ctrl-C) finishes the step, writes the checkpoint and raises KeyboardInterrupt;
    a second interrupt stops at once, and the checkpoint of before stays whole. Called again with
    the same arguments it goes on where the checkpoint left off, and its result is the same to the
    bit as that of an uninterrupted run on the same machine.

    Args:
        classifier: the network to train, with its preprocessing.
        data: the training images, or tensors (N, C, H, W) in [0,1] and (N,).
        objective: what is minimised, cross-entropy by default.
        recipe: optimizer, schedule and so on.
        checkpoint: a safetensors file to write and to resume from; None for none.
        accelerator: an `accelerate.Accelerator`, to train on several devices or hosts: each
            process takes its share of every batch. BatchNorm statistics are each process's own.
        progress: whether to show a progress bar.

    Returns:
        Loss and accuracy of each epoch.

    Raises:
        ConfigurationError: the objective does not go with the classifier's `reverse_logits`, or
            is a term that has to be added to an objective.
        InputError: the images or labels are not what they have to be.
        CheckpointError: the checkpoint is damaged, or belongs to another training.
        NotSureError: the loss is not finite any more.
    """
    objective = objective or CrossEntropy()
    recipe = recipe or Recipe()
    objective.require(classifier)
    architecture = architecture_of(classifier.module)
    network = type(classifier.module).__name__

    def loss(step: Step) -> tuple[torch.Tensor, float]:
        batch = Batch(step, classifier)
        losses = objective.loss(batch)
        return losses, float((batch.answer.argmax(dim=1) == batch.y).sum())

    loop = Loop(
        classifier,
        classifier.module,
        data,
        channels=classifier.channels,
        loss=loss,
        name=objective.name,
        recipe=recipe,
        identity={
            "objective": objective.identity,
            "network": network
            if architecture is None
            else json.dumps(asdict(architecture), sort_keys=True),
            "preprocessing": json.dumps(classifier.settings(), sort_keys=True),
        },
        checkpoint=checkpoint,
        accelerator=accelerator,
    )
    return loop.run(shown=progress)

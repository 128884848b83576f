"""A callback for the Trainer of transformers that reports robust accuracy during training."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from notsure.core.errors import ConfigurationError
from notsure.integrations.watching import Watch

__all__ = ["RobustAccuracyCallback"]


def _base() -> type[Any]:
    try:
        found: type[Any] = import_module("transformers").TrainerCallback
    except ImportError as error:
        raise ConfigurationError(
            "The callback is for the Trainer of transformers, which is not there "
            f"({error}): pip install 'notsure[transformers]'"
        ) from error
    return found


if TYPE_CHECKING:
    TrainerCallback = object
else:
    TrainerCallback = _base()


class RobustAccuracyCallback(TrainerCallback):
    """Attacks the model after the Trainer's evaluations and adds what is left to their metrics.

        watch = RobustAccuracyCallback(x, y, eps="8/255", mean=..., std=...)
        trainer = Trainer(..., callbacks=[watch])

    `eval_robust_accuracy` (the worst case, a rejected image counted as safe) and
    `eval_robust_clean_accuracy`, that of the same images unattacked, are among what
    `trainer.evaluate()` returns and in `trainer.state.log_history`, and
    `TrainingArguments(metric_for_best_model="robust_accuracy")` goes by them; for a guard
    `eval_robust_accuracy_strict` and `eval_robust_clean_rejection` too. Each process of several
    attacks all of the images and comes to the same figures. Deviation from what the Trainer logs
    itself: its loggers have been told before the callback is called, so that they do not show these
    figures.

    Args:
        x: images (N, C, H, W) in [0,1] at the size that the model takes, which it is not trained
            on. N decides what it costs: the quick suite takes about 40 forward and backward
            passes an image.
        y: their labels (N,).
        eps: the budget in [0,1] pixel units; a number or a fraction such as "8/255".
        **settings: norm, attacks, suite, every, mean, std, wrap, batch_size and seed, see
            `notsure.integrations.watching.Watch`. mean and std are the image processor's.

    Raises:
        ConfigurationError: a setting is out of range.
        InputError: images or labels are not what they have to be.
    """

    def __init__(self, x: Any, y: Any, *, eps: float | str, **settings: Any) -> None:
        self.watch = Watch(x=x, y=y, eps=eps, **settings)
        self._ended = 0

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attacks, at every so many evaluations."""
        self._ended += 1
        if self._ended % self.watch.every:
            return
        metric = self.watch.look(kwargs["model"], self.watch.metric())
        # every process has seen all images: there is nothing to add up
        counts = metric.counts()
        told = {
            "eval_robust_accuracy": counts.lenient,
            "eval_robust_clean_accuracy": counts.clean_accuracy,
        }
        if counts.rejected:
            told["eval_robust_accuracy_strict"] = counts.strict
            told["eval_robust_clean_rejection"] = counts.clean_rejection
        values = {name: rate.value for name, rate in told.items()}
        metrics = kwargs.get("metrics")
        if metrics is not None:
            metrics.update(values)
        state.log_history.append({**values, "step": state.global_step, "epoch": state.epoch})

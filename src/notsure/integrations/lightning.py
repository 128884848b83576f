"""A callback for Lightning that reports robust accuracy while a model is trained."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from notsure.core.errors import ConfigurationError
from notsure.integrations.watching import Watch

__all__ = ["RobustAccuracyCallback"]


def _base() -> type[Any]:
    """Lightning's Callback, of the package that the program has loaded or else has."""
    known = ("lightning.pytorch", "pytorch_lightning")
    for name in sorted(known, key=lambda one: one not in sys.modules):
        try:
            found: type[Any] = import_module(name).Callback
        except ImportError:
            continue
        return found
    raise ConfigurationError(
        "The callback is for Lightning, which is not installed: pip install 'notsure[lightning]'"
    )


if TYPE_CHECKING:
    Callback = object
else:
    Callback = _base()


class RobustAccuracyCallback(Callback):
    """Attacks the model after validation epochs and logs what is left.

        trainer = Trainer(callbacks=[RobustAccuracyCallback(x, y, eps="8/255", mean=..., std=...)])

    Logged are `robust_accuracy` (the worst case, a rejected image counted as safe) and
    `clean_accuracy` of the same images, under a prefix; for a guard `clean_rejection` and
    `robust_accuracy_strict` too. `ModelCheckpoint(monitor="val/robust_accuracy", mode="max")` keeps
    the best. On several devices each attacks its share of the images. The sanity check before
    training is left out. The model's modes, gradients and the random state are left as they were.

    Args:
        x: images (N, C, H, W) in [0,1], which the model is not trained on. N decides what it costs:
            the quick suite takes about 40 forward and backward passes an image.
        y: their labels (N,).
        eps: the budget in [0,1] pixel units; a number or a fraction such as "8/255".
        prefix: of the names in the log.
        **settings: norm, attacks, suite, every, mean, std, wrap, batch_size and seed, see
            `notsure.integrations.watching.Watch`. `wrap` makes what is attacked of the
            LightningModule, such as `lambda module: Classifier(module.net, mean=..., std=...)`.

    Raises:
        ConfigurationError: a setting is out of range.
        InputError: images or labels are not what they have to be.
    """

    def __init__(
        self, x: Any, y: Any, *, eps: float | str, prefix: str = "val/", **settings: Any
    ) -> None:
        super().__init__()
        self.watch = Watch(x=x, y=y, eps=eps, **settings)
        self.prefix = prefix
        self._ended = 0

    def state_dict(self) -> dict[str, Any]:
        """How many validation epochs there were, for checkpoints: `every` goes on from there."""
        return {"ended": self._ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._ended = int(state_dict["ended"])

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Attacks, at every so many validation epochs."""
        if trainer.sanity_checking:
            return
        self._ended += 1
        if self._ended % self.watch.every:
            return
        metric: Any = self.watch.metric()
        # Lightning needs torchmetrics, so that sums over processes are taken
        metric = metric.to(pl_module.device)
        self.watch.look(pl_module, metric, rank=trainer.global_rank, world=trainer.world_size)
        rates = metric.rates()
        told = {
            "robust_accuracy": rates["lenient"],
            "clean_accuracy": rates["clean_accuracy"],
        }
        if rates["clean_rejection"].count:
            told["clean_rejection"] = rates["clean_rejection"]
            told["robust_accuracy_strict"] = rates["strict"]
        pl_module.log_dict({self.prefix + name: rate.value for name, rate in told.items()})

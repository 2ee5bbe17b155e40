"""Tasks on the Hugging Face Hub, and in local folders of its form.

The methods, the transfer and the weights (model.safetensors) are those of huggingface_hub's
`PyTorchModelHubMixin`. It would take the arguments of a task for its config, and load whatever fits
of some weights. Here config.json holds what a network needs for its predictions, each weight must
match, and the model card is written from what the task knows.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.trainer.states import TrainerFn

from eca_lightning.training.model_card import model_card
from eca_lightning.utils.atomic import atomic_write

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError:  # it is optional

    class PyTorchModelHubMixin:  # type: ignore[no-redef]
        """The same methods, which say what is missing."""

        def __init_subclass__(cls, **metadata: Any) -> None:
            super().__init_subclass__()

        @classmethod
        def from_pretrained(cls, *arguments: Any, **options: Any) -> NoReturn:
            """Raise an ImportError."""
            raise ImportError(
                "sharing models needs huggingface_hub, which is missing: "
                "pip install 'eca-lightning[hub]'"
            )

        save_pretrained = push_to_hub = from_pretrained


_NETWORK = ("backbone", "detector", "mean", "std")
"""The hyper-parameters that config.json has, where a task has them."""


class HubTask(PyTorchModelHubMixin, library_name="eca-lightning", license="mit"):
    """A task with ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``.

    ``model_card_kwargs`` of the first two are fields of the card's metadata (``license``, that of
    this package by default, ``datasets``, ``language`` and so on). With ``datasets`` the scores go
    into the metadata as well. A card that is in the folder is kept. Further options of
    ``from_pretrained`` are those of the task, such as an optimizer to train on with; the model is
    in evaluation mode.

    Attributes:
        scored_at: The step of the optimizer at which validation or test last saw the weights.
        loaded_scores: The scores that came with the weights.
    """

    scored_at: int | None = None
    loaded_scores: dict[str, float] = {}  # noqa: RUF012 - replaced, never changed

    @property
    def known_scores(self: Any) -> dict[str, float]:
        """The last figures of validation and test, if the weights are still those."""
        trainer = self._trainer
        if trainer is None:
            return self.loaded_scores
        live = {}
        if self.scored_at == trainer.global_step:
            metrics = trainer.callback_metrics.items()
            live = {k: float(v) for k, v in metrics if k.startswith(("val/", "test/"))}
        return live if live or trainer.state.fn == TrainerFn.FITTING else self.loaded_scores

    def pretrained_config(self: Any) -> dict[str, Any]:
        """The content of config.json."""
        config = {name: self.hparams[name] for name in _NETWORK if name in self.hparams}
        self.on_save_checkpoint(config)
        return config

    def generate_model_card(self: Any, **metadata: Any) -> Any:
        """Write the model card; called by the methods that share the model."""
        known = self._hub_mixin_info.model_card_data.to_dict()
        return model_card(self, known | metadata)

    def _save_pretrained(self, save_directory: Path) -> None:
        with atomic_write(save_directory / "model.safetensors") as part:
            super()._save_pretrained(part.parent)
            config = json.dumps(self.pretrained_config(), indent=2, ensure_ascii=False)
            part.with_name("config.json").write_text(config + "\n", "utf-8")

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, config: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Build the task of a config and load its weights, which must all match."""
        if config is None or not config.keys() & cls._hub_mixin_init_parameters.keys():
            raise ValueError(
                f"{model_id} is no {cls.__name__} of this package: "
                + ("it has no config.json" if config is None else "its config.json names another")
            )
        from safetensors import SafetensorError

        options = {"strict": True} | options
        try:
            model: Any = super()._from_pretrained(model_id=model_id, **options)
        except SafetensorError as error:
            raise ValueError(
                f"the weights of {model_id} are damaged ({error}): have them saved again"
            ) from error
        model.on_load_checkpoint({**config, "hyper_parameters": model.hparams})
        return model.eval()  # older versions of the mixin leave it in training mode

"""TRL's SFTTrainer with the vocabulary projection on the trained positions only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import SFTTrainer

from palate.errors import WorkError
from palate.tokens.plain import IGNORED
from palate.train.checkpoints import mark_whole

if TYPE_CHECKING:
    import torch


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer for datasets that are tokenized, masked and cut already.

    The loss is the mean negative log-likelihood of the labelled tokens, as TRL's. TRL 1.16 projects onto
    the vocabulary at every position where there is no Triton (`trl.trainer.utils.add_fused_lm_head`); here
    the model is asked for the logits at positions that some row of the batch is trained on, a handful out
    of hundreds. Batches are padded on the right, where a causal model needs no attention mask.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Sum of the labelled tokens' losses over `num_items_in_batch`, or over their number."""
        from torch.nn.functional import cross_entropy

        if return_outputs:
            raise NotImplementedError("only the loss is computed")
        targets = inputs["labels"][:, 1:]
        positions = (targets != IGNORED).any(dim=0).nonzero().squeeze(-1)
        logits = model(input_ids=inputs["input_ids"], logits_to_keep=positions, use_cache=False).logits
        targets = targets[:, positions]
        total = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        if num_items_in_batch is None:
            return total / (targets != IGNORED).sum().clamp(min=1)
        loss = total / num_items_in_batch
        # The count is that of all ranks, and data parallelism averages their gradients.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

    def training_step(self, *args: Any, **kwargs: Any) -> "torch.Tensor":
        """One forward and backward pass; `WorkError` if its loss is not finite."""
        loss = super().training_step(*args, **kwargs)
        if not loss.isfinite():
            raise WorkError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: "
                "try a lower train.learning_rate, or model.dtype=float32"
            )
        return loss

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the adapter gets its own card, checkpoints need none."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Asked to decide on the embeddings itself, PEFT looks the base model up on the hub at every checkpoint.
        folder = output_dir or self.args.output_dir
        self.model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            mark_whole(Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}")

"""Each trick in a `lightning.LightningModule`: the training of examples/plain_loop.py, to the bit.

pip install lightning
python -m examples.lightning_module     # installed: runner.examples.lightning_module

`flood` sees the batch of one device. With `accumulate_grad_batches`, or on several devices, keep
the plain loss, and give its mean over the whole update to `Flooding(level).gradients(self,
optimizer, mean)`, first of all in `on_before_optimizer_step`. With precision="16-mixed" add
`not_finite="skip"` to `clip_gradients_`: a loss scaler finds its scale by overflows.
"""

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from tricks import anti_alias, centralize_, clip_gradients_, flood, warm_restarts


class Classifier(LightningModule):
    """A small network with the five tricks."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        )
        anti_alias(self.model)  # the keys of a checkpoint stay

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:  # noqa: ARG002
        """Give back the flooded loss."""
        inputs, targets = batch
        self.loss = F.cross_entropy(self.model(inputs), targets)
        return flood(self.loss, level=2.26)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Change the gradients: here they are accumulated, averaged over devices and unscaled."""
        centralize_(self)
        norm = clip_gradients_(self.parameters(), limit=0.1)  # in place of gradient_clip_val
        rate = optimizer.param_groups[0]["lr"]
        print(
            f"update {self.global_step}  loss {self.loss.item():.3f}  norm {norm.item():.3f}  "
            f"lr {rate:.4f}"
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Give back the optimizer, and a schedule that moves at every update."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        rates = LambdaLR(optimizer, lambda t: warm_restarts(t, T_0=10, T_mult=2, T_up=2))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}


torch.manual_seed(0)
module = Classifier()
inputs, targets = torch.randn(64, 1, 16, 16), torch.randint(10, (64,))
batches = TensorDataset(inputs.expand(30, -1, -1, -1, -1), targets.expand(30, -1))
trainer = Trainer(
    max_epochs=1,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, DataLoader(batches, batch_size=None))
model = module.model

"""The same training as `benchmarks.barest`, by Lightning, with its TensorBoard and a DataLoader.

python -m benchmarks.with_lightning FOLDER [SEED]
"""

import logging
import sys
import warnings

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.barest import BATCH, EPOCHS, digits, resnet8


def main() -> None:
    """Train."""
    warnings.simplefilter("ignore")
    import lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = resnet8()

        def training_step(self, batch: list[Tensor]) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.model(x), y)
            self.log("train/loss", loss)
            return loss

        def _evaluate(self, name: str, batch: list[Tensor]) -> None:
            x, y = batch
            self.log(name, (self.model(x).argmax(1) == y).float().mean())

        def validation_step(self, batch: list[Tensor]) -> None:
            self._evaluate("validation/accuracy", batch)

        def test_step(self, batch: list[Tensor]) -> None:
            self._evaluate("test/accuracy", batch)

        def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[object]]:
            optimizer = torch.optim.SGD(
                self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
            )
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]

    folder, seed = sys.argv[1], int((sys.argv[2:] or ["0"])[0])
    torch.set_num_threads(1)
    lightning.seed_everything(seed, verbose=False)
    train, validation, test = (
        DataLoader(TensorDataset(*split), BATCH, shuffle=number == 0)
        for number, split in enumerate(digits())
    )
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=TensorBoardLogger(folder),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Module()
    trainer.fit(module, train, validation)
    trainer.test(module, test, verbose=False)


if __name__ == "__main__":
    main()

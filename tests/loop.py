"""A plain loop with a chain, as a reader might have it: every hook, and nothing of `runner`."""

import copy

import torch
from torch.nn import functional as F

from tricks import Batch, Chain, Time, derive_seed

CLASSES = 10
PER_EPOCH, UPDATES = 2, 8  # of the training that the loop is the beginning of
KINDS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


def time_of(update):
    return Time(update, PER_EPOCH, UPDATES, seed=0)


def images_of(seed, samples=12, side=16):
    """Images of an update, uint8, and their class ids."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (samples, 3, side, side), generator=generator, dtype=torch.uint8)
    return images, torch.randint(CLASSES, (samples,), generator=generator)


def normalised(images):
    return (images.float() - 127.5) / 74


def batch(update, chain=None, samples=12):
    """The samples of an update, in the order and with the images that the tricks give them."""
    images, targets = images_of(update, samples)
    chain = Chain() if chain is None else chain
    order = chain.order(torch.arange(samples))
    generator = torch.Generator().manual_seed(update)
    places = order + samples * (update % PER_EPOCH)
    images = chain.images(images[order], places, time_of(update), generator)
    return Batch(normalised(images), targets[order], CLASSES)


INPUTS = [batch(seed).inputs for seed in range(PER_EPOCH)]
"""For the statistics of whitening and batch norm."""


class Loop:
    """A plain training loop with a chain.

    Args:
        chain: Tricks, which are copied.
        model: Trained as it is.
        kind: Of `KINDS`.
        size: Of micro-batches.
        scale: Of the loss.
        form: Options of the optimizer.
    """

    def __init__(self, chain, model, kind="sgd", size=None, scale=None, **form):
        self.chain = Chain(*copy.deepcopy(chain))
        self.model = self.chain.model(model).train()
        self.inputs = [each.to(next(model.parameters()).dtype) for each in INPUTS]
        self.chain.initialize(self.model, self.inputs)
        optimizer, options = KINDS[kind]
        optimizer = optimizer(self.model.parameters(), **options, **form)
        self.optimizer = self.chain.optimizer(optimizer, self.model)
        self.size, self.updates = size, 0
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=bool(scale))

    def step(self, whole=None):
        whole = whole or batch(self.updates, self.chain)
        time = time_of(self.updates)
        factor = self.chain.schedule(0.5, time)
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("base", group["lr"]) * factor
        size = self.size or len(whole.targets)
        inputs = whole.inputs.to(next(self.model.parameters()).dtype)

        def compute():
            self.optimizer.zero_grad()
            mean = torch.zeros(())
            parts = zip(inputs.split(size), whole.targets.split(size), strict=True)
            for index, part in enumerate(parts):
                seed = derive_seed(time.seed, "tricks", time.update, index)
                generator = torch.Generator().manual_seed(seed)
                micro = self.chain.batch(Batch(*part, CLASSES), generator)
                outputs = self.model(micro.inputs)
                losses = F.cross_entropy(outputs, micro.targets, reduction="none")
                losses = self.chain.loss(losses, outputs, micro.targets)
                loss = losses.mean() * (len(part[1]) / len(whole.targets))
                self.scaler.scale(loss).backward()
                mean = mean + loss.detach()
            return mean

        mean = self.chain.backward(compute, self.model)
        self.scaler.unscale_(self.optimizer)
        self.chain.gradients(self.model, self.optimizer, mean)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.updates += 1
        self.chain.weights(self.model, time_of(self.updates))

    def after(self, updates):
        """The weights after so many updates."""
        for _ in range(updates):
            self.step()
        return self.model.state_dict()

    @torch.no_grad()
    def answers(self):
        """The logits of some images, by the weights and the views to evaluate with."""
        with self.chain.evaluation(self.model, self.inputs):
            predictor = self.chain.prediction(self.model).eval()
            logits = predictor(self.inputs[0])
            predictor.train()
        return logits

    def state_dict(self):
        parts = {"model": self.model, "optimizer": self.optimizer, "chain": self.chain}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state, updates):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.chain.load_state_dict(state["chain"])
        self.updates = updates

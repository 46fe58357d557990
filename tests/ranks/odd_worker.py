"""One of two ranks with odd networks and wishes; the first prints what was found."""

import json
import sys

import torch
from torch import nn

from runner.device import compute_exactly, find_device
from runner.errors import UserError
from runner.ranks import ALONE, Elsewhere, Passes, joined

PARTS = [torch.tensor([[sign, 2.0, 3.0]]) for sign in (1.0, 2.0, -1.0, -2.0)]
CASES = {"used in the first parts alone": 4, "a rank without parts": 1, "one part more": 3}


class Odd(nn.Module):
    """Uses one layer for some parts alone, and one never."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.always, self.sometimes, self.never = (nn.Linear(3, 3) for _ in range(3))
        self.register_buffer("types", torch.arange(3, dtype=torch.int16))
        self.register_buffer("numbers", torch.ones(3, dtype=torch.complex64))

    def forward(self, inputs):
        """[1, 3] to the same."""
        outputs = self.always(inputs)
        return self.sometimes(outputs) if inputs[0, 0] > 0 else outputs


class Active(nn.BatchNorm1d):
    """A batch norm with an activation of its own, as timm has."""

    def forward(self, input):
        """[N, 3] to the same."""
        return super().forward(input).relu()


def normed():
    """A network with one, whose parts are normalised together."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), Active(3), nn.Linear(3, 3))


def gradients(parts, ranks, model, device, together=False):
    """Pass this rank's parts; give back the loss and the gradients of the whole update."""
    passes, losses = Passes(model.to(device), ranks, together), []
    own = [part.to(device) for part in ranks.deal(parts)]
    for number, part in enumerate(own):
        loss = passes(part, number == len(own) - 1).square().mean()
        loss.backward()
        losses.append(loss.detach())
    (loss,) = passes.sums(losses)  # here a rank without parts gets its gradients
    buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    return {"loss": loss, **buffers, **{name: p.grad for name, p in model.named_parameters()}}


def normed_together(ranks, device):
    """Give back what differs from one process, where batch norms see all ranks' samples."""
    whole = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    two = gradients([*whole.split(4)], ranks, normed(), device, together=True)
    one = gradients([whole], ALONE, normed(), device)
    # the loss of two halves is the sum of their means, not the mean
    halved = {name: value if "running" in name else value / 2 for name, value in two.items()}
    return [name for name in one if not same(halved[name], one[name])]


def drift(ranks, device):
    """Say what becomes of ranks whose models differ, and of what is drawn alike."""
    model = normed().to(device)
    passes, found = Passes(model, ranks), []
    for shift in (0.0, 1e-6 * ranks.rank):
        with torch.no_grad():
            model[0].weight += shift
        try:
            passes.refuse_drift(7)
            found.append("nothing")
        except UserError as error:
            found.append(str(error).partition(" is ")[0])
        except Elsewhere:
            found.append("elsewhere")
    drawn = []
    for alike in (False, True):
        ranks.seed(0, 1, alike)
        drawn.append(len({*ranks.gather(float(torch.rand(())))}))
    ranks.all_know = False
    return [*found, *drawn]


def same(one, other):
    """Whether both are near; no gradient is as good as one of 0."""
    one, other = (torch.zeros(()) if each is None else each.cpu() for each in (one, other))
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def main(device="cpu"):
    """Try each case, and what ranks agree on."""
    device = find_device(device)
    compute_exactly(device, 1, "none" if device.type == "cuda" else "convolutions")
    with joined() as ranks:
        found = {}
        for name, count in CASES.items():
            two, one = (gradients(PARTS[:count], each, Odd(), device) for each in (ranks, ALONE))
            found[name] = [key for key in one if not same(two[key], one[key])]
        found["normed together"] = normed_together(ranks, device)
        agreed = [ranks.agree(wish) for wish in (0, ranks.rank, 0, 0)]
        ranks.agree(1)
        ranks.take_as_done()
        agreed += [ranks.agree(0), ranks.agree(0)]
        everywhere = ranks.gather((found, agreed, drift(ranks, device)))
        if ranks.is_first:
            print(json.dumps(everywhere))


if __name__ == "__main__":
    main(*sys.argv[1:])

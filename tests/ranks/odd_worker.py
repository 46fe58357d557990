"""One of two ranks with networks of which parts are not used; the first prints what was found."""

import json

import torch
from torch import nn

from runner.ranks import ALONE, Passes, joined

PARTS = [torch.tensor([[sign, 2.0, 3.0]]) for sign in (1.0, 2.0, -1.0, -2.0)]
CASES = {"used in the first parts alone": 4, "a rank without parts": 1, "one part more": 3}


class Odd(nn.Module):
    """Uses one layer for some parts alone, and one never."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.always, self.sometimes, self.never = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, inputs):
        """[1, 3] to the same."""
        outputs = self.always(inputs)
        return self.sometimes(outputs) if inputs[0, 0] > 0 else outputs


def gradients(parts, ranks):
    """Pass this rank's parts; give back the loss and the gradients of the whole update."""
    model = Odd()
    passes, losses, own = Passes(model, ranks), [], ranks.deal(parts)
    for number, part in enumerate(own):
        loss = passes(part, number == len(own) - 1).square().mean()
        loss.backward()
        losses.append(loss.detach())
    (loss,) = passes.sums(losses)  # here a rank without parts gets its gradients
    return {"loss": loss, **{name: p.grad for name, p in model.named_parameters()}}


def same(one, other):
    """Whether both are near; no gradient is as good as one of 0."""
    one, other = (torch.zeros(()) if each is None else each for each in (one, other))
    return torch.allclose(one, other)


def main():
    """Try each case, and what ranks agree on."""
    with joined() as ranks:
        found = {}
        for name, count in CASES.items():
            two, one = (gradients(PARTS[:count], each) for each in (ranks, ALONE))
            found[name] = [key for key in one if not same(two[key], one[key])]
        agreed = [ranks.agree(wish) for wish in (0, ranks.rank, 0, 0)]
        ranks.agree(1)
        ranks.take_as_done()
        agreed += [ranks.agree(0), ranks.agree(0)]
        everywhere = ranks.gather((found, agreed))
        if ranks.is_first:
            print(json.dumps(everywhere))


if __name__ == "__main__":
    main()

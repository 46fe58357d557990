"""The ranks of a run: how they meet, exchange values, and agree."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from runner.errors import UserError
from runner.ranks.session import meet
from runner.ranks.words import Lost, Words, in_words, is_broken
from runner.texts import in_one_line
from runner.torchrun import counted
from tricks import derive_seed

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another, which may be reading the data."""
T = TypeVar("T")

NCCL = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "500",
}
"""Where NCCL fails, torch is to drop what waits on the card, and to leave the rest to us.

By default, and as torchrun has it, the process is ended after a minute, and tells nobody why.
"""

ONE_COMMAND = (
    "Start all ranks with one command, on machines with the same software, hardware and data."
)


class Elsewhere(SystemExit):
    """Another rank has failed, and says why."""

    def __init__(self) -> None:
        super().__init__(1)


class Ranks:
    """The ranks of a run, seen from one of them; one process by itself unless they are joined.

    Args:
        rank: The number of this one.
        count: How many there are.
        words: What those that end tell the others.
    """

    def __init__(self, rank: int = 0, count: int = 1, words: Words | None = None) -> None:
        self.rank, self.count, self.words = rank, count, words
        self.all_know = False  # that one has failed, and which
        self._pending: tuple[Tensor, Any] | None = None

    @property
    def is_first(self) -> bool:
        """Whether this one writes and prints."""
        return self.rank == 0

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """Give back the items of this rank: every n-th, where there are n ranks."""
        return items[self.rank :: self.count]

    def merge(self, dealt: Sequence[T]) -> list[T]:
        """Give back the items of all ranks, in the order that they were dealt from."""
        hands = self.gather([*dealt])
        return [hands[i % self.count][i // self.count] for i in range(sum(map(len, hands)))]

    def gather(self, value: T) -> list[T]:
        """Give back the values of all ranks, in order."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with self.talking():
            dist.all_gather_object(found, value)
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        """Give back what the first rank makes."""
        if self.count == 1:
            return make()
        found: list[Any] = [make() if self.is_first else None]
        with self.talking():
            dist.broadcast_object_list(found, src=0)
        value: T = found[0]
        return value

    def together(self, do: Callable[[], T]) -> T:
        """Do something on each rank; where it fails on one, it fails on all.

        Raises:
            Exception: On the first rank where it fails: what it raised.
            Elsewhere: On the others.
        """
        if self.count == 1:
            return do()
        problem, value = None, None
        try:
            value = do()
        except Exception as error:  # as many as there are reasons to fail
            problem = error
        failed = [rank for rank, is_bad in enumerate(self.gather(problem is not None)) if is_bad]
        self.all_know = bool(failed)
        if not failed:
            return value  # type: ignore[return-value]
        if failed[0] != self.rank or problem is None:
            raise Elsewhere
        if isinstance(problem, UserError) and len(failed) < self.count:
            raise type(problem)(f"rank {self.rank}: {problem}") from problem
        raise problem

    def refuse_differences(self, facts: Mapping[str, object], remedy: str = ONE_COMMAND) -> None:
        """Refuse ranks that differ in facts that must be the same.

        Args:
            facts: By name.
            remedy: What to do about it.

        Raises:
            UserError: If they differ, on the first rank.
            Elsewhere: If they differ, on the others.
        """
        everywhere = self.gather({key: str(value) for key, value in facts.items()})
        first = everywhere[0]
        for rank, other in enumerate(everywhere):
            wrong = [k for k in first if other.get(k) != first[k] and k != "variant"]  # follows
            if wrong:
                self.all_know = True
                if not self.is_first:
                    raise Elsewhere
                pairs = (f"{key} is {other.get(key)}, not {first[key]}" for key in wrong[:5])
                raise UserError(f"rank {rank} differs from rank 0: {'; '.join(pairs)}. {remedy}")

    def agree(self, wish: int) -> int:
        """Give back the largest wish of any rank when this was last called; nothing waits for it.

        By itself a process gets its own wish, at once.
        """
        if self.count == 1:
            return wish
        before, self._pending = self._pending, None
        with self.talking():
            own = torch.tensor(wish)
            self._pending = own, dist.all_reduce(own, dist.ReduceOp.MAX, async_op=True)
            if before is None:
                return 0
            before[1].wait()
        return int(before[0])

    def take_as_done(self) -> None:
        """Drop the wishes of the last call: what they were for has been done since."""
        before, self._pending = self._pending, None
        if before is not None:
            with self.talking():
                before[1].wait()

    def seed(self, seed: int, update: int, alike: bool = False) -> None:
        """Seed torch's global generators: in the passes of an update each rank drops out others.

        Args:
            seed: The run's.
            update: Its number.
            alike: Whether all ranks are to draw the same, as when the weights are changed.
        """
        if self.count > 1:
            own = ("ranks",) if alike else ("rank", self.rank)
            torch.manual_seed(derive_seed(seed, *own, update))

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Report a rank that is gone as such.

        Raises:
            Lost: If torch says that it cannot reach another one.
        """
        try:
            yield
        except RuntimeError as error:
            if self.words is None or not is_broken(error):
                raise
            raise self.words.why_lost(error) from error


ALONE = Ranks()


class _Met:
    """Whether this process has joined others."""

    is_true = False


def tell_once(line: str) -> str | int:
    """Give back what to exit with, for a mistake that each rank may find before they meet.

    Returns:
        The line, on the first rank that found a mistake; 1 on the others.
    """
    if counted() == 1 or _Met.is_true:
        return line
    try:
        with joined() as ranks:
            first = ranks.gather(True).index(True)
    except UserError:  # they do not meet
        return line
    return line if ranks.rank == first else 1


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks that this process was started with; by itself there is nothing to join.

    Raises:
        UserError: If the address is taken, or the ranks do not meet.
    """
    if (count := counted()) == 1:
        yield ALONE
        return
    _Met.is_true = True
    ranks = _join(count)
    failed: BaseException | None = None
    try:
        yield ranks
    except BaseException as error:
        failed = error
        raise
    finally:
        if ranks.words and not ranks.all_know:
            ranks.words.leave(failed)
        with suppress(RuntimeError):
            dist.destroy_process_group()  # ends what others wait for
        if ranks.words and isinstance(failed, Exception) and not ranks.all_know:
            if ranks.words.are_told_by_another(failed):
                raise Elsewhere from failed
            if not (ranks.is_first or isinstance(failed, Lost)):
                raise UserError(f"rank {ranks.rank}: {in_words(failed)}") from failed


def _join(count: int) -> Ranks:
    os.environ.update(NCCL)
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
        store = meet(store, rank, count, TIMEOUT)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        rank = os.environ["RANK"]
        remedy = "Give all ranks the same free MASTER_PORT and a MASTER_ADDR that they reach."
        if re.search("EADDRINUSE|address already in use", str(error), re.IGNORECASE):
            remedy = "That port is in use: choose another, as by torchrun --master-port=29511."
        raise UserError(
            f"rank {rank} of {count} cannot meet the others at {address}:{port} "
            f"({in_one_line(error)[:200]}). {remedy}"
        ) from error
    return Ranks(rank, count, Words(rank, count, store))

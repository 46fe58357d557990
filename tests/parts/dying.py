"""A trick that ends its run in one of the ways in which runs end."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import final

from tricks import Trick


@final
@dataclass(frozen=True)
class Dying(Trick):
    """Nothing, or an end at the first update of a run.

    Args:
        how: `nothing`, `raise`, `exit`, `kill` or `hang`.
        mercy: A file; if it is there, it does nothing.
    """

    how: str = "nothing"
    mercy: str = ""

    def gradients(self, *_):
        """End as told."""
        if self.mercy and os.path.exists(self.mercy):
            return
        if self.how == "raise":
            raise RuntimeError("the trick raised")
        if self.how == "exit":
            sys.exit(7)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "hang":
            time.sleep(3600)

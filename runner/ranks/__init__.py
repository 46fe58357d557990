"""A run over several processes, one a device: the ranks that torchrun starts.

The parts of an update are dealt to the ranks and their gradients added up, so that all ranks hold
the same weights, buffers and states of tricks after each update, to the bit. The first rank writes.
"""

from runner.ranks.division import WHOLE as WHOLE
from runner.ranks.division import Parts as Parts
from runner.ranks.division import divide as divide
from runner.ranks.meeting import ALONE as ALONE
from runner.ranks.meeting import Elsewhere as Elsewhere
from runner.ranks.meeting import Ranks as Ranks
from runner.ranks.meeting import joined as joined
from runner.ranks.meeting import tell_once as tell_once
from runner.ranks.passes import Passes as Passes

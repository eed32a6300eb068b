"""Command lines, thin, named and shaped like those of espnet2.bin."""

import functools
import sys

from espnet_rand.errors import say

if sys.argv[:1] == ["-m"]:  # Python is about to run one of them, which may lack what it imports
    sys.excepthook = functools.partial(say, None, sys.excepthook)

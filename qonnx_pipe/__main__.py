"""`python -m qonnx_pipe` is `qpipe`."""

import sys

from qonnx_pipe.cli import main

sys.exit(main())

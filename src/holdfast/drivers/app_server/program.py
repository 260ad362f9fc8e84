"""The turn program's first step: executed by path with ``python -I -S``, which spares it the start of ``site``."""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))

    from holdfast.drivers.app_server.main import main

    status = main(sys.argv)
    # Everything is written and closed: taking the interpreter apart would only keep the end of the turn waiting.
    os._exit(status)

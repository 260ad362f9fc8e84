"""``python -m holdfast.host`` is ``holdfast exec-server`` without the cost of a command-line library."""

import sys

from holdfast.host.entry import main

if __name__ == "__main__":
    sys.exit(main())

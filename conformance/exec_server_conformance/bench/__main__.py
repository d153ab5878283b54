"""``python -m exec_server_conformance.bench``."""

import sys

from exec_server_conformance.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())

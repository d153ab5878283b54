"""``python -m tests.support.mutants [NAME] --listen URL``: our server with one fault, or the list.

The mutant ``none`` has no fault: its messages only pass through where the others change them.
"""

from __future__ import annotations

import sys

from exec_server.cli.server.main import main
from tests.support.mutants.catalogue import MUTANTS
from tests.support.mutants.wire import install

if len(sys.argv) == 1:
    for name, mutant in MUTANTS.items():
        print(f"{name:32} {mutant.fault}")
else:
    if sys.argv[1] == "none":
        install(lambda wire: None)
    else:
        MUTANTS[sys.argv[1]].install()
    sys.exit(main(sys.argv[2:]))

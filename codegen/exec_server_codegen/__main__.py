"""Run ``python -m exec_server_codegen``."""

from __future__ import annotations

import sys

from exec_server_codegen.program import main

sys.exit(main())

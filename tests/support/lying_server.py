"""A server on stdio whose answers a test chooses: ``python lying_server.py ANSWERS``.

ANSWERS is JSON: for each method the result by path, or under ``*`` for every path. Without one a
request is answered with the error message under ``error``.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    answers: dict[str, Any] = json.loads(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request:
            continue
        known = answers.get(request["method"], {})
        path = request["params"].get("path", "*")
        if path in known or "*" in known:
            answer = {"result": known.get(path, known.get("*"))}
        else:
            answer = {"error": {"code": -32603, "message": answers.get("error", "no")}}
        print(json.dumps({"id": request["id"], **answer}), flush=True)


if __name__ == "__main__":
    main()

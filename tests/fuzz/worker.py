"""The process that runs cases: questions in JSON come on standard input, one a line, answers go to a pipe.

{"subject": name, "seed": number} or {"subject": name, "choices": [...]}, with "draw": true for the case alone.
A case may end this process or hang; the parent sees that no answer comes.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
from typing import Any

from tests.fuzz import poison, subjects

MOST_BYTES = 6 << 30
"""Address space of a worker: a case that asks for more gets a MemoryError instead of the machine's memory."""


def main(answers: int) -> None:
    """Answers until the input ends."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    poison.new_arrays()
    with os.fdopen(answers, "w") as out:
        for line in sys.stdin:
            print(json.dumps(_answer(json.loads(line))), file=out, flush=True)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    name = question["subject"]
    source = subjects.source_of(name, question.get("seed", 0), question.get("choices"))
    if question.get("draw"):
        case = subjects.subject(name).draw(source)
        return {"choices": source.choices, "spans": source.spans, "case": repr(case)}
    result = subjects.run(name, source)
    answer: dict[str, Any] = {"tally": result.tally, "bytes": _resident()}
    if result.fault is not None:
        answer |= {"signature": result.fault.signature, "kind": result.fault.kind, "message": str(result.fault)}
        answer |= {"choices": source.choices, "spans": source.spans, "case": repr(result.case)}
    return answer


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main(int(sys.argv[1]))

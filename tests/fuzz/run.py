"""A long fuzz run: `python -m tests.fuzz.run TARGET CASES [SEED]`, guided by coverage where atheris is installed.

Ends with the number of cases; a finding is raised, and the line before says in which file it lies. Without atheris,
mutations of the seeds are drawn at random.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import check, seeds


def main() -> None:
    target, cases = sys.argv[1], int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    start, rng, known = time.monotonic(), random.Random(seed), seeds()[target]
    try:
        import atheris
    except ImportError:
        atheris = None
    done = 0

    def case(data: bytes) -> None:
        nonlocal done
        done += 1
        try:
            check(target, data)
        except BaseException:
            finding = Path(tempfile.mkdtemp(), "finding")
            finding.write_bytes(data)
            print(f"{target}: case {done} is in {finding}", flush=True)
            raise
        if done % 5000 == 0 or done == cases:
            print(f"{target}: {done} cases, {time.monotonic() - start:.0f} s", flush=True)

    for data in known:
        case(data)
    if atheris is None or target in ("packed", "config"):  # torch and timm are too large to be instrumented
        while done < cases:
            case(mutated(rng.choice(known), rng))
    else:
        corpus = Path(tempfile.mkdtemp())
        for i, data in enumerate(known):
            (corpus / str(i)).write_bytes(data)
        modules = ["zoo.registry.card", "zoo.hub.checkpoint", "msgspec", "yaml", "json"]
        for name in modules:
            sys.modules.pop(name, None)
        with atheris.instrument_imports(include=modules):
            import zoo.hub.checkpoint
            import zoo.registry.card  # noqa: F401
        print(f"{target}: atheris", flush=True)
        atheris.Setup([sys.argv[0], f"-atheris_runs={cases - done}", f"-seed={seed + 1}", str(corpus)], case)
        atheris.Fuzz()  # ends the process
    print(f"{target}: no finding", flush=True)


if __name__ == "__main__":
    main()

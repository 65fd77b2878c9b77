"""Lays HAM10000 out in rounds for `zoo teach`: OUT/round1, round2, round3 and OUT/test, one folder a diagnosis.

    python experiments/ham_rounds.py FOLDER OUT

FOLDER has one folder of pictures a diagnosis, one picture a lesion. A fifth of each is the test set, at most 104; of
the rest at most 524 are learned from, as many as the paper's Skin8 protocol takes. A seed of 0 says which ones. Rounds
mix common and rare diagnoses. Files are linked, not copied.
"""

import argparse
from pathlib import Path

import numpy as np

ROUNDS = (("nv", "vasc"), ("mel", "df"), ("bkl", "bcc", "akiec"))
MOST, MOST_TESTED, SHARE = 524, 104, 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for number, names in enumerate(ROUNDS, 1):
        for name in names:
            paths = sorted((args.folder / name).iterdir())
            order = np.random.default_rng((0, *name.encode())).permutation(len(paths))
            tested = min(MOST_TESTED, round(SHARE * len(paths)))
            for part, rows in (("test", order[:tested]), (f"round{number}", order[tested:][:MOST])):
                to = args.out / part / name
                to.mkdir(parents=True, exist_ok=True)
                for row in rows:
                    link = to / paths[row].name
                    link.unlink(missing_ok=True)
                    link.symlink_to(paths[row].absolute())
                print(part, name, len(rows))


if __name__ == "__main__":
    main()

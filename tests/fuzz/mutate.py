"""Bytes changed at random, as fuzzers do it."""

import random

PARTS = [
    b"\0",
    b"\xff",
    b"*",
    b"&",
    b"[",
    b"{",
    b'"',
    b"\\",
    b"../",
    b"/",
    b"C:\\",
    b"-",
    b"1e400",
    b"9" * 40,
    b"\n",
    b": ",
]
PARTS += [b"NaN", b"null", b"true", b"18446744073709551616", b"!!python/", b"---\n", b"\xf0\x9f\x92\xa9"]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: a flipped bit, a part exchanged, repeated, moved or left out."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            return bytes(changed)
        begin = rng.randrange(len(changed))
        end = min(len(changed), begin + rng.choice([1, 1, 2, 8, 40]))
        kind = rng.randrange(6)
        if kind == 0:
            changed[begin] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[begin:end] = rng.choice(PARTS)
        elif kind == 2:
            changed[begin:begin] = rng.choice(PARTS)
        elif kind == 3:
            del changed[begin:end]
        elif kind == 4:
            changed[begin:begin] = changed[begin:end] * rng.choice([1, 2, 50])
        else:
            to = rng.randrange(len(changed))
            changed[to:to] = changed[begin:end]
    return bytes(changed)

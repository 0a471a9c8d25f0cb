"""Random cases that can be repeated: the seed is printed, and taken from the variable SEED."""

import os
import random
import sys


def chance(purpose: str) -> random.Random:
    """Random numbers for a test; others in each run, unless SEED is set."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={seed} for {purpose}", file=sys.stderr)
    return random.Random(seed)

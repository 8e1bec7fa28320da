"""Is a verdict of `confirm` that of the truth? Made-up worlds; laws of three cells; a rung 64 times as large.

    python benchmarks/confirm_verdicts.py --worlds 40

The rung's best lr lies where the world's law has it (scatter included), or a factor of e above. A verdict is right
where GO means that the recommended lr truly loses no more than is tolerated.
"""

import argparse
import math

import numpy as np

from hptransfer.laws import fit
from hptransfer.laws.rung import TOLERANCE, Line, judge, spaced
from hptransfer.laws.synthetic import BASE_PARAMS, BASE_TOKENS, World

PARAMS, TOKENS = BASE_PARAMS * 4**5, BASE_TOKENS * 4**3
WIDTH = 64 * (PARAMS / BASE_PARAMS) ** (1 / 3)


def verdict(seed: int, scheme: str, shift: float) -> tuple[bool, bool]:
    """Whether it says GO, and whether it should."""
    rng = np.random.default_rng(seed)
    world = World.draw(rng, scheme)
    rows = [row for i in range(3) for row in world.line(rng, BASE_PARAMS * 4**i, BASE_TOKENS * 4**i, 6)]
    laws = fit(rows, resamples=0, validate=False)
    batch = math.log(world.batch_tokens)
    at = {"params": PARAMS, "tokens": TOKENS, "width": WIDTH, "depth": WIDTH / 16, "batch_tokens": world.batch_tokens}
    line = Line(at, laws.predict(**at).lr.value)
    optimum = np.array([world.optimum(rng, PARAMS, TOKENS)[0] + shift, batch])
    runs = {lr: world.run(rng, PARAMS, TOKENS, optimum, np.array([math.log(lr), batch])) for lr in spaced(laws, line)}
    losses = {lr: None if run.status == "diverged" else run.loss for lr, run in runs.items()}
    lost = float(world.excess(np.array([math.log(line.lr) - optimum[0], 0.0])))
    return judge(laws, line, losses).go, lost <= TOLERANCE


def main() -> None:
    """Prints a Markdown table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--worlds", type=int, default=40)
    worlds = arguments.parse_args().worlds
    print("| scheme | best lr of the rung | GO, rightly | NO-GO, rightly | GO, wrongly | NO-GO, wrongly |")
    print("|---|---|---|---|---|---|")
    for scheme in ("completep", "sp"):
        for shift, where in ((0.0, "as the law"), (1.0, "e times it")):
            found = [verdict(seed, scheme, shift) for seed in range(worlds)]
            counts = [found.count(pair) for pair in ((True, True), (False, False), (True, False), (False, True))]
            print(f"| {scheme} | {where} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    main()

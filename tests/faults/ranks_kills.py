"""Kills or stops a random rank at a random moment, many times, and resumes each run to its end.

usage: ranks_kills.py UNIGRPO DATA [--kills N] [--stops N] [--ranks N] [--seed N]

Each time the other ranks must be gone within seconds with 75 and a line that names the rank and what it was doing, no
process may be left, no committed step may be lost, and the resumed run must end with the bytes of one left alone.
"""

import argparse
import collections
import os
import random
import re
import shutil
import signal
import time

import ranks_test
from ranks_test import launch_run, ranks_run

SAYS = re.compile(r"rank (\d+) is lost: .* \(step \d+, \w+")


def committed(folder):
    return {path.name for path in (folder / "runs/tiny/checkpoints").glob("step_*")}


def once(runs, number, size, signum, length_s, chance):
    """[problem] of one run that loses a rank; None where it was over before."""
    victim, delay_s = chance.randrange(size), chance.uniform(0.3, length_s)
    folder = runs.fresh(f"{signum}-{number}")
    ranks = ranks_run.start(ranks_test.BINARY, size, "train", "tiny.toml", cwd=folder)
    time.sleep(delay_s)
    if any(rank.poll() is not None for rank in ranks):
        ranks_run.finish(ranks)
        shutil.rmtree(folder)
        return None
    met = (folder / "runs/tiny/ranks.json").exists()
    before = committed(folder)
    os.kill(ranks[victim].pid, signum)
    within_s = ranks_test.WITHIN_S if signum == signal.SIGKILL else ranks_test.STEP_TIMEOUT_S + 6
    problems, errors = runs.ends_of_the_others(ranks, victim, folder, within_s)
    if all(ranks[rank].returncode == 0 for rank in range(size) if rank != victim):
        shutil.rmtree(folder)
        return None  # it had said goodbye
    for rank, text in errors.items():
        said = SAYS.search(text)
        if rank != victim and met and (not said or int(said[1]) != victim):
            problems.append(f"rank {rank} does not name rank {victim}: {text[-300:]}")
    if before and not committed(folder):
        problems.append(f"committed steps are lost: {before}")
    problems += runs.problems_after_resuming(folder, size)
    shutil.rmtree(folder)
    return [f"rank {victim} after {delay_s:.2f} s: {problem}" for problem in problems]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("data")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    ranks_test.BINARY, ranks_test.DATA = os.path.abspath(arguments.binary), os.path.abspath(arguments.data)
    ranks_test.Ranks.setUpClass()
    runs, size = ranks_test.Ranks(), arguments.ranks
    start = time.monotonic()
    runs.reference(size)
    length_s = time.monotonic() - start
    chance = random.Random(arguments.seed)
    outcome = collections.Counter()
    for signum, count in ((signal.SIGKILL, arguments.kills), (signal.SIGSTOP, arguments.stops)):
        number = done = 0
        while done < count:
            number += 1
            problems = once(runs, number, size, signum, length_s, chance)
            if problems is None:
                continue
            done += 1
            for problem in problems:
                print(f"{signal.Signals(signum).name} {done}: {problem}", flush=True)
            outcome[signal.Signals(signum).name, "bad" if problems else "good"] += 1
    ranks_test.Ranks.tearDownClass()
    print(f"{size} ranks, seed {arguments.seed}:",
          ", ".join(f"{name} {how} {count}" for (name, how), count in sorted(outcome.items())))
    raise SystemExit(any(how == "bad" for _, how in outcome))


if __name__ == "__main__":
    main()

"""What happens to one rank ends all of them, within seconds, with a line that names it, and costs no committed step.

usage: ranks_test.py UNIGRPO DATA    UNIGRPO: the binary; DATA: tests/data
"""

import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import ranks_case  # noqa: E402
import tiny_case  # noqa: E402
from ranks_case import STEP_TIMEOUT_S, WITHIN_S, some  # noqa: E402

# Where a rank is lost, and what the others must say of it.
PHASES = {
    "rollout": ("rollout.begin:2", "(step 2, "),
    "denoising": ("rollout.denoising_step:5", "(step "),  # in the evaluation before the first step, where it has a part
    "reward": ("reward.begin:2", "(step 2, reward: gather_bytes of 'rewards'"),
    "scores": ("collective.rewards:3", "(step 2, reward: gather_bytes of 'rewards'"),
    "update": ("update.micro_batch:3", "update: "),
    "backward": ("backward.block_0:3", "update: "),
    "gradients": ("collective.gradients:2", "update: all_reduce of 'gradients'"),
    "evaluation": ("eval.batch:2", ""),
}
OF_RANK_0 = {"save, a part": ("save.write:12", "save"), "save, the manifest": ("save.manifest:2", "save"),
             "save, the commit": ("save.commit:2", "save")}
OF_ANOTHER = {"save": ("collective.checkpoint:3", "save: gather_bytes of 'checkpoint'")}


def places(victim):
    return {**PHASES, **(OF_RANK_0 if victim == 0 else OF_ANOTHER)}


class Ranks(ranks_case.RanksCase):
    def check(self, cases, action, within_s=WITHIN_S, workers=2):
        """cases: (size, victim, fault, what the line says)."""
        for size in {size for size, *_ in cases}:
            self.reference(size)

        def outcome(case):
            size, victim, fault, says = case
            problems, errors, folder = self.lose(size, victim, fault, action, within_s)
            for rank in range(size):
                if rank == victim:
                    continue
                line = next((line for line in errors[rank].splitlines() if f"rank {victim} is lost: " in line), "")
                if not line or says not in line:
                    problems.append(f"rank {rank} does not say '{says}': {errors[rank][-300:]}")
                log = folder / "runs/tiny" / ("log.txt" if rank == 0 else f"logs/rank_{rank}.txt")
                if f"rank {victim} is lost: " not in (log.read_text() if log.exists() else ""):
                    problems.append(f"{log.name} does not name rank {victim}")
                report = folder / f"runs/tiny/hang/rank_{rank}.txt"
                text = report.read_text() if report.exists() else ""
                if "The last calls:" not in text or "The threads:" not in text or "+0x" not in text:
                    problems.append(f"no report of rank {rank}: {text[:300]}")
            return problems + self.problems_after_resuming(folder, size)

        self.in_parallel(outcome, cases, workers)

    @staticmethod
    def one_by_one(size, victims):
        """A case for each place, the victims in turn."""
        cases = [(size, victims[i % len(victims)], *place) for i, place in enumerate(PHASES.values())]
        cases += [(size, 0, *place) for place in OF_RANK_0.values()]
        return cases + [(size, size - 1, *place) for place in OF_ANOTHER.values()]

    def test_killed_of_two(self):
        self.check(some([(2, victim, *place) for victim in (0, 1) for place in places(victim).values()], 2), "kill")

    def test_killed_of_four(self):
        self.check(some(self.one_by_one(4, (2, 0, 3, 1)), 4), "kill")

    def test_crashed(self):
        self.check(some(self.one_by_one(2, (1, 0)), 4), "segv")
        self.check([(4, 3, *PHASES["denoising"]), (4, 0, *PHASES["backward"])], "segv")

    def test_exits(self):
        self.check(some(self.one_by_one(2, (0, 1)), 4), "exit")
        self.check([(4, 1, *PHASES["gradients"]), (4, 2, *OF_ANOTHER["save"])], "exit")

    def test_stopped(self):
        self.check(some(self.one_by_one(2, (1, 0)), 3), "stop", within_s=STEP_TIMEOUT_S + 6, workers=3)

    def test_stopped_of_four(self):
        cases = [(4, 2, *PHASES["update"]), (4, 0, *PHASES["rollout"]), (4, 3, *PHASES["gradients"]),
                 (4, 1, *PHASES["evaluation"]), (4, 0, *OF_RANK_0["save, the manifest"])]
        self.check(some(cases, 3), "stop", within_s=STEP_TIMEOUT_S + 6, workers=3)

    def test_in_the_meeting(self):
        def outcome(case):
            size, victim, fault, action = case
            problems, errors, folder = self.lose(size, victim, fault, action)
            where = r"127.0.0.1:\d+"
            says = rf"rank {victim} of {size} did not come to {where} within 8 s|" \
                   rf"the meeting at {where} ended before .*rank {victim}\b.* was seen there: "
            if victim == 0:
                says = rf"the store at {where}, which rank 0 opens, does not answer within 8 s"
            if fault == "meeting.group":
                says = rf"rank {victim} is lost: (its connection closed|nothing heard of it for .* s) \(step 0, meeting\)" \
                       + (rf"|the meeting at {where}, which rank 0 holds, ended: |{says}" if victim == 0 else "")
            problems += [f"rank {rank} says {errors[rank][-300:]}" for rank in range(size)
                         if rank != victim and not re.search(says, errors[rank])]
            return problems + (["a run folder was made"] if (folder / "runs").exists() else [])

        cases = [(size, victim, fault, action) for size, victim, fault in ((2, 1, "meeting"), (4, 2, "meeting"), (2, 1, "store.get"))
                 for action in ("kill", "segv", "exit", "stop")]
        cases += some([(size, victim, "meeting.group", action) for size, victim in ((2, 0), (4, 2)) for action in ("kill", "segv", "stop", "exit")], 2)
        self.in_parallel(outcome, cases + [(2, 0, "meeting", "kill"), (4, 0, "meeting", "kill"), (2, 0, "meeting", "stop")], workers=6)


if __name__ == "__main__":
    tiny_case.main()

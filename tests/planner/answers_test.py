"""A second opinion on planner answers: judges what `unigrpo selftest --planner FILE --answers OUT` wrote.

usage: answers_test.py UNIGRPO DATA

Written from the definitions in docs/PLANNING.md alone, in another language than the planner and its own checker. Where an
instance is small the optimum is found here by looking at everything; where it is not, rules and stated values are checked
and the goal of the case is held against them. Before that the checker is shown wrong answers, which it must refuse.
"""

import itertools
import json
import math
import pathlib
import subprocess
import sys
import tempfile

FILES = ["choose", "flex", "lengths", "partition", "place", "sim", "tree", "waves", "galvatron"]
SMALL = 400_000  # combinations that are looked at one by one


class Wrong(Exception):
    pass


def require(truth, why):
    if not truth:
        raise Wrong(why)


def near(got, want, rtol):
    return abs(got - want) <= rtol * abs(want) + 1e-9


def goal_reached(case, value):
    expected = case["expected"]
    goal = expected.get("optimum_ms", expected.get("best_known_ms"))
    require(value <= goal * (1 + case.get("rtol", 0)) + 1e-9, f"{value} where {goal} was to be reached")


# ---- choice ----

def choice_cost(given, choice):
    cost = memory = 0
    for i, (layer, s) in enumerate(zip(given["layers"], choice)):
        cost += given["time"][layer][s] + (given["transition"][choice[i - 1]][s] if i else 0)
        memory += given["memory"][layer][s]
    return cost, memory


def check_choose(case, answer):
    given, kinds = case["input"], len(case["input"]["time"][0])
    best = None
    if kinds ** len(given["layers"]) <= SMALL:
        fitting = [cost for cost, memory in (choice_cost(given, c) for c in itertools.product(range(kinds), repeat=len(given["layers"])))
                   if memory <= given["budget"]]
        best = min(fitting, default=math.inf)
        require(answer["feasible"] == (best < math.inf), "feasibility")
    if not answer["feasible"]:
        return
    require(len(answer["choice"]) == len(given["layers"]), "another number of layers")
    cost, memory = choice_cost(given, answer["choice"])
    require(memory <= given["budget"], "over the budget")
    require(cost <= case["expected"]["seconds"] + 1e-6, f"cost {cost}")
    require(best is None or near(cost, best, 1e-9), f"cost {cost}, by looking at all {best}")


# ---- flexible sequences ----

def group_time(given, degree, members):
    comm = given["comm_ms_per_token"][str(degree)]
    return given["beta"] + sum((given["alpha1"] * given["lengths"][j] ** 2 + given["alpha2"] * given["lengths"][j]) / degree
                               + comm * given["lengths"][j] for j in members)


def groups_slowest(given, groups):
    require(sum(g["degree"] for g in groups) <= given["ranks"], "too many ranks")
    for group in groups:
        require(group["sequences"], "an empty group")
        require(sum(given["lengths"][j] for j in group["sequences"]) <= group["degree"] * given["tokens_per_rank"], "over the memory")
    return max(group_time(given, g["degree"], g["sequences"]) for g in groups)


def partitions(items):
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for part in partitions(rest):
        yield [[first], *part]
        for i, group in enumerate(part):
            yield [*part[:i], [first, *group], *part[i + 1:]]


def best_assignment(given):
    degrees = [int(d) for d in given["comm_ms_per_token"]]
    best = math.inf
    for part in partitions(list(range(len(given["lengths"])))):
        for choice in itertools.product(degrees, repeat=len(part)):
            if sum(choice) > given["ranks"]:
                continue
            if any(sum(given["lengths"][j] for j in g) > d * given["tokens_per_rank"] for d, g in zip(choice, part)):
                continue
            best = min(best, max(group_time(given, d, g) for d, g in zip(choice, part)))
    return best


def check_flex(case, answer):
    given = case["input"]
    parts = answer["micro_batches"] if case["op"] == "flex.step" else [answer["groups"]]
    members = sorted(j for groups in parts for g in groups for j in g["sequences"])
    require(members == list(range(len(given["lengths"]))), "every sequence once")
    total = sum(groups_slowest(given, groups) for groups in parts)
    goal_reached(case, total)
    if case["op"] == "flex.assign":
        require(answer["lower_bound_ms"] <= total * (1 + 1e-9), "the bound is above the time")
        if len(given["lengths"]) <= 6:
            require(near(total, best_assignment(given), 1e-9), "not the best of all")


def check_buckets(case, answer):
    lengths, buckets = sorted(case["input"]["lengths"]), case["input"]["buckets"]
    total = [0, *itertools.accumulate(lengths)]
    cost = [0] + [math.inf] * len(lengths)
    for _ in range(buckets):
        cost = [0] + [min(cost[j] + lengths[i - 1] * (i - j) - total[i] + total[j] for j in range(i)) for i in range(1, len(lengths) + 1)]
    require(answer["padding_tokens"] == cost[-1], f"padding {cost[-1]}")


def check_blast(case, answer):
    lengths = sorted(case["input"]["lengths"], reverse=True)
    cost = [0] + [math.inf] * len(lengths)
    total = [0, *itertools.accumulate(lengths)]
    for _ in range(case["input"]["micro_batches"]):
        cost = [0] + [min(max(cost[j], total[i] - total[j]) for j in range(i)) for i in range(1, len(lengths) + 1)]
    require(answer["largest_tokens"] == cost[-1], f"largest sum {cost[-1]}")


def check_lengths(case, answer):
    given, n = case["input"], case["input"]["count"]
    ppm, knots = given["quantiles"]["ppm"], given["quantiles"]["length"]
    lengths, dropped = [], 0
    for i in range(n):
        u = (2 * i + 1) * 10 ** 6
        k = next(k for k in range(len(ppm) - 1) if 2 * n * ppm[k] < u <= 2 * n * ppm[k + 1])
        v = knots[k] + (knots[k + 1] - knots[k]) * (u - 2 * n * ppm[k]) // (2 * n * (ppm[k + 1] - ppm[k]))
        v = max(given["multiple"], -(-v // given["multiple"]) * given["multiple"])
        if v > given["limit"]:
            dropped += 1
        else:
            lengths.append(v)
    want = {"lengths": lengths, "dropped": dropped, "total": sum(lengths), "at_most": [sum(v <= a for v in lengths) for a in given["at"]]}
    require(answer == want, "lengths")


# ---- waves ----

def check_schedule(case, answer):
    given = case["input"]
    ops = {op["name"]: op for op in given["meta_ops"]}
    left = {name: op["layers"] for name, op in ops.items()}
    total = 0
    for wave in answer["waves"]:
        require(len({p["op"] for p in wave}) == len(wave), "an op twice in a wave")
        require(sum(p["devices"] for p in wave) <= given["devices"], "too many devices")
        for piece in wave:
            require(piece["layers"] >= 1, "a piece without layers")
            require(all(left[d] == 0 for d in ops[piece["op"]]["deps"]), "too early")
        total += max(p["layers"] * ops[p["op"]]["times"][str(p["devices"])] for p in wave)
        for piece in wave:
            left[piece["op"]] -= piece["layers"]
    require(all(n == 0 for n in left.values()), "layers do not add up")
    require(near(total, answer["milliseconds"], 1e-9), "another time than stated")
    goal_reached(case, total)
    if math.prod(op["layers"] + 1 for op in ops.values()) <= 64:
        require(near(total, best_schedule(given, ops), 1e-9), "not the best of all")


def best_schedule(given, ops):
    names, known = list(ops), {}

    def best(left):
        if not any(left):
            return 0
        if left in known:
            return known[left]
        choices = []
        for i, name in enumerate(names):
            ready = left[i] and all(left[names.index(d)] == 0 for d in ops[name]["deps"])
            choices.append([(0, 0, 0)] + [(int(n), l, l * t) for n, t in ops[name]["times"].items() for l in range(1, left[i] + 1)] if ready else [(0, 0, 0)])
        least = math.inf
        for wave in itertools.product(*choices):
            if sum(w[0] for w in wave) <= given["devices"] and any(w[1] for w in wave):
                least = min(least, max(w[2] for w in wave) + best(tuple(n - w[1] for n, w in zip(left, wave))))
        known[left] = least
        return least

    return best(tuple(ops[n]["layers"] for n in names))


def check_place(case, answer):
    given = case["input"]
    pieces = {p["piece"]: p for wave in given["waves"] for p in wave}
    weights = {op["name"]: op["weight_mb"] for op in given["meta_ops"]}

    def fullest(start):
        held = [set() for _ in range(given["ranks"])]
        for name, piece in pieces.items():
            for r in range(start[name], start[name] + piece["ranks"]):
                held[r].add(piece["op"])
        return max(sum(weights[op] for op in ops) for ops in held)

    if not answer["feasible"]:
        require(near(answer["least_mb"], case["expected"]["least_mb"], 1e-9), "least memory")
        return
    start, cost = answer["start"], 0
    for wave in given["waves"]:
        ranks = [r for p in wave for r in range(start[p["piece"]], start[p["piece"]] + p["ranks"])]
        require(len(set(ranks)) == len(ranks) and min(ranks) >= 0 and max(ranks) < given["ranks"], "ranks of a wave")
        for piece in wave:
            for flow in piece["inputs"]:
                n1, n2 = pieces[flow["from"]]["ranks"], piece["ranks"]
                for i, j in itertools.product(range(n1), range(n2)):
                    x, y = start[flow["from"]] + i, start[piece["piece"]] + j
                    share = max(0, min((i + 1) / n1, (j + 1) / n2) - max(i / n1, j / n2))
                    price = given["intra_ms_per_mb"] if x // given["island"] == y // given["island"] else given["inter_ms_per_mb"]
                    cost += 0 if x == y else flow["mb"] * share * price
    require(fullest(start) <= given["memory_mb"] + 1e-6, "over the memory")
    require(near(cost, answer["cost_ms"], 1e-6), f"cost {cost}")
    goal_reached(case, cost)


def speed_points(times):
    points = [(0, 0.0)]
    for n, t in sorted((int(n), t) for n, t in times.items()):
        if 1 / t <= points[-1][1]:
            continue
        while len(points) > 1:
            (a, va), (b, vb) = points[-2:]
            if vb >= va + (1 / t - va) * (b - a) / (n - a) - 1e-15:
                break
            points.pop()
        points.append((n, 1 / t))
    return points


def check_continuous(case, answer):
    given, total = case["input"], 0
    for op in given["meta_ops"]:
        points = speed_points({n: t for n, t in op["times"].items() if int(n) <= given["devices"]})
        n = answer["devices"][op["name"]]
        (a, va), (b, vb) = next(((p, q) for p, q in zip(points, points[1:]) if n <= q[0] + 1e-9))
        require(near((va + (vb - va) * (n - a) / (b - a)) * answer["ideal_ms"], op["layers"], 1e-6), "ends at another time")
        total += n
    require(total <= given["devices"] * (1 + 1e-6), "too many devices")
    require(near(answer["ideal_ms"], case["expected"]["ideal_ms"], case["rtol"]), "C*")


# ---- partition, schedules, tree, Galvatron ----

def stage_sums(given, cut):
    ends = [0, *cut, len(given["layers"])]
    stages = []
    for s in range(given["stages"]):
        layers = list(given["layers"][ends[s]:ends[s + 1]])
        require(layers, "an empty stage")
        extra = ([given["embed"]] if s == 0 else []) + ([given["head"]] if s == given["stages"] - 1 else [])
        stages.append({key: sum(x.get(key, 0) for x in layers + extra) for key in ("forward_ms", "backward_ms", "sync_ms", "weights_mb", "activation_mb")}
                      | {"own": sum(x["forward_ms"] + x["backward_ms"] for x in layers)})
    return stages


def stages_mb(given, stages):
    return max(s["weights_mb"] + min(given["micro_batches"], len(stages) - i) * s["activation_mb"] for i, s in enumerate(stages))


def one_f_one_b(forward, backward, p2p, m):
    """Ends of each stage's last backward, by asking for every piece's end when it is needed."""
    stages = len(forward)
    order = []
    for s in range(stages):
        warm = min(stages - 1 - s, m)
        row = [("f", j) for j in range(warm)]
        for j in range(m - warm):
            row += [("f", warm + j), ("b", j)]
        order.append(row + [("b", j) for j in range(m - warm, m)])
    known = {}

    def end(s, at):
        if at < 0:
            return 0
        if (s, at) not in known:
            kind, j = order[s][at]
            clock = end(s, at - 1)
            if kind == "f" and s > 0:
                clock = max(clock, end(s - 1, order[s - 1].index(("f", j))) + p2p[s - 1])
            if kind == "b" and s + 1 < stages:
                clock = max(clock, end(s + 1, order[s + 1].index(("b", j))) + p2p[s])
            known[s, at] = clock + (forward if kind == "f" else backward)[s]
        return known[s, at]

    return [end(s, 2 * m - 1) for s in range(stages)]


def partition_step(given, stages):
    m = given["micro_batches"]
    if given["cost"] == "events":
        ends = one_f_one_b([s["forward_ms"] for s in stages], [s["backward_ms"] for s in stages], [given["p2p_ms"]] * len(stages), m)
        return max(e + s["sync_ms"] for e, s in zip(ends, stages))
    c, w = [s["forward_ms"] + s["backward_ms"] for s in stages], [s["own"] + s["sync_ms"] for s in stages]
    warm, rest = min(len(c) - 1, m - 1) * c[0], sum(c[1:])
    r2 = max(warm / 3, rest / 3) + max(warm * 2 / 3, rest * 2 / 3) + c[0] * max(0, m + 1 - len(c))
    return max(sum(c) + c[-1] * (m - 1), r2) + max(0, max(wi - sum(c[:i + 1]) for i, wi in enumerate(w)))


def check_partition(case, answer):
    given = case["input"]
    cuts = list(itertools.combinations(range(1, len(given["layers"])), given["stages"] - 1))
    all_stages = [stage_sums(given, cut) for cut in cuts]
    fitting = [s for s in all_stages if stages_mb(given, s) <= given["budget_mb"] + 1e-9]
    require(answer["feasible"] == bool(fitting), "feasibility")
    if not fitting:
        require(near(answer["least_mb"], min(stages_mb(given, s) for s in all_stages), 1e-9), "least memory")
        return
    stages = stage_sums(given, answer["boundaries"])
    require(stages_mb(given, stages) <= given["budget_mb"] + 1e-9, "over the budget")
    step = partition_step(given, stages)
    require(near(step, answer["step_ms"], 1e-6), f"step {step}")
    require(near(step, min(partition_step(given, s) for s in fitting), 1e-9), "not the best of all cuts")


def check_pipeline(case, answer):
    given = case["input"]
    m, stages = given["micro_batches"], len(given["forward"])
    if given["schedule"] == "1f1b":
        ends = one_f_one_b(given["forward"], given["backward"], given["p2p"], m)
        require(near(answer["makespan"], max(ends), 1e-9), "makespan")
        require(answer["peak_in_flight"] == [min(stages - i, m) for i in range(stages)], "in flight")
    require(all(near(i, answer["makespan"] - m * (f + b), 1e-6) for i, f, b in zip(answer["idle"], given["forward"], given["backward"])), "idle")
    require(near(answer["makespan"], case["expected"]["makespan"], 1e-9), "makespan expected")


def check_tree(case, answer):
    given, leaves = case["input"], set()
    powers = [2 ** i for i in range(1, given["ranks"].bit_length())]
    pp = 1
    while pp <= min(given["ranks"], given["max_pp"]):
        for count in range(4):
            for kinds in itertools.permutations(("dp", "sdp", "tp"), count):
                if given["prune"] and {"dp", "sdp"} <= set(kinds):
                    continue
                for degrees in itertools.product(powers, repeat=count):
                    if math.prod(degrees) == given["ranks"] // pp and all(k != "tp" or d <= given["max_tp"] for k, d in zip(kinds, degrees)):
                        for recompute in ([False, True] if given["recompute"] else [False]):
                            leaves.add((pp, tuple(zip(kinds, degrees)), recompute))
        pp *= 2
    got = [(leaf["pp"], tuple((x["kind"], x["degree"]) for x in leaf["levels"]), leaf["recompute"]) for leaf in answer["leaves"]]
    require(got == sorted(leaves) and answer["count"] == len(leaves), "leaves")


def check_equal(case, answer):
    def same(got, want):
        if isinstance(want, dict):
            return isinstance(got, dict) and all(k in got and same(got[k], v) for k, v in want.items())
        if isinstance(want, list):
            return len(got) == len(want) and all(map(same, got, want))
        if isinstance(want, float):
            return near(got, want, case.get("rtol", 0))
        return got == want

    require(same(answer, case["expected"]), "not as expected")


CHECKS = {"plan.choose": check_choose, "flex.assign": check_flex, "flex.step": check_flex, "flex.buckets": check_buckets, "flex.blast": check_blast,
          "flex.lengths": check_lengths, "waves.schedule": check_schedule, "waves.place": check_place, "waves.continuous": check_continuous,
          "plan.partition": check_partition, "sim.pipeline": check_pipeline, "plan.tree": check_tree}


def judge(case, answer):
    CHECKS.get(case["op"], check_equal)(case, answer)


def check_self(cases, answers):
    """Each spoiled answer must be refused."""
    spoil = {"plan.choose": lambda a: a["choice"].__setitem__(0, (a["choice"][0] + 1) % 2), "flex.assign": lambda a: a["groups"].pop(),
             "waves.schedule": lambda a: a["waves"].pop(), "plan.partition": lambda a: a.update(step_ms=1.0), "waves.place": lambda a: a.update(cost_ms=1e-3),
             "plan.tree": lambda a: a["leaves"].pop(), "flex.buckets": lambda a: a.update(padding_tokens=0), "sim.pipeline": lambda a: a.update(makespan=1.0)}
    for op, change in spoil.items():
        case = next(c for c in cases if c["op"] == op and c["expected"].get("feasible", True))
        answer = json.loads(json.dumps(answers[case["name"]]))
        change(answer)
        try:
            judge(case, answer)
        except (Wrong, IndexError):
            continue
        raise SystemExit(f"the test itself is broken: a spoiled answer to {case['name']} passed")


def main():
    unigrpo, data = sys.argv[1], pathlib.Path(sys.argv[2]) / "planner"
    cases, answers, failed = [], {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            out = pathlib.Path(folder, name + ".json")
            subprocess.run([unigrpo, "selftest", "--planner", data / (name + ".json"), "--answers", out], check=True, stdout=subprocess.DEVNULL)
            cases += json.loads((data / (name + ".json")).read_text(encoding="utf-8"))["cases"]
            document = json.loads(out.read_text(encoding="utf-8"))
            assert document["format"] == "unigrpo-planner-answers/1"
            answers.update((entry["name"], entry["answer"]) for entry in document["answers"])
    check_self(cases, answers)
    for case in cases:
        try:
            judge(case, answers[case["name"]])
        except Wrong as wrong:
            failed.append(f"{case['name']} ({case['op']}): {wrong}")
    print("\n".join([*failed, f"{len(cases) - len(failed)} passed, {len(failed)} failed"]))
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

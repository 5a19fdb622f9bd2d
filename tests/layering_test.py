"""Reads the #include lines of src/ and kernels/ and checks which way they point: docs/ARCHITECTURE.md has the table.

usage: layering_test.py ROOT

Fails with one line a broken rule: file, line, what it includes and what is allowed. Before that it
checks itself on planted violations.
"""

import pathlib
import re
import sys
import tempfile

# A folder may include itself and exactly what its row in docs/ARCHITECTURE.md names; read by main().
ARROWS = {}
# Folders of the table's half without LibTorch.
WITHOUT_TORCH = []

# Single files that may point where their folder may not.
EXTRA = {
    "worker/main.cpp": {"reward/plugin/library.h", "reward/plugin/protocol.h"},
}

# What the worker links must see no more than the worker may: neither OpenCV nor LibTorch comes along.
WORKER_FILES = {f"reward/plugin/{name}" for name in ("judge.h", "judge.cpp", "library.h", "library.cpp", "protocol.h", "protocol.cpp")}
WORKER_FILES |= {"data/segment_json.h", "data/segment_json.cpp", "data/segment_kind.h"}

# A config.h includes the standard library, base/enum_names.h, and these: recipes stay light, no arrow hides in one.
CONFIG_EXTRA = {
    "rollout/config.h": {"data/segment_kind.h", "flow/config.h"},
    "grpo/config.h": {"flow/config.h"},
    "recipe/config.h": {"data/segment_kind.h", "reward/config.h"},
    "reward/config.h": {"reward/builtin/config.h", "reward/http/config.h", "reward/plugin/config.h"},
}

# Headers that are as light as a config.h.
LIGHT = {"data/segment_kind.h"}

# Third party (start of the header's name) -> where it is seen (starts of paths), and whether headers may show it.
THIRD_PARTY = [
    ("toml++/", ["recipe/"], False),
    ("CLI/", ["cli/"], False),
    ("spdlog/", ["base/log.cpp"], False),
    ("sentencepiece", ["data/"], False),
    ("pcre2", ["data/", "reward/"], False),
    ("utf8proc", ["base/text.cpp", "data/", "scorers/"], False),
    ("openssl/", ["base/sha256.cpp"], False),
    ("xxhash", ["policy/"], False),
    ("tesseract/", ["reward/"], False),
    ("libav", ["media/"], False),
    ("libsw", ["media/"], False),
    ("opencv2/", ["io/", "data/", "reward/"], False),
    ("curl/", ["io/http_client.cpp"], False),
    ("coin/", ["planner/milp.cpp"], False),
    ("nlohmann/json_fwd.hpp", [""], True),
    ("nlohmann/", [""], False),
    ("torch/csrc/distributed/", ["parallel/transport.cpp"], False),
    ("gloo/", ["parallel/gloo_shim/"], True),
    ("nccl", ["parallel/transport.cpp"], False),
    ("cudnn", ["kernels/"], True),
]
OPENCV_MODULES = {"core", "imgproc", "imgcodecs"}
# Never: it costs 30 s a file, where ATen/ATen.h is precompiled.
BANNED = {"torch/torch.h"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def read_arrows(document):
    """The table of folders: what each may include, and which belong to the half without LibTorch."""
    arrows, light, torch = {}, [], False
    for line in document.read_text(encoding="utf-8").splitlines():
        torch = torch or line.startswith("| *with LibTorch*")
        row = re.match(r"\| `(?:src/)?(\w+)` \|.*\| ([a-z ]*)\|$", line)
        if row:
            arrows[row.group(1)] = set(row.group(2).split())
            light += [] if torch else [row.group(1) + "/"]
    unknown = set().union(*arrows.values()) - set(arrows) if arrows else {"all"}
    if unknown:
        raise SystemExit(f"{document}: the table of folders has no row of {', '.join(sorted(unknown))}")
    return arrows, light


def missing_folders(root):
    """Yields a sentence for every row of the table whose folder is not there."""
    for folder in ARROWS:
        if not (root / folder if folder == "kernels" else root / "src" / folder).is_dir():
            yield f"docs/ARCHITECTURE.md: the table has a row of {folder}, which is not there"


def broken_rules(root):
    """Yields a sentence for every include that breaks a rule."""
    places = [(root / "src", ""), (root / "kernels", "kernels/")]
    for base, prefix in places:
        for path in sorted(base.rglob("*")):
            if path.suffix in (".h", ".hpp", ".cpp", ".cu", ".cuh"):
                name = prefix + path.relative_to(base).as_posix()  # "io/json.h", "kernels/sde_step.cpp"
                yield from broken_rules_of(path, name)


def broken_rules_of(path, name):
    folder = name.split("/")[0]
    if folder not in ARROWS:
        yield f"{name}: folder '{folder}' is not in the table of docs/ARCHITECTURE.md"
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quoted, header = match.group(1) == '"', match.group(2)
        reason = why_not_ours(folder, name, header) if quoted else why_not_third_party(name, header)
        if reason:
            yield f"{name}:{number}: includes {header}: {reason}"


def why_not_ours(folder, name, header):
    target = header.split("/")[0]
    if "/" not in header:
        # Generated headers have no folder.
        return "" if header.startswith("unigrpo_") else "our headers are written from src/, as folder/file.h"
    if target == "unigrpo":  # the plugin SDK
        return "" if name.startswith(("reward/plugin/", "worker/")) else "the SDK is for reward/plugin and worker"
    if target not in ARROWS:
        return f"there is no folder '{target}'"
    if name in WORKER_FILES and target != "base" and header not in WORKER_FILES:
        return "the worker links this file, which may include only base and its like"
    if name.endswith("/config.h"):
        allowed = CONFIG_EXTRA.get(name, set()) | {"base/enum_names.h"}
        return "" if header in allowed else f"a config.h may include only {', '.join(sorted(allowed))}"
    light = header in (f"{target}/config.h", f"{target}/rules.h") or header in LIGHT
    if name.endswith(("/rules.h", "/rules.cpp")):
        ours = target == "base" or light and (target == folder or target in ARROWS[folder])
        return "" if ours else "rules may include only base, and config.h and rules.h of folders below"
    if target == folder or target in ARROWS[folder] or header in EXTRA.get(name, ()):
        return ""
    if folder == "recipe" and light:
        return ""
    return f"{folder} may include only {' '.join(sorted(ARROWS[folder])) or 'itself'}"


def why_not_third_party(name, header):
    is_header = name.endswith((".h", ".hpp", ".cuh"))
    if header in BANNED:
        return "costs 30 s a file; take what is needed from ATen/ or torch/csrc/"
    if name.endswith("/config.h") and ("/" in header or header.endswith(".h")):
        return "a config.h includes the standard library only"
    if header.startswith(("torch/", "ATen/", "c10/")) and name.startswith(tuple(WITHOUT_TORCH)) or (
            name.endswith(("/rules.h", "/rules.cpp")) and "/" in header and header != "fmt/format.h"):
        return "this folder belongs to the half without LibTorch"
    if name.startswith("kernels/") and "/" in header and not header.startswith(
            ("torch/", "ATen/", "c10/", "cub/", "cuda/", "sys/")):
        return "kernels need LibTorch alone"
    if header.startswith("opencv2/") and re.split(r"[/.]", header)[1] not in OPENCV_MODULES:
        return f"of OpenCV only {', '.join(sorted(OPENCV_MODULES))}"
    for start, places, in_headers in THIRD_PARTY:
        if header.startswith(start):
            if not name.startswith(tuple(places)):
                return f"seen only in {', '.join(places)}"
            return "not in a header" if is_header and not in_headers else ""
    return ""


def check_self():
    """Each planted line must be found, each allowed line must pass."""
    planted = {
        ("src/io/a.cpp", '#include "data/prompt.h"'): "io may include only base",
        ("src/base/a.h", '#include "io/json.h"'): "base may include only itself",
        ("src/reward/a.cpp", '#include "rollout/trajectory.h"'): "reward may include only",
        ("src/recipe/a.cpp", '#include "grpo/advantages.h"'): "recipe may include only base",
        ("src/grpo/config.h", '#include "base/error.h"'): "a config.h may include only",
        ("src/data/config.h", "#include <nlohmann/json.hpp>"): "a config.h includes the standard library",
        ("src/train/a.cpp", "#include <toml++/toml.h>"): "seen only in recipe/",
        ("src/recipe/a.h", "#include <toml++/toml.h>"): "not in a header",
        ("src/base/text.cpp", "#include <spdlog/spdlog.h>"): "seen only in base/log.cpp",
        ("src/data/a.cpp", "  #  include <ATen/ATen.h>"): "the half without LibTorch",
        ("src/io/b.cpp", "#include <opencv2/dnn.hpp>"): "of OpenCV only",
        ("src/data/b.cpp", "#include <libavformat/avformat.h>"): "seen only in media/",
        ("src/media/a.h", "#include <libswscale/swscale.h>"): "not in a header",
        ("src/nn/a.cpp", '#include "linear.h"'): "written from src/",
        ("src/plan/a.cpp", ""): "not in the table",
        ("src/parallel/comm.cpp", "#include <torch/csrc/distributed/c10d/Store.hpp>"): "seen only in parallel/transport.cpp",
        ("src/parallel/transport.h", "#include <torch/csrc/distributed/c10d/Store.hpp>"): "seen only in parallel/transport.cpp",
        ("kernels/a.cpp", '#include "tensor/shape.h"'): "kernels may include only itself",
        ("src/nn/b.cpp", "#include <torch/torch.h>"): "costs 30 s",
        ("src/worker/main.cpp", '#include "reward/rewarder.h"'): "worker may include only base",
        ("src/reward/plugin/library.cpp", '#include "data/sample.h"'): "the worker links this file",
        ("src/reward/rewarder.cpp", '#include "unigrpo/reward_plugin.h"'): "the SDK is for",
        ("src/worker/main.cpp", '#include "reward/plugin/library.h"'): "",
        ("src/reward/plugin/library.cpp", '#include "unigrpo/reward_plugin.h"'): "",
        ("src/recipe/b.h", '#include "grpo/config.h"'): "",
        ("src/rollout/config.h", '#include "flow/config.h"'): "",
        ("src/recipe/c.h", '#include "grpo/rules.h"'): "",
        ("src/grpo/rules.cpp", '#include "rollout/rules.h"'): "",
        ("src/grpo/rules.h", '#include "grpo/pack.h"'): "rules may include only",
        ("src/flow/rules.cpp", "#include <ATen/ATen.h>"): "the half without LibTorch",
        ("src/io/c.cpp", "#include <opencv2/imgcodecs.hpp>"): "",
        ("src/grpo/a.cpp", '#include "reward/score.h"'): "",
        ("src/monitor/a.h", "#include <nlohmann/json_fwd.hpp>"): "",
        ("kernels/b.cpp", '#include "kernels/a.h"'): "",
    }
    for (name, line), expected in planted.items():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True)
            path.write_text(f"// head\n{line}\n", encoding="utf-8")
            found = list(broken_rules(pathlib.Path(folder)))
        if expected == "" and found or expected and not (len(found) == 1 and expected in found[0]):
            raise SystemExit(f"the test itself is broken: '{name}' with '{line}' gave {found}, not '{expected}'")


def check_table():
    """A table with all its rows is read; one that names a folder without a row is refused."""
    table = "| `src/base` | ends | |\n| *with LibTorch* | | |\n| `kernels` | operations | base |\n"
    with tempfile.TemporaryDirectory() as folder:
        document = pathlib.Path(folder, "table.md")
        document.write_text(table, encoding="utf-8")
        if read_arrows(document) != ({"base": set(), "kernels": {"base"}}, ["base/"]):
            raise SystemExit(f"the test itself is broken: the table gave {read_arrows(document)}")
        document.write_text(table.replace("| ends | |", "| ends | io |"), encoding="utf-8")
        try:
            read_arrows(document)
        except SystemExit as refused:
            if "no row of io" in str(refused):
                return
        raise SystemExit("the test itself is broken: a table without a row was taken")


def main():
    root = pathlib.Path(sys.argv[1])
    arrows, light = read_arrows(root / "docs" / "ARCHITECTURE.md")
    ARROWS.update(arrows)
    WITHOUT_TORCH.extend(light)
    check_table()
    check_self()
    if not (root / "src" / "base").is_dir():
        raise SystemExit(f"{root}: has no src/base")
    found = [*missing_folders(root), *broken_rules(root)]
    for line in found:
        print(line)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()

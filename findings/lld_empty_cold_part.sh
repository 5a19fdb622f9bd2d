#!/usr/bin/env bash
# LLD 22.1.8 (as `zig ld.lld` of PyPI's ziglang 0.17.1; the same with Debian's LLD 14.0.6 and 16.0.6) linking objects of
# g++ 12.2.0 (Debian 12)
#
# g++ -O2 gives the destructor of a std::variant that holds itself (a tree: JSON, TOML, a recipe) a `.cold` part without
# instructions, and that part an unwind entry of length 0. The next function in the section begins at the same address.
# Of two unwind entries at one address LLD's .eh_frame_hdr keeps one, and keeps the empty one: an exception that passes
# through that function finds no entry and ends the program by std::terminate, although main catches it. Which function
# it is changes with the order of objects, so the fault comes and goes. GNU ld and gold link the same objects rightly.
# We link with GNU ld for this.
#
# Seen:
#   bfd  caught: refused
#   lld  terminate called after throwing an instance of 'std::runtime_error'
#
# Needs g++ 12, binutils, python3 with venv, and the network: a download of about 100 MB. Exit code 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet ziglang==0.17.1
mkdir lld
printf '#!/bin/sh\nexec "%s/venv/bin/python" -m ziglang ld.lld "$@"\n' "$folder" > lld/ld.lld
chmod +x lld/ld.lld

cat > tree.cpp <<'CPP'
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>
struct Node;
struct Entry;
struct Date { int year, month, day; };
using Value = std::variant<bool, long, double, std::string, std::vector<Node>, std::vector<Entry>, Date>;
struct Node { Value value; };
struct Entry { std::string key; Node node; };
void drop(Node& node) { node.~Node(); }
[[gnu::cold]] void refuse() { throw std::runtime_error("refused"); }
CPP
cat > main.cpp <<'CPP'
#include <cstdio>
#include <stdexcept>
void refuse();
int main() {
  try {
    refuse();
  } catch (const std::exception& error) {
    std::printf("caught: %s\n", error.what());
    return 0;
  }
}
CPP
g++-12 -std=c++20 -O2 -c tree.cpp main.cpp
g++-12 -fuse-ld=bfd tree.o main.o -o with_bfd
g++-12 -B"$folder/lld" -fuse-ld=lld tree.o main.o -o with_lld
ulimit -c 0
with_bfd=$(./with_bfd 2>&1) || true
with_lld=$( (./with_lld) 2>&1) || true
echo "bfd  $with_bfd"
echo "lld  ${with_lld%%$'\n'*}"
[[ $with_bfd == "caught: refused" && $with_lld == "terminate called after throwing an instance of 'std::runtime_error'"* ]]

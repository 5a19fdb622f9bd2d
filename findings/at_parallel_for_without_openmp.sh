#!/usr/bin/env bash
# LibTorch 2.11.0 (the `torch` wheel of PyPI, Linux x86-64, Python 3.10 to 3.14), g++ 12.2
#
# at::parallel_for is a template in a header, and it is parallel only where the macro _OPENMP is defined when *your* file
# is compiled. A program compiled without -fopenmp calls it, links, and runs the whole range on the calling thread, with
# no warning from compiler, linker or library. at::get_num_threads() says 2 all the while, since libtorch itself was
# built with OpenMP and its own operations do run on that many threads. (ATen/Parallel.h includes ATen/ParallelOpenMP.h,
# which defines INTRA_OP_PARALLEL under #ifdef _OPENMP.) Neither torch's headers nor its CMake package ask for the flag.
#
# Seen:
#   without -fopenmp: at::get_num_threads() 2, threads that ran: 1
#   with -fopenmp:    at::get_num_threads() 2, threads that ran: 2
#
# Needs python3 with venv, g++, 3 GB of disk, and the network: a download of about 540 MB. Exit code 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
# libtorch_cpu.so of this wheel links two small libraries of CUDA's; it needs no GPU.
venv/bin/pip install --quiet --no-deps torch==2.11.0 nvidia-cuda-cupti==13.0.85 nvidia-cuda-runtime==13.0.96
packages=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')

cat > count.cpp <<'CPP'
#include <ATen/Parallel.h>

#include <cstdio>
#include <mutex>
#include <set>
#include <thread>

int main() {
  at::set_num_threads(2);
  std::mutex mutex;
  std::set<std::thread::id> ran;
  at::parallel_for(0, 64, 1, [&](int64_t, int64_t) {
    const std::lock_guard lock(mutex);
    ran.insert(std::this_thread::get_id());
  });
  std::printf("at::get_num_threads() %d, threads that ran: %zu\n", at::get_num_threads(), ran.size());
}
CPP

threads() {  # flags of the compiler
  g++ -std=c++17 -O2 -Wall -Wextra "$@" -isystem "$packages/torch/include" count.cpp -o count -L"$packages/torch/lib" \
    -Wl,-rpath,"$packages/torch/lib:$packages/nvidia/cu13/lib" -Wl,-rpath-link,"$packages/nvidia/cu13/lib" -ltorch_cpu -lc10
  ./count
}
without=$(threads)
with=$(threads -fopenmp)
echo "without -fopenmp: $without"
echo "with -fopenmp:    $with"
[[ $without == "at::get_num_threads() 2, threads that ran: 1" && $with == "at::get_num_threads() 2, threads that ran: 2" ]]

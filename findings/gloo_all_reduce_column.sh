#!/usr/bin/env bash
# PyTorch 2.11.0 (the `torch` wheel of PyPI, Linux x86-64), torch.distributed with the gloo backend
#
# all_reduce and broadcast of a tensor that is not contiguous, such as a column, neither refuse it nor work on its
# elements: they take as many elements as it has in a row of the storage, from its first one on. The column keeps most of
# its old values, and neighbours that nobody named are summed or overwritten, without a word. (The NCCL backend refuses
# such tensors.) Whoever reduces a slice in place, a statistic's column or a transposed weight, meets it. Our own calls
# refuse what is not contiguous.
#
# Seen, on rank 1 of 2; a = [[0, 1], [2, 3], [4, 5]] on both ranks, b the same plus 100 on rank 1:
#   all_reduce(a[:, 0])        [[0, 2], [4, 3], [4, 5]]          not [[0, 1], [4, 3], [8, 5]]
#   broadcast(b[:, 0], src=0)  [[0, 1], [2, 103], [104, 105]]    not [[0, 101], [2, 103], [4, 105]]
#
# Needs python3 with venv, 3 GB of disk, and the network: a download of about 540 MB. Exit code 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet torch==2.11.0 numpy==2.4.6
cat > column.py <<'PY'
import sys

import torch
import torch.distributed as dist

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
a = torch.arange(6.0).reshape(3, 2)
dist.all_reduce(a[:, 0])
b = torch.arange(6.0).reshape(3, 2) + 100 * rank
dist.broadcast(b[:, 0], src=0)
dist.destroy_process_group()
if rank == 1:
    print("all_reduce(a[:, 0])       ", a.int().tolist())
    print("broadcast(b[:, 0], src=0) ", b.int().tolist())
    raise SystemExit(a.tolist() != [[0, 2], [4, 3], [4, 5]] or b.tolist() != [[0, 1], [2, 103], [104, 105]])
PY
venv/bin/python column.py 0 "$folder/store" &
venv/bin/python column.py 1 "$folder/store"
wait

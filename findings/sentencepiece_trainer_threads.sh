#!/usr/bin/env bash
# sentencepiece 0.2.0 (PyPI)
#
# SentencePieceTrainer (unigram, its default) makes another model from the same sentences with another `num_threads`:
# each thread sums expected counts of its own share, the shares are added in float, and the scores differ in their last
# digits. With one number of threads training repeats exactly. The default is 16 whatever the machine has, so that cores
# alone change nothing; whoever sets it to "all cores" has a tokenizer that depends on the machine. Besides, the model
# file holds the path of the input: the same sentences in another folder give the same pieces in a file with another
# SHA-256.
#
# Seen:
#   trained twice:     files 2a1403e5029a 2a1403e5029a  pieces f764f531d0f9 f764f531d0f9
#   in another folder: file  d7ce0cbfd81e  pieces f764f531d0f9
#    1 thread(s): pieces d9206cb491ac
#    2 thread(s): pieces 222f9ffd993a
#    3 thread(s): pieces 1a05b223abc7
#   16 thread(s): pieces f764f531d0f9
#
# Needs python3 with venv, and the network: a download of about 2 MB. Exit code 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet sentencepiece==0.2.0
venv/bin/python - <<'PY'
import hashlib
import pathlib
import sys

import sentencepiece

NUMBERS, COLORS = "one two three four five six".split(), "red green blue yellow purple".split()
SHAPES = "circle square star triangle".split()
LINES = [f"{number} {color} {shape}s" for number in NUMBERS for color in COLORS for shape in SHAPES]


def train(folder, **options):
    """The file's hash, and that of its pieces with their scores."""
    pathlib.Path(folder).mkdir(exist_ok=True)
    pathlib.Path(folder, "lines.txt").write_text("\n".join(LINES) + "\n")
    sentencepiece.SentencePieceTrainer.train(input=f"{folder}/lines.txt", model_prefix=f"{folder}/m", vocab_size=32,
                                             minloglevel=2, **options)
    model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/m.model")
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    hashes = (pathlib.Path(folder, "m.model").read_bytes(), repr(pieces).encode())
    return [hashlib.sha256(data).hexdigest()[:12] for data in hashes]


same = [train("a"), train("a")]
elsewhere = train("b")
threads = {number: train("a", num_threads=number)[1] for number in (1, 2, 3, 16)}
print("trained twice:     files", *(one[0] for one in same), " pieces", *(one[1] for one in same))
print("in another folder: file ", elsewhere[0], " pieces", elsewhere[1])
for number, pieces in threads.items():
    print(f"{number:2} thread(s): pieces {pieces}")
sys.exit(0 if same[0] == same[1] and elsewhere[1] == same[0][1] and elsewhere[0] != same[0][0]
         and len(set(threads.values())) > 1 else 1)
PY

"""Tests whose runs lie in folders that come and go with their class."""

import os
import pathlib
import re
import sys
import tempfile
import unittest

import tiny_run


class TinyCase(unittest.TestCase):
    """`fresh` folders hold tiny.toml and prompts.jsonl."""

    binary = data = ""  # UNIGRPO and DATA of the command line
    num_steps, image_size, extra = 4, 64, ""  # of the recipe

    @classmethod
    def setUpClass(cls):
        cls.holder = tempfile.TemporaryDirectory(prefix="unigrpo-test-")

    @classmethod
    def tearDownClass(cls):
        cls.holder.cleanup()

    @classmethod
    def fresh(cls, name):
        folder = pathlib.Path(cls.holder.name) / re.sub(r"\W+", "-", str(name))
        folder.mkdir()
        tiny_run.write_inputs(folder, cls.data, num_steps=cls.num_steps, extra=cls.extra, image_size=cls.image_size)
        return folder


def main():
    """usage: X_test.py UNIGRPO DATA [TEST ...]    UNIGRPO: the binary; DATA: tests/data"""
    TinyCase.binary, TinyCase.data = map(os.path.abspath, sys.argv[1:3])
    os.environ.pop("UNIGRPO_FAULT", None)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=1)

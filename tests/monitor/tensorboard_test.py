"""Reads a folder of event files with TensorBoard's own reader.

tensorboard_sink_test.cpp wrote it: steps 0..9, then a run resumed at 6 that wrote 6..11 anew.
"""
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(sys.argv[1])
events.Reload()
assert events.Tags()["scalars"] == ["reward/mean", "text/kl"], events.Tags()

rewards = [(event.step, event.value) for event in events.Scalars("reward/mean")]
expected = [(step, float(step)) for step in range(6)] + [(step, 100.0 + step) for step in range(6, 12)]
assert rewards == expected, rewards

kl = [(event.step, event.value) for event in events.Scalars("text/kl")]
assert kl == [(step, 0.5) for step in range(6)], kl

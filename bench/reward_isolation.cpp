// What a process of its own costs a reward: the same plugin in a worker process and in this one, over N images a call.
//
//   build/bin/bench_reward_isolation PLUGIN.so [images] [side] [repeats]
//
// Calls of both kinds take turns, so that the machine's load hits both alike. The plugin's own work is in both.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "reward/plugin/plugin_reward.h"

namespace {

using namespace unigrpo;

std::vector<data::Sample> samples_with_images(int count, int side) {
  std::vector<data::Sample> samples(static_cast<size_t>(count));
  for (int n = 0; n < count; ++n) {
    data::Sample& sample = samples[static_cast<size_t>(n)];
    sample.id = fmt::format("{}/0", n);
    sample.prompt = "a red circle";
    sample.segments.push_back({.text = "one red circle in the middle", .num_tokens = 8, .image = {}});
    data::SampleSegment& segment = sample.segments.emplace_back();
    segment.kind = data::SegmentKind::image;
    segment.image = {side, side, std::vector<uint8_t>(static_cast<size_t>(3 * side * side))};
    for (size_t i = 0; i < segment.image.pixels.size(); ++i) segment.image.pixels[i] = static_cast<uint8_t>(i * 7 + n);
  }
  return samples;
}

double ms_per_image(reward::PluginReward& plugin, const std::vector<data::Sample>& samples) {
  const Stopwatch watch;
  const auto scores = plugin.score(samples);
  for (const reward::Score& score : scores) {
    if (!score.value) throw RuntimeFailure("no score: {}", score.reason);
  }
  return watch.seconds() * 1e3 / static_cast<double>(samples.size());
}

double at(std::vector<double> values, double quantile) {
  std::ranges::sort(values);
  return values[static_cast<size_t>(quantile * static_cast<double>(values.size() - 1))];
}

void print_row(const char* name, const std::vector<double>& values) {
  std::printf("%-12s %12.4f %12.4f %12.4f\n", name, at(values, 0), at(values, 0.5), at(values, 0.9));
}

int run(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_reward_isolation PLUGIN.so [images] [side] [repeats]\n");
    return 2;
  }
  const auto number = [&](int index, int fallback) { return argc > index ? std::atoi(argv[index]) : fallback; };
  const int images = number(2, 64), side = number(3, 512), repeats = number(4, 31);
  const std::vector<data::Sample> samples = samples_with_images(images, side);
  reward::PluginConfig config;
  config.path = argv[1];
  reward::PluginReward isolated("plugin", config);
  config.isolate = reward::Isolation::none;
  reward::PluginReward inside("plugin", config);

  std::vector<double> process, none, difference;
  for (int i = 0; i <= repeats; ++i) {
    const double outer = ms_per_image(isolated, samples), inner = ms_per_image(inside, samples);
    if (i == 0) continue;  // memory is fetched, libraries are loaded
    process.push_back(outer);
    none.push_back(inner);
    difference.push_back(outer - inner);
  }
  std::printf("%d images of %dx%d, batches of %ld, %d repeats; ms an image\n", images, side, side,
              static_cast<long>(isolated.description().batch_size), repeats);
  std::printf("%-12s %12s %12s %12s\n", "isolate", "min", "median", "p90");
  print_row("process", process);
  print_row("none", none);
  print_row("overhead", difference);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_reward_isolation: %s\n", error.what());
    return 1;
  }
}

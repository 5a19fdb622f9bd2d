#include "cli/measure.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "cli/model_commands.h"
#include "cli/profile.h"
#include "cli/ranks.h"
#include "parallel/comm.h"

namespace unigrpo::cli {
namespace {

using nlohmann::json;

void tell(const ProfileOptions& options, json about, const Samples& samples) {
  about["threads"] = at::get_num_threads();
  about["commit"] = this_build().commit;
  about["samples_ms"] = samples.ms;
  about["noisy"] = samples.noisy;
  if (!samples.noisy.empty()) {
    fmt::print("{} of {} times vary by more than a tenth (`noisy` in {})\n", samples.noisy.size(), samples.ms.size(),
               about_file(options));
  }
  tell_profile(options, /*measured=*/true, std::move(about));
}

int profile_links(const ProfileOptions& options) {
  const auto prepare = [](const parallel::World& /*world*/) -> Preparation {
    return {.runtime = make_runtime({.signals = true}), .closes_store = false};
  };
  return run_on_ranks(prepare, [&](const Runtime& runtime) {
    if (!runtime.comm) {
      throw BadInput(
          "profile --hardware measures among ranks: `unigrpo launch -n N -- profile --hardware --out DIR`; --cluster "
          "FILE counts by a cluster's figures instead");
    }
    json times;
    Samples samples{times};
    const planner::HardwareProfile links = measure_links(runtime, options.max_mb, samples);
    if (runtime.mesh.rank != 0) return 0;
    std::set<std::string> hosts;
    for (const parallel::Peer& peer : runtime.comm->peers()) hosts.insert(peer.host);
    const auto nodes = static_cast<int64_t>(hosts.size());
    planner::write_hardware_profile(links, nodes, runtime.mesh.world_size / nodes, options.out);
    tell(options, {{"hosts", hosts}, {"ranks", runtime.mesh.world_size}}, samples);
    return 0;
  });
}

int profile_model(const ProfileOptions& options) {
  const Runtime runtime = make_runtime({.device = options.device, .device_key = "--device"});
  ModelQuestion question{.workload = recipe_workload(options.model, options.overrides)};
  planner::SampleShape& sample = question.workload.sample;
  int64_t step_samples = 0;
  for (const planner::RolloutShape& task : question.workload.rollouts.front().tasks) {
    question.text_tokens += task.samples * task.text_tokens;
    step_samples += task.samples;
  }
  // Of a sample, rounded up.
  question.text_tokens = (question.text_tokens + step_samples - 1) / std::max<int64_t>(1, step_samples);
  if (options.seq > 0) {
    question.text_tokens = question.text_tokens * options.seq / std::max<int64_t>(1, sample.tokens);
    sample.tokens = options.seq;
  }
  if (options.mode == "batch") question.batches = {1, 2, 3, 4, 5, 6, 7, 8};
  if (options.mode == "sequence") {
    for (int64_t quarter = 1; quarter < 4; ++quarter) {
      question.lengths.push_back(std::max<int64_t>(1, sample.tokens * quarter / 4));
    }
  }
  json times;
  Samples samples{times};
  planner::MeasuredModel model = measure_model(question, runtime, samples);
  model.name = std::filesystem::path(options.model).stem().string();
  planner::write_model_profile(model, options.out);
  json slowdown = json::object();
  for (const auto& [ranks, factor] : model.slice_slowdown) slowdown[std::to_string(ranks)] = factor;
  tell(options,
       {{"recipe", options.model},
        {"device", runtime.device.str()},
        {"tokens", sample.tokens},
        {"slice_slowdown", std::move(slowdown)}},
       samples);
  return 0;
}

}  // namespace

double Samples::median_of(const std::string& name, const std::function<double()>& once) {
  constexpr int kWarmUps = 2, kRepeats = 5;
  std::vector<double> values;
  for (int i = 0; i < kWarmUps; ++i) once();
  for (int i = 0; i < kRepeats; ++i) values.push_back(once());
  ms[name] = values;
  std::ranges::sort(values);
  const double median = values[values.size() / 2];
  if (values.back() - values.front() > 0.1 * median) noisy.push_back(name);
  return median;
}

int run(const ProfileOptions& options) { return options.hardware ? profile_links(options) : profile_model(options); }

}  // namespace unigrpo::cli

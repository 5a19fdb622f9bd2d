#include "parallel/other_stages.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "parallel/sharded_model.h"
#include "support/ranks.h"

namespace unigrpo::parallel {
namespace {

at::Tensor values_of(at::IntArrayRef shape, double seed) {
  const int64_t n = c10::multiply_integers(shape);
  return (at::arange(n, at::kDouble) * 0.37 + seed).sin().to(at::kFloat).view(shape);
}

NamedTensor parameter(const std::string& name, std::vector<int64_t> shape, double seed, bool trains = true) {
  return {name, values_of(shape, seed).set_requires_grad(trains)};
}

/// Two stages with a layer each; the embeddings are tied.
std::vector<StagePart> make_parts() {
  return {{.stages = {0}, .parameters = {parameter("first", {7}, 1)}},
          {.stages = {0, 1}, .parameters = {parameter("embed", {300, 70}, 2)}},
          {.stages = {1}, .parameters = {parameter("norm", {33}, 3)}},
          {.stages = {0}, .parameters = {parameter("0.w", {64, 130}, 4), parameter("0.frozen", {500}, 5, false)}},
          {.stages = {1}, .parameters = {parameter("1.w", {50, 100}, 6), parameter("1.unused", {5}, 7)}}};
}

/// As units of ShardedModel: those of no layer, and two layers.
std::vector<NamedTensors> units_of(const std::vector<StagePart>& parts, int64_t stage) {
  std::vector<NamedTensors> units(3);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (std::ranges::count(parts[i].stages, stage) == 0) continue;
    NamedTensors& unit = units[i < 3 ? 0 : i - 2];
    unit.insert(unit.end(), parts[i].parameters.begin(), parts[i].parameters.end());
  }
  return units;
}

struct Ranks {
  std::shared_ptr<Comm> stage, pipeline;  // those of a stage share the weights
};

/// Stages of so many ranks, as threads.
void on_stages(int64_t ranks_of_stage, const std::function<void(int64_t rank, const Ranks& ranks)>& work) {
  const auto errors = test::run_ranks(2 * ranks_of_stage, [&](Comm& world) {
    const int64_t n = ranks_of_stage, first = world.rank() / n * n;
    std::vector<int64_t> own, across = {world.rank() % n, world.rank() % n + n};
    for (int64_t i = 0; i < n; ++i) own.push_back(first + i);
    Ranks ranks{.stage = world.subgroup(own, "stage"), .pipeline = world.subgroup(across, "pipeline")};
    work(world.rank(), ranks);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

class OtherStagesOf : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(RanksOfAStage, OtherStagesOf, testing::Values(1, 2));

TEST_P(OtherStagesOf, HaveNoMemoryButWhileTheModelIsWhole) {
  for (const Shard shard : {Shard::optimizer, Shard::weights}) {
    on_stages(GetParam(), [&](int64_t, const Ranks& ranks) {
      const auto parts = make_parts(), wanted = make_parts();
      const auto units = units_of(parts, ranks.pipeline->rank());
      ShardedModel model(units, {.shard = ranks.stage, .replica = nullptr}, shard, Reduce::each, Sum::one_by_one,
                         std::make_unique<OtherStages>(parts, ranks.pipeline));
      const auto is_there = [&](bool all) {
        for (size_t i = 0; i < parts.size(); ++i) {
          const bool own = std::ranges::count(parts[i].stages, ranks.pipeline->rank()) > 0;
          if (own && shard == Shard::weights && !all) continue;
          for (size_t k = 0; k < parts[i].parameters.size(); ++k) {
            const NamedTensor& got = parts[i].parameters[k];
            EXPECT_EQ(at::equal(got.tensor, wanted[i].parameters[k].tensor), own || all) << got.name;
          }
        }
      };
      is_there(false);
      model.hold(ShardedModel::Form::whole);
      is_there(true);
      model.let_go(ShardedModel::Form::whole);
      is_there(false);
      std::map<std::string, int64_t> elements;
      for (const NamedTensor& piece : model.pieces()) {
        EXPECT_EQ(piece.shape().size(), piece.name == "embed" || piece.name.ends_with(".w") ? 2U : 1U) << piece.name;
        elements[piece.name] += piece.tensor.numel();
      }
      EXPECT_EQ(elements.size(), 6U);  // what trains, of both stages
      EXPECT_EQ(elements.at(ranks.pipeline->rank() == 0 ? "1.w" : "0.w"), 0);
    });
  }
}

TEST_P(OtherStagesOf, GradientsOfTiedWeightsAreSummedAndCountOnce) {
  double want = 0;  // the square of all gradients
  const auto gradient = [](const NamedTensor& parameter, int64_t rank) {
    return values_of(parameter.tensor.sizes(), static_cast<double>(rank) + 0.5);
  };
  const int64_t n = GetParam();
  for (const StagePart& part : make_parts()) {
    for (const NamedTensor& parameter : part.parameters) {
      if (!parameter.tensor.requires_grad() || parameter.name == "1.unused") continue;
      at::Tensor sum = at::zeros(parameter.tensor.sizes(), at::kDouble);
      for (const int64_t stage : part.stages) {
        for (int64_t i = 0; i < n; ++i) sum += gradient(parameter, stage * n + i);
      }
      want += sum.square().sum().item<double>();
    }
  }
  on_stages(n, [&](int64_t rank, const Ranks& ranks) {
    const auto parts = make_parts();
    const auto units = units_of(parts, ranks.pipeline->rank());
    ShardedModel model(units, {.shard = ranks.stage, .replica = nullptr}, Shard::weights, Reduce::each, Sum::one_by_one,
                       std::make_unique<OtherStages>(parts, ranks.pipeline));
    model.begin(/*with_backward=*/false);
    model.end();
    model.begin_backward();
    for (const NamedTensors& unit : units) {
      for (const NamedTensor& one : unit) {
        if (one.tensor.requires_grad() && one.name != "1.unused") one.tensor.mutable_grad() = gradient(one, rank);
      }
    }
    model.end();
    model.finish_gradients();
    EXPECT_NEAR(model.square_of_gradients(), want, 1e-6 * want);  // float32
    for (const NamedTensor& piece : model.pieces()) {
      EXPECT_EQ(piece.tensor.grad().defined(), piece.name != "1.unused") << piece.name;
      if (piece.name != "embed" || n > 1) continue;
      const at::Tensor sum = gradient(parts[1].parameters[0], 0) + gradient(parts[1].parameters[0], 1);
      EXPECT_TRUE(at::equal(piece.tensor.grad(), sum.view({-1})));
    }
    model.drop_gradients();
    for (const NamedTensor& piece : model.pieces()) EXPECT_FALSE(piece.tensor.grad().defined()) << piece.name;
  });
}

}  // namespace
}  // namespace unigrpo::parallel

#include "parallel/sharded_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/signals.h"
#include "support/ranks.h"

namespace unigrpo::parallel {
namespace {

at::Tensor values_of(at::IntArrayRef shape, double seed) {
  const int64_t n = c10::multiply_integers(shape);
  return (at::arange(n, at::kDouble) * 0.37 + seed).sin().to(at::kFloat).view(shape);
}

/// A root and two layers; the second parameter of the first layer is frozen.
std::vector<NamedTensors> make_units(at::ScalarType dtype = at::kFloat) {
  const auto parameter = [&](const std::string& name, std::vector<int64_t> shape, double seed, bool trains = true) {
    return NamedTensor{name, values_of(shape, seed).to(dtype).set_requires_grad(trains)};
  };
  return {{parameter("embed", {300, 70}, 1), parameter("norm", {33}, 2)},
          {parameter("0.w", {64, 130}, 3), parameter("0.frozen", {5000}, 4, false), parameter("0.b", {64}, 5)},
          {parameter("1.w", {50, 100}, 6), parameter("1.b", {7}, 7)}};
}

/// Work on ranks that are threads; one is this thread alone, without a Comm.
void on_ranks(int64_t size, const std::function<void(int64_t rank, const std::shared_ptr<Comm>& comm)>& work) {
  if (size == 1) return work(0, nullptr);
  const auto errors =
      test::run_ranks(size, [&](Comm& comm) { work(comm.rank(), std::shared_ptr<Comm>(&comm, [](Comm*) {})); });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

at::Tensor gradient_of(const NamedTensor& parameter, int64_t rank, int64_t turn) {
  return values_of(parameter.tensor.sizes(), static_cast<double>(10 * rank + turn));
}

/// As a backward pass leaves it.
void add_gradient(const NamedTensor& parameter, const at::Tensor& gradient) {
  at::Tensor& grad = parameter.tensor.mutable_grad();
  grad = grad.defined() ? grad + gradient : gradient.clone();
}

class ShardedModelOf : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Ranks, ShardedModelOf, testing::Values(1, 2, 3, 4));

TEST_P(ShardedModelOf, PiecesOfAllRanksAreTheWholeAndGatheringRestoresIt) {
  std::mutex mutex;
  std::map<std::string, at::Tensor> seen;  // how often each element is in a piece
  on_ranks(GetParam(), [&](int64_t, const std::shared_ptr<Comm>& comm) {
    const auto units = make_units(), wanted = make_units();
    ShardedModel model(units, {.shard = comm, .replica = nullptr}, Shard::weights, Reduce::each);
    for (const NamedTensor& piece : model.pieces()) {
      const std::lock_guard lock(mutex);
      at::Tensor& count = seen.try_emplace(piece.name, at::zeros(piece.shape())).first->second;
      count.view({-1}).narrow(0, piece.piece->first, piece.tensor.numel()).add_(1);
    }
    EXPECT_TRUE(units[1][0].tensor.isnan().all().item<bool>());
    EXPECT_EQ(units[1][0].tensor.sizes(), at::IntArrayRef({64, 130}));
    model.hold(ShardedModel::Form::whole);
    for (size_t u = 0; u < units.size(); ++u) {
      for (size_t i = 0; i < units[u].size(); ++i) {
        EXPECT_TRUE(at::equal(units[u][i].tensor, wanted[u][i].tensor)) << units[u][i].name;
      }
    }
    model.let_go(ShardedModel::Form::whole);
    EXPECT_TRUE(units[0][1].tensor.isnan().all().item<bool>());
  });
  EXPECT_EQ(seen.size(), 6U);  // what is frozen is no piece
  for (const auto& [name, count] : seen) EXPECT_TRUE(count.eq(1).all().item<bool>()) << name;
}

TEST_P(ShardedModelOf, BytesKeptAreAShareOfTheModelPlusTheRestOfACell) {
  const int64_t size = GetParam();
  on_ranks(size, [&](int64_t, const std::shared_ptr<Comm>& comm) {
    const ShardedModel model(make_units(), {.shard = comm, .replica = nullptr}, Shard::weights, Reduce::each);
    int64_t whole = 0;
    for (const auto& unit : make_units()) {
      for (const NamedTensor& parameter : unit) whole += parameter.tensor.numel() * 4;
    }
    EXPECT_GE(model.weight_bytes(), whole / size);
    EXPECT_LE(model.weight_bytes(), whole / size + 4 * kCell * 4);  // of four buffers
  });
}

/// Two turns of a step: on each rank other units have gradients, or none; one rank is interrupted in a pass of its own.
void turns(ShardedModel& model, const std::vector<NamedTensors>& units, int64_t rank) {
  for (int64_t turn = 0; turn < 2; ++turn) {
    model.begin(/*with_backward=*/true);
    const bool works = (rank + turn) % 3 != 2;
    if (works) {
      for (const size_t unit : {size_t{1}, size_t{2}}) {
        if (rank == 1 && unit == 1) continue;  // passes the first layer over
        model.enter(unit, false);
        model.leave(unit, false);
      }
      for (const size_t unit : {size_t{2}, size_t{1}}) {
        if (rank == 1 && unit == 1) continue;
        model.enter(unit, true);
        add_gradient(units[unit][0], gradient_of(units[unit][0], rank, turn));
        model.leave(unit, true);
      }
      add_gradient(units[0][0], gradient_of(units[0][0], rank, turn));
    }
    model.end();
  }
}

/// What turns() leaves of all ranks.
std::map<std::string, at::Tensor> wanted_gradients(int64_t size) {
  std::map<std::string, at::Tensor> sums;
  const auto units = make_units();
  for (int64_t turn = 0; turn < 2; ++turn) {
    for (int64_t rank = 0; rank < size; ++rank) {
      if ((rank + turn) % 3 == 2) continue;
      for (size_t unit = 0; unit < units.size(); ++unit) {
        if (rank == 1 && unit == 1) continue;
        const NamedTensor& parameter = units[unit][0];
        at::Tensor& sum = sums.try_emplace(parameter.name, at::zeros_like(parameter.tensor)).first->second;
        sum = (sum + gradient_of(parameter, rank, turn)).detach();
      }
    }
  }
  return sums;
}

TEST_P(ShardedModelOf, GradientsAreSummedWhateverEachRankHas) {
  const int64_t size = GetParam();
  const auto wanted = wanted_gradients(size);
  for (const Shard shard : {Shard::optimizer, Shard::gradients, Shard::weights}) {
    for (const Reduce reduce : {Reduce::each, Reduce::last}) {
      on_ranks(size, [&](int64_t rank, const std::shared_ptr<Comm>& comm) {
        const auto units = make_units();
        ShardedModel model(units, {.shard = comm, .replica = nullptr}, shard, reduce);
        turns(model, units, rank);
        model.finish_gradients();
        for (const NamedTensor& piece : model.pieces()) {
          const auto found = wanted.find(piece.name);
          ASSERT_EQ(piece.tensor.grad().defined(), found != wanted.end()) << piece.name;
          if (found == wanted.end()) continue;
          const at::Tensor part = found->second.view({-1}).narrow(0, piece.piece->first, piece.tensor.numel());
          EXPECT_TRUE(at::allclose(piece.tensor.grad(), part, 1e-6, 1e-6)) << piece.name;
        }
        model.drop_gradients();
        for (const NamedTensor& piece : model.pieces()) EXPECT_FALSE(piece.tensor.grad().defined());
      });
    }
  }
}

TEST_P(ShardedModelOf, ARankThatIsInterruptedMakesTheSameCalls) {
  for (const int64_t where : {0, 1, 2, 3}) {  // before, within a forward, between, within a backward
    on_ranks(GetParam(), [&](int64_t rank, const std::shared_ptr<Comm>& comm) {
      const auto units = make_units();
      ShardedModel model(units, {.shard = comm, .replica = nullptr}, Shard::weights, Reduce::each);
      model.begin(/*with_backward=*/true);
      const bool falls = rank == 0;
      if (!(falls && where == 0)) {
        model.enter(1, false);
        if (!(falls && where == 1)) {
          model.leave(1, false);
          model.enter(2, false);
          model.leave(2, false);
          if (!(falls && where == 2)) {
            model.enter(2, true);
            if (!(falls && where == 3)) {
              model.leave(2, true);
              model.enter(1, true);
              model.leave(1, true);
            }
          }
        }
      }
      model.end();
      model.begin(/*with_backward=*/false);
      model.enter(2, false);
      EXPECT_FALSE(units[2][0].tensor.isnan().any().item<bool>());
      model.leave(2, false);
      model.end();
      EXPECT_TRUE(units[2][0].tensor.isnan().all().item<bool>());
    });
  }
}

TEST(ShardedModel, TheNormsBitsDoNotDependOnTheNumberOfRanks) {
  std::map<int64_t, double> squares;
  for (const int64_t size : {1, 2, 3, 4}) {
    std::mutex mutex;
    on_ranks(size, [&](int64_t rank, const std::shared_ptr<Comm>& comm) {
      const auto units = make_units();
      ShardedModel model(units, {.shard = comm, .replica = nullptr}, Shard::gradients, Reduce::last);
      for (const auto& unit : units) {
        if (rank == 0) add_gradient(unit[0], gradient_of(unit[0], 5, 0));
      }
      model.finish_gradients();
      const double square = model.square_of_gradients();
      const std::lock_guard lock(mutex);
      const double first = squares.try_emplace(size, square).first->second;
      EXPECT_EQ(square, first) << rank;
    });
    EXPECT_EQ(squares.at(size), squares.at(1)) << size;
  }
  double plain = 0;
  for (const auto& unit : make_units()) {
    plain += gradient_of(unit[0], 5, 0).to(at::kDouble).square().sum().item<double>();
  }
  EXPECT_NEAR(squares.at(1), plain, 1e-12 * plain);
}

TEST(ShardedModel, WhatWasWrittenIsSeenByAllBeforeItIsUsed) {
  for (const Shard shard : {Shard::optimizer, Shard::gradients, Shard::weights}) {
    on_ranks(3, [&](int64_t, const std::shared_ptr<Comm>& comm) {
      const auto units = make_units();
      ShardedModel model(units, {.shard = comm, .replica = nullptr}, shard, Reduce::each);
      const uint64_t before = model.version();
      for (const NamedTensor& piece : model.pieces()) at::Tensor(piece.tensor).add_(1);
      model.wrote();
      EXPECT_NE(model.version(), before);
      model.hold(ShardedModel::Form::whole);
      const auto before_it = make_units();
      for (const NamedTensor& parameter : before_it[0]) {
        const at::Tensor now = units[0][parameter.name == "norm" ? 1 : 0].tensor;
        EXPECT_TRUE(at::equal(now, parameter.tensor + 1)) << parameter.name;
      }
      model.let_go(ShardedModel::Form::whole);
    });
  }
}

TEST(ShardedModel, ReplicasOfShardsSumTheirGradientsAsWell) {
  const auto errors = test::run_ranks(4, [&](Comm& world) {
    const auto units = make_units();
    const int64_t block = world.rank() / 2, place = world.rank() % 2;
    const auto shard = world.subgroup({2 * block, 2 * block + 1}, "shard");
    const auto replica = world.subgroup({place, place + 2}, "replica");
    ShardedModel model(units, {.shard = shard, .replica = replica}, Shard::weights, Reduce::each);
    const auto wanted = wanted_gradients(4);
    turns(model, units, world.rank());
    model.finish_gradients();
    double square = 0;
    for (const auto& [name, sum] : wanted) square += sum.to(at::kDouble).square().sum().item<double>();
    for (const NamedTensor& piece : model.pieces()) {
      ASSERT_EQ(piece.tensor.grad().defined(), wanted.contains(piece.name)) << piece.name;
      if (!piece.tensor.grad().defined()) continue;
      const at::Tensor part = wanted.at(piece.name).view({-1}).narrow(0, piece.piece->first, piece.tensor.numel());
      EXPECT_TRUE(at::allclose(piece.tensor.grad(), part, 1e-5, 1e-5)) << piece.name;
    }
    EXPECT_NEAR(model.square_of_gradients(), square, 1e-5 * square);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

/// The shares' gradients put together after seven micro-batches, dealt in turns to the ranks; the fifth is missing.
std::map<std::string, at::Tensor> gradients_in_pairs(int64_t size, Shard shard) {
  std::mutex mutex;
  std::map<std::string, at::Tensor> all;
  on_ranks(size, [&](int64_t rank, const std::shared_ptr<Comm>& comm) {
    const auto units = make_units();
    ShardedModel model(units, {.shard = comm, .replica = nullptr}, shard, Reduce::each, Sum::pairwise);
    for (int64_t turn = 0; turn * size < 7; ++turn) {
      const int64_t place = turn * size + rank;
      model.begin(/*with_backward=*/true);
      if (place < 7 && place != 4) {
        for (const size_t unit : {size_t{1}, size_t{2}}) {
          model.enter(unit, false);
          model.leave(unit, false);
        }
        for (const size_t unit : {size_t{2}, size_t{1}}) {
          model.enter(unit, true);
          add_gradient(units[unit][0], gradient_of(units[unit][0], place, 0));
          model.leave(unit, true);
        }
        add_gradient(units[0][0], gradient_of(units[0][0], place, 0));
      }
      model.end();
    }
    model.finish_gradients();
    const std::lock_guard lock(mutex);
    for (const NamedTensor& piece : model.pieces()) {
      if (!piece.tensor.grad().defined()) continue;
      at::Tensor& whole = all.try_emplace(piece.name, at::full(piece.shape(), 99.0)).first->second;
      whole.view({-1}).narrow(0, piece.piece->first, piece.tensor.numel()).copy_(piece.tensor.grad());
    }
  });
  return all;
}

TEST(ShardedModel, SumsInPairsHaveTheSameBitsOnAnyPowerOfTwoOfRanks) {
  const auto wanted = gradients_in_pairs(1, Shard::gradients);
  EXPECT_EQ(wanted.size(), 3U);
  for (const int64_t size : {1, 2, 4, 8}) {
    for (const Shard shard : {Shard::gradients, Shard::weights}) {
      const auto sums = gradients_in_pairs(size, shard);
      ASSERT_EQ(sums.size(), wanted.size());
      for (const auto& [name, sum] : sums) {
        EXPECT_TRUE(at::equal(sum, wanted.at(name))) << name << " on " << size << " ranks";
      }
    }
  }
}

TEST(ShardedModel, HalfPrecisionIsSummedInFloat32) {
  on_ranks(2, [&](int64_t, const std::shared_ptr<Comm>& comm) {
    const auto units = make_units(at::kBFloat16);
    ShardedModel model(units, {.shard = comm, .replica = nullptr}, Shard::weights, Reduce::each);
    model.begin(/*with_backward=*/true);
    const at::Tensor& norm = units[0][1].tensor;
    (norm.to(at::kFloat) * 1.001).sum().backward();
    model.end();
    model.finish_gradients();
    for (const NamedTensor& piece : model.pieces()) {
      if (piece.name != "norm" || piece.tensor.numel() == 0) continue;
      EXPECT_EQ(piece.tensor.scalar_type(), at::kBFloat16);
      EXPECT_EQ(piece.tensor.grad().scalar_type(), at::kFloat);
    }
  });
}

}  // namespace
}  // namespace unigrpo::parallel

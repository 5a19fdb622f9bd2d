#include "parallel/slice.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "parallel/sharded_model.h"
#include "support/ranks.h"

namespace unigrpo::parallel {
namespace {

using test::run_ranks;

at::Tensor values_of(at::IntArrayRef shape, double seed) {
  return (at::arange(c10::multiply_integers(shape), at::kDouble) * 0.37 + seed).sin().to(at::kFloat).view(shape);
}

/// Of a tensor the elements that a piece with so many has.
at::Tensor elements_of(const at::Tensor& whole, const PieceOf& piece, int64_t count) {
  const at::Tensor columns = piece.width > 0 ? whole.narrow(1, piece.column, piece.width) : whole;
  return columns.reshape({-1}).narrow(0, piece.first, count);
}

TEST(Slice, IsAPieceOfTheWholeThatAllRanksCanJoin) {
  struct Case {
    std::vector<int64_t> shape;
    int64_t dim;
  };
  const std::vector<Case> cases = {{{6, 5}, 0}, {{7, 5}, 0}, {{2, 3}, 0}, {{6}, 0}, {{4, 9}, 1}, {{1, 3}, 1}};
  const auto errors = run_ranks(3, [&](Comm& ranks) {
    for (const Case& each : cases) {
      const at::Tensor whole = values_of(each.shape, 1);
      const NamedTensor parameter{"w", whole.clone().requires_grad_()};
      const NamedTensor own = cut(parameter, each.dim, ranks.rank(), ranks.size());
      EXPECT_TRUE(own.tensor.is_same(parameter.tensor));
      EXPECT_TRUE(own.tensor.requires_grad());
      EXPECT_EQ(own.tensor.nbytes(), own.tensor.storage().nbytes());
      EXPECT_EQ(own.shape(), each.shape);
      EXPECT_TRUE(at::equal(own.tensor.reshape({-1}), elements_of(whole, *own.piece, own.tensor.numel())));
      EXPECT_TRUE(at::equal(joined(own.tensor.detach(), *own.piece, ranks), whole));
    }
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

/// Four ranks: pairs have slices of a layer, and so do two such pairs, each of which has all gradients of its own data.
struct Sliced {
  explicit Sliced(Comm& world_) : world(world_), pair(world.rank() / 2) {
    const auto all = std::shared_ptr<Comm>(&world, [](Comm*) {});
    const int64_t part = world.rank() % 2;
    ranks = {.shard = all, .replica = nullptr};
    ranks.slices.resize(2);
    ranks.slices[1].tensor = world.subgroup({2 * pair, 2 * pair + 1}, "tensor");
    ranks.slices[1].shard = world.subgroup({part, part + 2}, "shard");
    units = {{whole("embed", {90, 70})},
             {whole("norm", {33}), whole("rows", {64, 130}), whole("bias", {64}), whole("columns", {50, 100}),
              whole("frozen", {40, 60}, false)}};
    for (NamedTensor& parameter : units[1]) {
      if (parameter.name == "norm") continue;
      parameter = cut(parameter, parameter.name == "columns" || parameter.name == "frozen" ? 1 : 0, part, 2);
    }
  }
  static NamedTensor whole(const std::string& name, const std::vector<int64_t>& shape, bool trains = true) {
    return {name, values_of(shape, static_cast<double>(name.size())).set_requires_grad(trains)};
  }
  /// What a rank has of a parameter's gradient: of a slice, that of its pair's data.
  at::Tensor gradient(const NamedTensor& parameter, int64_t turn) const {
    const int64_t source = parameter.piece ? pair : world.rank();
    const at::Tensor all = values_of(parameter.shape(), static_cast<double>(10 * source + turn));
    if (!parameter.piece) return all;
    return elements_of(all, *parameter.piece, parameter.tensor.numel()).view(parameter.tensor.sizes()).clone();
  }
  static at::Tensor sum_of_gradients(const NamedTensor& piece) {
    const bool sliced = piece.name != "embed" && piece.name != "norm";
    at::Tensor sum = at::zeros(piece.shape());
    for (int64_t source = 0; source < (sliced ? 2 : 4); ++source) {
      for (int64_t turn = 0; turn < 2; ++turn) {
        sum = sum + values_of(piece.shape(), static_cast<double>(10 * source + turn));
      }
    }
    return sum;
  }
  void turns(ShardedModel& model) const {
    for (int64_t turn = 0; turn < 2; ++turn) {
      model.begin(/*with_backward=*/true);
      model.enter(1, false);
      model.leave(1, false);
      model.enter(1, true);
      add_gradients(units[1], turn);
      model.leave(1, true);
      add_gradients(units[0], turn);
      model.end();
    }
  }
  void add_gradients(const NamedTensors& parameters, int64_t turn) const {
    for (const NamedTensor& parameter : parameters) {
      if (!parameter.tensor.requires_grad()) continue;
      at::Tensor& grad = parameter.tensor.mutable_grad();
      grad = grad.defined() ? grad + gradient(parameter, turn) : gradient(parameter, turn);
    }
  }
  void expect_whole(double plus) const {
    for (const NamedTensors& unit : units) {
      for (const NamedTensor& parameter : unit) {
        const at::Tensor before = whole(parameter.name, parameter.shape()).tensor.detach();
        const double change = parameter.name == "frozen" ? 0 : plus;
        EXPECT_TRUE(at::equal(parameter.tensor, before + change)) << parameter.name;
      }
    }
  }

  Comm& world;
  int64_t pair;
  ShardedModel::Ranks ranks;
  std::vector<NamedTensors> units;
};

TEST(Slice, OfAModelAreSummedOverTheRanksThatHaveThemAndTheRestOverAll) {
  for (const Shard shard : {Shard::optimizer, Shard::gradients, Shard::weights}) {
    const auto errors = run_ranks(4, [&](Comm& world) {
      const Sliced sliced(world);
      ShardedModel model(sliced.units, sliced.ranks, shard, Reduce::each);
      sliced.turns(model);
      model.finish_gradients();
      double square = 0;
      for (const auto& [name, shape] : std::map<std::string, std::vector<int64_t>>{
               {"embed", {90, 70}}, {"norm", {33}}, {"rows", {64, 130}}, {"bias", {64}}, {"columns", {50, 100}}}) {
        square += Sliced::sum_of_gradients(Sliced::whole(name, shape)).to(at::kDouble).square().sum().item<double>();
      }
      EXPECT_NEAR(model.square_of_gradients(), square, 1e-5 * square);
      EXPECT_EQ(model.pieces().size(), 5U);
      for (const NamedTensor& piece : model.pieces()) {
        const at::Tensor want = elements_of(Sliced::sum_of_gradients(piece), *piece.piece, piece.tensor.numel());
        EXPECT_TRUE(at::allclose(piece.tensor.grad(), want, 1e-5, 1e-5)) << piece.name;
      }
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
  }
}

TEST(Slice, OfAModelAreWholeWhileTheyAreHeldSoAndFollowWhatIsWritten) {
  using Form = ShardedModel::Form;
  for (const Shard shard : {Shard::optimizer, Shard::gradients, Shard::weights}) {
    const auto errors = run_ranks(4, [&](Comm& world) {
      const Sliced sliced(world);
      ShardedModel model(sliced.units, sliced.ranks, shard, Reduce::each);
      model.hold(Form::slices);
      EXPECT_EQ(sliced.units[1][1].tensor.size(0), 32);
      model.hold(Form::whole);
      sliced.expect_whole(0);
      for (const NamedTensor& piece : model.pieces()) at::Tensor(piece.tensor).add_(1);
      model.wrote();
      model.hold(Form::whole);
      sliced.expect_whole(1);
      model.let_go(Form::whole);
      sliced.expect_whole(1);
      model.let_go(Form::whole);
      EXPECT_EQ(sliced.units[1][1].tensor.sizes(), at::IntArrayRef({32, 130}));
      EXPECT_EQ(sliced.units[1][3].tensor.sizes(), at::IntArrayRef({50, 50}));
      const at::Tensor want = Sliced::whole("columns", {50, 100}).tensor.detach() + 1;
      EXPECT_TRUE(at::equal(sliced.units[1][3].tensor, want.narrow(1, 50 * (world.rank() % 2), 50)));
      model.let_go(Form::slices);
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
  }
}

TEST(Slice, OfAModelTakeAShareOfItsBytes) {
  const auto errors = run_ranks(4, [&](Comm& world) {
    const Sliced sliced(world);
    const ShardedModel model(sliced.units, sliced.ranks, Shard::weights, Reduce::each);
    const int64_t whole = 4 * (90 * 70 + 33 + 64 * 130 + 64 + 50 * 100 + 40 * 60);
    EXPECT_LE(model.weight_bytes(), whole / 4 + 4 * kCell * 4);  // of five buffers
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

}  // namespace
}  // namespace unigrpo::parallel

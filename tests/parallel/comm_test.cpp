#include "parallel/comm.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>

#include "base/failure.h"
#include "base/left_behind.h"
#include "support/ranks.h"

namespace unigrpo::parallel {
namespace {

using test::run_ranks;

/// Of one rank; sums of them round, and differently in another order.
at::Tensor values_of(int64_t rank, int64_t n, at::ScalarType dtype = at::kFloat) {
  const at::Tensor places = at::arange(n, at::kDouble);
  return ((places * 0.37 + rank * 1.7).sin() * at::pow(10.0, (places + rank).remainder(7))).to(dtype);
}

at::Tensor sum_in_order(int64_t size, int64_t n) {
  at::Tensor sum = values_of(0, n);
  for (int64_t r = 1; r < size; ++r) sum = sum + values_of(r, n);
  return sum;
}

void expect_none(const std::vector<std::string>& errors) {
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

class CommOf : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Ranks, CommOf, testing::Values(2, 3, 4));

TEST_P(CommOf, SumsAreThoseOfRankOrderToTheBit) {
  const int64_t size = GetParam();
  expect_none(run_ranks(size, [&](Comm& comm) {
    for (const int64_t n : {1, 7, 4096, 100'003}) {  // one exchange, and two
      at::Tensor all = values_of(comm.rank(), n);
      comm.all_reduce(all, "test");
      EXPECT_TRUE(at::equal(all, sum_in_order(size, n))) << n;

      at::Tensor mine = at::empty({n});
      const at::Tensor pieces = values_of(comm.rank(), n * size).view({size, n});
      comm.reduce_scatter(mine, pieces, "test");
      EXPECT_TRUE(at::equal(mine, sum_in_order(size, n * size).view({size, n})[comm.rank()])) << n;
    }
  }));
}

TEST_P(CommOf, EveryDtypeIsSummed) {
  const int64_t size = GetParam();
  expect_none(run_ranks(size, [&](Comm& comm) {
    for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kInt, at::kLong, at::kByte}) {
      at::Tensor tensor = at::full({3, 5}, comm.rank() + 1, dtype);
      comm.all_reduce(tensor, "test");
      EXPECT_TRUE(at::equal(tensor, at::full({3, 5}, size * (size + 1) / 2, dtype))) << tensor;
    }
  }));
}

TEST(Comm, LowPrecisionIsSummedInFloat32) {
  expect_none(run_ranks(3, [](Comm& comm) {
    at::Tensor tensor = at::full({1}, comm.rank() == 0 ? 256.0 : 0.75, at::kBFloat16);  // 256 + 0.75 rounds to 256
    comm.all_reduce(tensor, "test");
    EXPECT_EQ(tensor.item<float>(), 258.0F);
  }));
}

TEST_P(CommOf, WhatIsGatheredLiesInRankOrder) {
  const int64_t size = GetParam();
  expect_none(run_ranks(size, [&](Comm& comm) {
    at::Tensor larger = at::zeros({size + 2, 2, 3});
    at::Tensor all = larger.narrow(0, 1, size);  // a slice of a larger one
    comm.all_gather(all, at::full({2, 3}, comm.rank() + 1.5), "test");
    for (int64_t r = 0; r < size; ++r) EXPECT_TRUE(at::equal(all[r], at::full({2, 3}, r + 1.5)));
    EXPECT_EQ(larger[0].abs().sum().item<float>() + larger[size + 1].abs().sum().item<float>(), 0);

    const auto texts = comm.gather_bytes(std::string(static_cast<size_t>(comm.rank() * 3), 'a'), "test");
    for (int64_t r = 0; r < size; ++r) {
      EXPECT_EQ(texts[static_cast<size_t>(r)], std::string(static_cast<size_t>(r * 3), 'a'));
    }

    at::Tensor bools = at::empty({size}, at::kBool);
    comm.all_gather(bools, at::full({1}, comm.rank() % 2 == 0, at::kBool), "test");
    for (int64_t r = 0; r < size; ++r) EXPECT_EQ(bools[r].item<bool>(), r % 2 == 0);
  }));
}

TEST_P(CommOf, OtherCallsMayBeMadeWhileSomethingIsGathered) {
  const int64_t size = GetParam();
  expect_none(run_ranks(size, [&](Comm& comm) {
    constexpr int64_t kRows = 20'000;
    const auto wanted = [&](double of_turn) {
      return at::arange(size).repeat_interleave(kRows).to(at::kFloat) + of_turn;
    };
    for (int turn = 0; turn < 20; ++turn) {
      const at::Tensor first = at::empty({size * kRows}), second = at::empty({size * kRows});
      const auto mine = [&](double more) { return at::full({kRows}, static_cast<double>(comm.rank()) + turn + more); };
      const auto one = comm.start_all_gather(first, mine(0.5), "one");
      const auto other = comm.start_all_gather(second, mine(0.25), "other");
      at::Tensor sum = at::ones({1000});
      comm.all_reduce(sum, "between");
      EXPECT_TRUE(sum.eq(static_cast<double>(size)).all().item<bool>());
      comm.finish(*one);
      EXPECT_TRUE(at::equal(first, wanted(turn + 0.5)));
      comm.finish(*other);
      EXPECT_TRUE(at::equal(second, wanted(turn + 0.25)));
    }
    EXPECT_EQ(comm.calls().totals().at("one").bytes, 20 * (size - 1) * kRows * 4);
  }));
}

TEST_P(CommOf, PiecesOfDifferentLengthsAndNoneArrive) {
  const int64_t size = GetParam();
  expect_none(run_ranks(size, [&](Comm& comm) {
    // Rank r sends r rows to rank 0, r + 1 to rank 1, ...
    std::vector<int64_t> in_counts, out_counts;
    for (int64_t r = 0; r < size; ++r) {
      in_counts.push_back(comm.rank() + r);
      out_counts.push_back(r + comm.rank());
    }
    const auto total = [](const std::vector<int64_t>& counts) {
      int64_t sum = 0;
      for (const int64_t each : counts) sum += each;
      return sum;
    };
    const at::Tensor in = at::full({total(in_counts), 2}, comm.rank(), at::kLong);
    at::Tensor out = at::empty({total(out_counts), 2}, at::kLong);
    comm.all_to_all(out, in, out_counts, in_counts, "test");
    int64_t row = 0;
    for (int64_t r = 0; r < size; ++r) {
      for (int64_t i = 0; i < out_counts[static_cast<size_t>(r)]; ++i) EXPECT_EQ(out[row++][1].item<int64_t>(), r);
    }
    at::Tensor nothing = at::empty({0, 2}, at::kLong);
    const std::vector<int64_t> zeros(static_cast<size_t>(size), 0);
    comm.all_to_all(nothing, nothing, zeros, zeros, "test");
    at::Tensor empty = at::empty({0});
    comm.all_reduce(empty, "test");
    comm.broadcast(empty, 0, "test");
    for (const std::string& text : comm.gather_bytes("", "test")) EXPECT_EQ(text, "");
  }));
}

TEST_P(CommOf, ABroadcastKeepsTheRootsBits) {
  const int64_t size = GetParam();
  expect_none(run_ranks(size, [&](Comm& comm) {
    for (int64_t root = 0; root < size; ++root) {
      at::Tensor tensor = values_of(comm.rank(), 1001);
      tensor[3] = std::numeric_limits<float>::quiet_NaN();
      comm.broadcast(tensor, root, "test");
      EXPECT_TRUE(at::equal(tensor.nan_to_num(7), [&] {
        at::Tensor expected = values_of(root, 1001);
        expected[3] = 7;
        return expected;
      }()));
    }
    comm.barrier("test");
  }));
}

TEST_P(CommOf, MessagesComeInTheOrderInWhichTheyWereSentWhileBothGoOn) {
  const int64_t size = GetParam();
  expect_none(run_ranks(size, [&](Comm& comm) {
    const int64_t next = (comm.rank() + 1) % size, previous = (comm.rank() + size - 1) % size;
    std::vector<at::Tensor> got;
    std::vector<std::shared_ptr<Comm::Message>> coming, going;
    for (const int64_t n : {3, 0, 100'003}) {
      got.push_back(at::empty({n}));
      coming.push_back(comm.start_receive(got.back(), previous, "activations"));
      going.push_back(comm.start_send(values_of(comm.rank(), n), next, "activations"));
    }
    comm.barrier("between");
    for (size_t i = 0; i < got.size(); ++i) {
      comm.finish(*going[i]);
      comm.finish(*coming[i]);
      EXPECT_TRUE(at::equal(got[i], values_of(previous, got[i].numel())));
    }
    EXPECT_EQ(comm.calls().totals().at("activations").calls, 6);
    EXPECT_EQ(comm.calls().totals().at("activations").bytes, 4 * 100'006);
  }));
}

TEST(Comm, BothEndsOfAMessageKnowItByOnePlace) {
  std::array<CallPlace, 2> places;
  expect_none(run_ranks(2, [&](Comm& comm) {
    at::Tensor tensor = at::zeros({5}, at::kBFloat16);
    const bool sends = comm.rank() == 1;
    comm.finish(*(sends ? comm.start_send(tensor, 0, "one way") : comm.start_receive(tensor, 1, "one way")));
    places[static_cast<size_t>(comm.rank())] = comm.calls().last().back().place;
    EXPECT_EQ(comm.calls().last().back().kind, std::string(sends ? "send" : "receive"));
    EXPECT_THROW(comm.start_send(tensor, comm.rank(), "to itself"), std::invalid_argument);
    EXPECT_THROW(comm.start_receive(tensor, 2, "from nobody"), std::invalid_argument);
  }));
  EXPECT_EQ(places[0], places[1]);
  EXPECT_EQ(places[0].place, 1U);
}

/// What rank 0 throws of a call that rank 1 never joins; rank 1 lives on until then.
std::string waiting_in_vain(const std::function<void(Comm&)>& call) {
  std::atomic<bool> ended = false;
  const auto errors = run_ranks(2,
                                [&](Comm& comm) {
                                  comm.enter(0, "update");
                                  comm.enter(2, "update");
                                  if (comm.rank() == 1) {
                                    while (!ended) std::this_thread::sleep_for(std::chrono::milliseconds(5));
                                    return;
                                  }
                                  try {
                                    call(comm);
                                  } catch (const PeerLost&) {
                                    ended = true;
                                    throw;
                                  }
                                },
                                {.deadlines = {.step_s = 0.3}});
  EXPECT_TRUE(ended);
  return errors[0];
}

TEST(Comm, AMessageThatDoesNotComeIsLostWhenTheTimeIsUp) {
  const std::string error = waiting_in_vain([](Comm& comm) {
    at::Tensor tensor = at::zeros({5});
    comm.finish(*comm.start_receive(tensor, 1, "activations"));
  });
  EXPECT_TRUE(error.starts_with("rank 1 is lost: rank 0 waited for it in call 2 (step 2, update: receive of "))
      << error;
}

TEST(Comm, WhatGlooWouldTakeWronglyIsRefused) {
  const auto errors = run_ranks(2, [](Comm& comm) {
    at::Tensor column = at::zeros({4, 3}).select(1, 0), transposed = at::zeros({4, 3}).t();
    at::Tensor bools = at::zeros({2}, at::kBool), all = at::zeros({2, 4}), mine = at::zeros({4});
    EXPECT_THROW(comm.all_reduce(column, "test"), std::invalid_argument);
    EXPECT_THROW(comm.all_reduce(transposed, "test"), std::invalid_argument);
    EXPECT_THROW(comm.broadcast(column, 0, "test"), std::invalid_argument);
    EXPECT_THROW(comm.all_gather(all, column, "test"), std::invalid_argument);
    EXPECT_THROW(comm.all_gather(transposed, at::zeros({6}), "test"), std::invalid_argument);
    EXPECT_THROW(comm.reduce_scatter(column, all, "test"), std::invalid_argument);
    EXPECT_THROW(comm.reduce_scatter(mine, transposed, "test"), std::invalid_argument);
    EXPECT_THROW(comm.all_to_all(mine, column, {2, 2}, {2, 2}, "test"), std::invalid_argument);
    EXPECT_THROW(comm.all_to_all(mine, mine, {2, 2}, {2, 3}, "test"), std::invalid_argument);
    EXPECT_THROW(comm.all_reduce(bools, "test"), std::invalid_argument);
    EXPECT_THROW(comm.all_gather(all, at::zeros({3}), "test"), std::invalid_argument);
    EXPECT_THROW(comm.all_gather(all, at::zeros({4}, at::kDouble), "test"), std::invalid_argument);
    comm.barrier("still in step");
  });
  expect_none(errors);
}

TEST(Comm, UnlikeCallsAreNamed) {
  const auto errors = run_ranks(2, [](Comm& comm) {
    at::Tensor tensor = at::zeros({comm.rank() + 3});
    comm.all_reduce(tensor, "gradients");
  });
  for (const std::string& error : errors) {
    EXPECT_NE(error.find("the ranks make unlike calls"), std::string::npos) << error;
    EXPECT_NE(error.find("all_reduce of 'gradients'"), std::string::npos) << error;
    EXPECT_NE(error.find("Float [3]"), std::string::npos) << error;
    EXPECT_NE(error.find("Float [4]"), std::string::npos) << error;
  }
}

TEST(Comm, CountsBytesByPurposeAndKeepsTheLastCalls) {
  expect_none(run_ranks(4,
                        [](Comm& comm) {
                          comm.enter(7, "update");
                          at::Tensor tensor = at::zeros({40'000}), all = at::empty({4, 8});
                          comm.all_reduce(tensor, "gradients");
                          for (int i = 0; i < 300; ++i) comm.all_gather(all, at::zeros({8}), "small");
                          const auto totals = comm.calls().totals();
                          EXPECT_EQ(totals.at("gradients").bytes, 2 * 3 * 10'000 * 4);
                          EXPECT_EQ(totals.at("small").calls, 300);
                          EXPECT_EQ(totals.at("small").bytes, 300 * 3 * 8 * 4);
                          const auto last = comm.calls().last();
                          EXPECT_EQ(last.size(), CallRecord::kKept);
                          EXPECT_EQ(last.back().number, comm.calls().count());
                          EXPECT_EQ(last.front().number, comm.calls().count() - 199);
                          EXPECT_EQ(last.back().purpose, "small");
                          EXPECT_EQ(last.back().step, 7);
                          EXPECT_EQ(last.back().phase, "update");
                          EXPECT_GE(last.back().end_s, last.back().start_s);
                        },
                        {}));
}

TEST(Comm, ARankThatLeavesIsLostToTheOthers) {
  for (const int64_t gone : {0, 2}) {
    const auto errors = run_ranks(3,
                                  [&](Comm& comm) {
                                    comm.enter(4, "reward");
                                    if (comm.rank() == gone) return;
                                    for (int i = 0; i < 100; ++i) comm.barrier("scores");
                                  },
                                  {.deadlines = {.first_step_s = 20}});
    for (int64_t r = 0; r < 3; ++r) {
      const std::string& error = errors[static_cast<size_t>(r)];
      if (r == gone) {
        EXPECT_EQ(error, "");
      } else {
        EXPECT_EQ(
            error.find(fmt::format("rank {} is lost: it has ended (step 4, reward: barrier of 'scores', call ", gone)),
            0)
            << error;
      }
    }
  }
}

TEST(Comm, ARankThatDoesNotComeIsLostWhenTheTimeIsUp) {
  const std::string error = waiting_in_vain([](Comm& comm) { comm.barrier("gradients"); });
  EXPECT_NE(error.find("step 2, update: barrier of 'gradients'"), std::string::npos) << error;
}

TEST(Comm, TheFirstFailingRanksErrorIsThrownOnAll) {
  const auto errors = run_ranks(3, [](Comm& comm) {
    comm.together("fine", [] {});
    EXPECT_THROW(comm.together("inputs",
                               [&] {
                                 if (comm.rank() == 1) throw BadInput("prompts.jsonl: not there");
                                 if (comm.rank() == 2) throw RuntimeFailure("second");
                               }),
                 BadInput);
    EXPECT_THROW(comm.together("stop",
                               [&] {
                                 if (comm.rank() == 2) throw Interrupted("SIGTERM: while it loaded");
                               }),
                 Interrupted);
    comm.together("inputs", [&] {
      if (comm.rank() != 0) throw std::runtime_error("out of paper");
    });
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "out of paper");
}

}  // namespace
}  // namespace unigrpo::parallel

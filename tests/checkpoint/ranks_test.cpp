/// Checkpoints that several ranks write and read, ranks being threads.

#include "runtime/ranks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/fault.h"
#include "base/log.h"
#include "checkpoint/deal.h"
#include "checkpoint/save.h"
#include "checkpoint/snapshots.h"
#include "checkpoint/stateful.h"
#include "io/checkpoint_layout.h"
#include "io/step_folder.h"
#include "optim/parameters.h"
#include "parallel/groups.h"
#include "support/rank_threads.h"
#include "support/temp_folder.h"

namespace unigrpo::checkpoint {
namespace {

namespace fs = std::filesystem;
using test::run_runtimes;
using testing::read_file;
using testing::write_file;

/// Tensors that every rank holds whole.
class Replicated : public Stateful {
 public:
  explicit Replicated(double value)
      : tensors_{{"norm", at::full({7}, value, at::kBFloat16)},
                 {"embed", at::arange(5000, at::kFloat).view({50, 100}) + value},
                 {"step", at::full({1}, static_cast<int64_t>(value), at::kLong)},
                 {"nothing", at::empty({0, 3})},
                 {"scalar", at::full({}, value)}} {}
  std::string name() const override { return "policy"; }
  State state() const override { return {.tensors = tensors_, .values = {{"updates", "3"}}}; }
  void load_state(const State& state, const std::string& where) override {
    optim::assign(tensors_, state.tensors, where);
    EXPECT_EQ(state.values.at("updates"), "3");
  }
  const NamedTensors& tensors() const { return tensors_; }

 private:
  NamedTensors tensors_;
};

/// Tensors of which each rank holds a part, as a sharded optimizer does: the flat list of all elements cut into equal
/// runs, with a hybrid of two replicas where the ranks are four and `hybrid`.
class Sharded : public Stateful {
 public:
  Sharded(const Runtime& runtime, double value, bool hybrid = false) {
    const NamedTensors all = whole(value);
    const int64_t ranks = hybrid ? 2 : runtime.mesh.world_size;
    const int64_t rank = runtime.mesh.rank % ranks;
    int64_t total = 0, begin = 0;
    for (const NamedTensor& each : all) total += each.tensor.numel();
    const int64_t from = total * rank / ranks, to = total * (rank + 1) / ranks;
    for (const NamedTensor& each : all) {
      const at::Tensor& tensor = each.tensor;
      const int64_t size = tensor.numel();
      const int64_t first = std::clamp<int64_t>(from - begin, 0, size), last = std::clamp<int64_t>(to - begin, 0, size);
      tensors_.push_back({each.name, tensor.reshape({-1}).narrow(0, first, last - first).clone(),
                          PieceOf{.shape = tensor.sizes().vec(), .first = first}});
      begin += size;
    }
  }
  static NamedTensors whole(double value) {
    return {{"a.exp_avg", at::arange(777, at::kFloat).view({7, 111}) * value},
            {"b.exp_avg", at::full({3}, value)},
            {"c.master", at::arange(2000, at::kFloat).to(at::kBFloat16) + value}};
  }
  std::string name() const override { return "optimizer"; }
  State state() const override {
    State state{.tensors = {{"a.step", step_}}};
    state.tensors.insert(state.tensors.end(), tensors_.begin(), tensors_.end());
    return state;
  }
  void load_state(const State& state, const std::string& where) override {
    optim::assign(this->state().tensors, state.tensors, where);
  }
  void clear() {
    for (const NamedTensor& each : state().tensors) at::Tensor(each.tensor).zero_();
  }
  bool holds(double value, int64_t step) const {
    const NamedTensors all = whole(value);
    bool same = step_.item<int64_t>() == step;
    for (size_t i = 0; i < all.size(); ++i) {
      const at::Tensor& own = tensors_[i].tensor;
      const int64_t first = tensors_[i].piece->first;
      same = same && at::equal(all[i].tensor.reshape({-1}).narrow(0, first, own.numel()), own);
    }
    return same;
  }
  void set_step(int64_t step) { step_.fill_(step); }

 private:
  NamedTensors tensors_;
  at::Tensor step_ = at::zeros({1}, at::kLong);
};

/// Of which pairs of ranks have the columns between them, each pair's rank a half, and of what it has an uneven share.
class Columns : public Stateful {
 public:
  Columns(const Runtime& runtime, double value) {
    const int64_t ranks = runtime.mesh.world_size, part = runtime.mesh.rank % 2, pair = runtime.mesh.rank / 2;
    for (const NamedTensor& each : whole(value)) {
      if (ranks < 4) {
        const int64_t size = each.tensor.numel(), first = size * runtime.mesh.rank / ranks;
        const int64_t last = size * (runtime.mesh.rank + 1) / ranks;
        tensors_.push_back({each.name, each.tensor.reshape({-1}).narrow(0, first, last - first).clone(),
                            PieceOf{.shape = each.tensor.sizes().vec(), .first = first}});
        continue;
      }
      const int64_t width = each.tensor.size(1) / 2, size = each.tensor.size(0) * width, cut = size * 2 / 3;
      const int64_t first = pair == 0 ? 0 : cut, last = pair == 0 ? cut : size;
      const at::Tensor half = each.tensor.narrow(1, part * width, width).reshape({-1});
      tensors_.push_back(
          {each.name, half.narrow(0, first, last - first).clone(),
           PieceOf{.shape = each.tensor.sizes().vec(), .first = first, .column = part * width, .width = width}});
    }
  }
  static NamedTensors whole(double value) {
    return {{"o.exp_avg", at::arange(13 * 10, at::kFloat).view({13, 10}) * value},
            {"one.exp_avg", at::arange(8, at::kFloat).view({1, 8}) + value},
            {"down.master", (at::arange(6 * 600, at::kFloat).view({600, 6}) * value).to(at::kBFloat16)}};
  }
  std::string name() const override { return "optimizer"; }
  State state() const override { return {.tensors = tensors_}; }
  void load_state(const State& state, const std::string& where) override {
    optim::assign(tensors_, state.tensors, where);
  }

 private:
  NamedTensors tensors_;
};

void expect_no_errors(const std::vector<std::string>& errors) {
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

class CheckpointOfRanks : public ::testing::Test {
 protected:
  CheckpointOfRanks() { log::set_quiet(true); }
  ~CheckpointOfRanks() override { fault::configure(""); }

  /// Commits the state with `value` at `step` on so many ranks.
  std::vector<std::string> save(int64_t ranks, int64_t step, double value, const CheckpointConfig& config = {},
                                bool hybrid = false) {
    return run_runtimes(ranks, [&](const Runtime& runtime) {
      CheckpointStore store(folder_.path(), config, runtime);
      Replicated policy(value);
      Sharded optimizer(runtime, value, hybrid);
      optimizer.set_step(step);
      store.save(take_snapshot(step, "[run]\n", std::vector<Stateful*>{&policy, &optimizer}));
      store.finish();
    });
  }
  /// Loads the newest on so many ranks, and holds it against that state.
  void expect_loads(int64_t ranks, int64_t step, double value, bool hybrid = false) {
    expect_no_errors(run_runtimes(ranks, [&](const Runtime& runtime) {
      CheckpointStore store(folder_.path(), {}, runtime);
      const auto loaded = store.newest();
      ASSERT_TRUE(loaded);
      EXPECT_EQ(loaded->step, step);
      Replicated policy(0), wanted(value);
      Sharded optimizer(runtime, value, hybrid);
      optimizer.clear();
      restore(std::vector<Stateful*>{&policy, &optimizer}, *loaded);
      for (size_t i = 0; i < wanted.tensors().size(); ++i) {
        EXPECT_TRUE(at::equal(policy.tensors()[i].tensor, wanted.tensors()[i].tensor)) << wanted.tensors()[i].name;
      }
      EXPECT_TRUE(optimizer.holds(value, step));
    }));
  }
  std::vector<std::string> names(const fs::path& folder) const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder)) found.push_back(entry.path().filename().string());
    std::ranges::sort(found);
    return found;
  }

  testing::TempFolder folder_{testing::fast_folder()};
};

TEST_F(CheckpointOfRanks, SavedOnNAndLoadedOnMIsTheSameToTheBit) {
  int64_t step = 0;
  for (int64_t saved = 1; saved <= 4; ++saved) {
    const double value = 0.1 * static_cast<double>(++step);
    expect_no_errors(save(saved, step, value));
    for (int64_t loaded = 1; loaded <= 4; ++loaded) expect_loads(loaded, step, value);
  }
}

TEST_F(CheckpointOfRanks, ColumnsAreSavedAsRowsAndLoadedAsEither) {
  // Runtime without Groups but with the one that pairs need.
  const auto on_ranks = [](int64_t ranks, const std::function<void(const Runtime&)>& work) {
    expect_no_errors(run_runtimes(ranks, [&](const Runtime& plain) {
      Runtime runtime = plain;
      if (ranks == 4) runtime.groups = std::make_shared<parallel::Groups>(parallel::make_groups(plain.comm, {.tp = 2}));
      work(runtime);
    }));
  };
  int64_t step = 0;
  for (const int64_t saved : {4, 3, 1}) {
    const double value = 0.3 * static_cast<double>(++step);
    on_ranks(saved, [&](const Runtime& runtime) {
      CheckpointStore store(folder_.path(), {.keep_last = 3}, runtime);
      Columns optimizer(runtime, value);
      store.save(take_snapshot(step, "[run]\n", std::vector<Stateful*>{&optimizer}));
    });
    for (const int64_t loaded_on : {4, 3, 2, 1}) {
      on_ranks(loaded_on, [&](const Runtime& runtime) {
        CheckpointStore store(folder_.path(), {}, runtime);
        const auto loaded = store.newest();
        ASSERT_TRUE(loaded);
        Columns optimizer(runtime, 0), wanted(runtime, value);
        restore(std::vector<Stateful*>{&optimizer}, *loaded);
        const NamedTensors got = optimizer.state().tensors, want = wanted.state().tensors;
        for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(at::equal(got[i].tensor, want[i].tensor)) << want[i].name;
      });
    }
  }
  const io::Manifest manifest = io::read_manifest(folder_.path() / "step_000001" / io::kManifestFile);
  EXPECT_LE(manifest.parts.at("optimizer").at("down.master").pieces.size(), 12U);  // three a rank
}

TEST_F(CheckpointOfRanks, ReplicasShareTheWork) {
  expect_no_errors(save(4, 1, 0.5, {}, /*hybrid=*/true));
  expect_loads(4, 1, 0.5, /*hybrid=*/true);
  expect_loads(3, 1, 0.5);
  const io::Manifest manifest = io::read_manifest(folder_.path() / "step_000001" / io::kManifestFile);
  std::map<std::string, int64_t> bytes;  // by file
  for (const auto& [name, tensor] : manifest.parts.at("optimizer")) {
    for (const io::StoredPiece& piece : tensor.pieces) {
      bytes[piece.file] += piece.count * static_cast<int64_t>(io::dtype_size(tensor.dtype));
    }
  }
  const auto of = [&](int64_t rank) { return bytes[io::part_file_name("optimizer", rank, 4)]; };
  // Ranks 0 and 2 hold the same, as 1 and 3 do; all hold the number of steps.
  EXPECT_GT(of(1), 1000);
  EXPECT_NEAR(static_cast<double>(of(0)), static_cast<double>(of(2)), 8);
  EXPECT_NEAR(static_cast<double>(of(1)), static_cast<double>(of(3)), 8);
}

TEST_F(CheckpointOfRanks, NothingIsWrittenTwiceAndTheSharesAreEqual) {
  expect_no_errors(save(3, 20, 0.25));
  const fs::path folder = folder_.path() / "step_000020";
  EXPECT_EQ(names(folder), (std::vector<std::string>{
                               "manifest.json", "optimizer.rank_00000-of-00003.safetensors",
                               "optimizer.rank_00001-of-00003.safetensors", "optimizer.rank_00002-of-00003.safetensors",
                               "policy.rank_00000-of-00003.safetensors", "policy.rank_00001-of-00003.safetensors",
                               "policy.rank_00002-of-00003.safetensors", "state.json"}));
  const int64_t whole = 7 * 2 + 5000 * 4 + 8 + 4;
  int64_t total = 0;
  for (int rank = 0; rank < 3; ++rank) {
    int64_t own = 0;
    const io::SafetensorsFile file(folder / io::part_file_name("policy", rank, 3));
    for (const io::TensorView& view : file.tensors()) {
      own += static_cast<int64_t>(view.bytes.size());
    }
    EXPECT_NEAR(static_cast<double>(own), static_cast<double>(whole) / 3, 8) << rank;
    total += own;
  }
  EXPECT_EQ(total, whole);
  const io::Manifest manifest = io::read_manifest(folder / io::kManifestFile);
  EXPECT_EQ(manifest.world_size, 3);
  EXPECT_EQ(manifest.parts.at("policy").at("embed").shape, (std::vector<int64_t>{50, 100}));
  EXPECT_TRUE(manifest.parts.at("policy").at("nothing").pieces.empty());
}

TEST_F(CheckpointOfRanks, OneProcessWritesOneFileAPart) {
  expect_no_errors(save(1, 1, 0.5));
  EXPECT_EQ(names(folder_.path() / "step_000001"),
            (std::vector<std::string>{"manifest.json", "optimizer.safetensors", "policy.safetensors", "state.json"}));
  EXPECT_NE(read_file(folder_.path() / "step_000001" / "manifest.json").find("\"version\": 1"), std::string::npos);
}

TEST_F(CheckpointOfRanks, AThreadWritesTheSameBytes) {
  for (const int64_t ranks : {1, 3}) {
    expect_no_errors(save(ranks, ranks, 0.5));
    const fs::path committed = folder_.path() / io::step_name(ranks), aside = folder_.path() / "aside";
    fs::rename(committed, aside);
    expect_no_errors(save(ranks, ranks, 0.5, {.async = true}));
    ASSERT_EQ(names(committed), names(aside));
    for (const std::string& name : names(aside))
      EXPECT_EQ(read_file(committed / name), read_file(aside / name)) << name;
    fs::remove_all(aside);
  }
}

TEST_F(CheckpointOfRanks, ARankThatFailsKeepsAllFromCommitting) {
  expect_no_errors(save(3, 1, 0.5));
  for (const bool async : {false, true}) {
    for (const std::string point : {"save.part:2=eio", "save.part:5=enospc", "save.write:9=enospc", "save.fsync:6=eio",
                                    "save.rename:1=eio", "save.vote:1=eio", "save.vote:3=enospc", "save.manifest:1=eio",
                                    "save.commit:1=enospc", "save.open:4=throw"}) {
      fault::configure(point);
      const std::vector<std::string> errors = save(3, 2, 0.75, {.async = async});
      fault::configure("");
      EXPECT_EQ(std::ranges::count(errors, ""), 0) << point;
      EXPECT_EQ(io::list_steps(folder_.path()), std::vector<int64_t>{1}) << point;
      for (const std::string& name : names(folder_.path())) {
        EXPECT_FALSE(name.starts_with(io::kTemporaryPrefix)) << point << ": " << name;
      }
    }
  }
  expect_loads(2, 1, 0.5);
}

TEST_F(CheckpointOfRanks, AFullDiskOfOneCostsTheCheckpointOfAllWhereTheRecipeSaysSo) {
  for (const bool async : {false, true}) {
    fault::configure("save.part:4=enospc");
    expect_no_errors(save(3, 2, 0.75, {.on_disk_full = OnDiskFull::proceed, .async = async}));
    EXPECT_TRUE(io::list_steps(folder_.path()).empty());
  }
  fault::configure("");
  expect_no_errors(save(3, 2, 0.75, {.on_disk_full = OnDiskFull::proceed}));
  expect_loads(3, 2, 0.75);
}

TEST_F(CheckpointOfRanks, TheLoopGoesOnWhileAThreadWrites) {
  for (const int64_t ranks : {1, 2}) {
    fault::configure("save.part:1=delay:300");
    expect_no_errors(run_runtimes(ranks, [&](const Runtime& runtime) {
      CheckpointStore store(folder_.path(), {.async = true}, runtime);
      Replicated policy(1);
      const std::vector<Stateful*> components = {&policy};
      store.save(take_snapshot(10 * ranks, "", components));
      EXPECT_TRUE(store.is_saving());
      policy.tensors()[1].tensor.fill_(-1);  // the next step moves the weights
      store.poll();
      EXPECT_TRUE(store.is_saving());
      store.save(take_snapshot(10 * ranks + 1, "", components));  // waits for the first
      EXPECT_TRUE(fs::exists(folder_.path() / io::step_name(10 * ranks)));
      EXPECT_TRUE(store.finish());
      EXPECT_FALSE(store.is_saving());
      const auto first = open_checkpoint(folder_.path() / io::step_name(10 * ranks));
      EXPECT_TRUE(at::equal(first.part("policy").at("embed").whole(), Replicated(1).tensors()[1].tensor));
    }));
  }
}

TEST_F(CheckpointOfRanks, AThreadsErrorIsThrownByTheNextPoll) {
  for (const int64_t ranks : {1, 2}) {
    fault::configure("save.part:1=eio");
    const std::vector<std::string> errors = run_runtimes(ranks, [&](const Runtime& runtime) {
      CheckpointStore store(folder_.path(), {.async = true}, runtime);
      Replicated policy(1);
      store.save(take_snapshot(1, "", std::vector<Stateful*>{&policy}));
      while (store.is_saving()) store.poll();
    });
    EXPECT_TRUE(std::ranges::any_of(errors, [](const std::string& error) {
      return error.find("policy.") != std::string::npos && error.find("cannot write") != std::string::npos;
    })) << errors[0];
    EXPECT_EQ(std::ranges::count(errors, ""), 0);
    EXPECT_TRUE(io::list_steps(folder_.path()).empty());
  }
}

TEST_F(CheckpointOfRanks, StatesThatShouldBeAlikeAreCompared) {
  const auto errors = run_runtimes(2, [&](const Runtime& runtime) {
    CheckpointStore store(folder_.path(), {}, runtime);
    store.save({.step = 1, .counters = {{"drift.sum", std::to_string(runtime.mesh.rank)}}});
  });
  for (const std::string& error : errors) {
    EXPECT_EQ(error, "the states of the ranks differ: 'drift.sum' is '0' on rank 0, '1' on rank 1");
  }
  const auto holes = run_runtimes(2, [&](const Runtime& runtime) {
    CheckpointStore store(folder_.path(), {}, runtime);
    const PieceOf piece{.shape = {8}, .first = 5 * runtime.mesh.rank};
    store.save({.step = 1, .parts = {{"policy", {{"w", at::zeros({3}), piece}}}}});
  });
  for (const std::string& error : holes) EXPECT_EQ(error, "no rank holds the elements 3 to 4 of 'w' of policy");
}

/// Ranks that load what is damaged: what they warn of is not seen here, so each is opened by itself too.
class DamagedCheckpointOfRanks : public CheckpointOfRanks {
 protected:
  void SetUp() override {
    expect_no_errors(save(3, 20, 0.5));
    expect_no_errors(save(3, 40, 0.75));
  }
  std::string damage() const {
    return testing::failure_of([&] { open_checkpoint(newest_); });
  }
  void expect_falls_back() {
    for (const int64_t ranks : {1, 2, 4}) {
      expect_no_errors(run_runtimes(ranks, [&](const Runtime& runtime) {
        const auto found = newest_checkpoint(folder_.path(), {}, runtime);
        ASSERT_TRUE(found);
        EXPECT_EQ(found->step, 20);
      }));
    }
  }
  fs::path newest_ = folder_.path() / "step_000040", older_ = folder_.path() / "step_000020";
};

TEST_F(DamagedCheckpointOfRanks, AFlippedBitAnywhereIsFoundAndItsFileNamed) {
  std::vector<fs::path> files;
  for (const std::string& name : names(newest_)) files.push_back(newest_ / name);
  ASSERT_EQ(files.size(), 8);
  testing::flip_bits(files, 200, /*seed=*/2, [&](const fs::path& file, uint64_t place, int trial) {
    const std::string what = damage();
    EXPECT_TRUE(what.starts_with(file.string())) << file << " byte " << place << ": " << what;
    if (trial % 40 == 0) expect_falls_back();
  });
  EXPECT_EQ(damage(), "");
}

TEST_F(DamagedCheckpointOfRanks, TruncatedSwappedForeignAndMissingPartsAreNamed) {
  const std::string first = "policy.rank_00000-of-00003.safetensors", second = "policy.rank_00001-of-00003.safetensors";
  const std::string original = read_file(newest_ / first), other = read_file(newest_ / second);
  write_file(newest_ / first, original.substr(0, original.size() - 1));
  EXPECT_NE(damage().find(first + ": has "), std::string::npos) << damage();
  expect_falls_back();
  write_file(newest_ / first, other);  // two parts swapped
  write_file(newest_ / second, original);
  EXPECT_NE(damage().find(first + ": "), std::string::npos) << damage();
  expect_falls_back();
  write_file(newest_ / first, original);
  write_file(newest_ / second, read_file(older_ / second));  // a part of another step
  EXPECT_NE(damage().find(second + ": "), std::string::npos) << damage();
  expect_falls_back();
  fs::remove(newest_ / second);
  EXPECT_NE(damage().find(second + ": cannot open"), std::string::npos) << damage();
  expect_falls_back();
  write_file(newest_ / second, other);
  write_file(newest_ / "policy.rank_00003-of-00004.safetensors", other);
  EXPECT_NE(damage().find("policy.rank_00003-of-00004.safetensors: not a file of this"), std::string::npos);
  expect_falls_back();
}

TEST_F(DamagedCheckpointOfRanks, ARankPutsItAsideForAll) {
  write_file(newest_ / "optimizer.rank_00002-of-00003.safetensors", "");
  expect_loads(4, 20, 0.5);
  EXPECT_EQ(io::list_steps(folder_.path()), std::vector<int64_t>{20});
  write_file(older_ / "optimizer.rank_00000-of-00003.safetensors", "");
  for (const std::string& error :
       run_runtimes(2, [&](const Runtime& runtime) { newest_checkpoint(folder_.path(), {}, runtime); })) {
    EXPECT_NE(error.find("none of 1 checkpoints verifies; the newest: "), std::string::npos) << error;
    EXPECT_NE(error.find("optimizer.rank_00000-of-00003.safetensors: has 0 bytes"), std::string::npos) << error;
  }
}

TEST_F(DamagedCheckpointOfRanks, AManifestWhosePiecesDoNotFitIsRefused) {
  const fs::path path = newest_ / io::kManifestFile;
  const io::Manifest sound = io::read_manifest(path);
  const auto refusal = [&](const std::function<void(io::StoredTensor&)>& change) {
    io::Manifest manifest = sound;
    change(manifest.parts["policy"].find("embed")->second);
    write_file(path, io::write_manifest(manifest));
    return damage();
  };
  EXPECT_NE(refusal([](auto& tensor) { tensor.pieces[0].count -= 1; }).find("do not follow"), std::string::npos);
  EXPECT_NE(refusal([](auto& tensor) { tensor.pieces.pop_back(); }).find(" of 5000 elements"), std::string::npos);
  EXPECT_NE(refusal([](auto& tensor) { tensor.pieces[0].file = "x"; }).find("which is not listed"), std::string::npos);
  EXPECT_NE(refusal([](auto& tensor) { tensor.shape = {-1}; }).find("no dtype or shape"), std::string::npos);
  EXPECT_NE(refusal([](auto& tensor) { tensor.dtype = io::DType::i32; }).find("is not there as the manifest says"),
            std::string::npos);
  EXPECT_EQ(refusal([](auto&) {}), "");
}

}  // namespace
}  // namespace unigrpo::checkpoint

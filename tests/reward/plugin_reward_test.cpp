#include "reward/plugin/plugin_reward.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/left_behind.h"
#include "base/log.h"
#include "base/text.h"
#include "reward/rewarder.h"
#include "support/temp_folder.h"

namespace unigrpo::reward {
namespace {

namespace fs = std::filesystem;

#ifdef __SANITIZE_ADDRESS__
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

/// Every process that a plugin's test starts has it in its environment; servers of other tests, which live on, have
/// not.
const std::string kMark = "UNIGRPO_TEST_MARK=" + std::to_string(getpid());
struct Marked : ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo& test) override {
    if (std::string_view(test.test_suite_name()).find("Plugin") == std::string_view::npos) {
      unsetenv("UNIGRPO_TEST_MARK");
    } else {
      setenv("UNIGRPO_TEST_MARK", std::to_string(getpid()).c_str(), 1);
    }
  }
};

/// Workers under a sanitizer die as they would without it.
const bool kEnvironment = [] {
  ::testing::UnitTest::GetInstance()->listeners().Append(new Marked);
  setenv("ASAN_OPTIONS", "handle_segv=0:handle_abort=0:abort_on_error=1:detect_leaks=0:use_sigaltstack=0", 1);
  return true;
}();

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

size_t num_processes_left() {
  size_t count = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (std::atoi(name.c_str()) <= 0 || name == std::to_string(getpid())) continue;
    if (text_of(entry.path() / "environ").find(kMark) != std::string::npos) ++count;
  }
  return count;
}

/// Six samples of two prompts; 0/0 .. 0/2 have one of 10 bytes, 1/0 .. 1/2 one of 11.
std::vector<data::Sample> six_samples() {
  std::vector<data::Sample> samples(6);
  for (size_t n = 0; n < samples.size(); ++n) {
    samples[n].id = std::to_string(n / 3) + "/" + std::to_string(n % 3);
    samples[n].prompt = n < 3 ? "ten bytes!" : "eleven byte";
    samples[n].group = static_cast<int64_t>(n / 3);
  }
  return samples;
}

struct Harm {
  std::string what;
  std::string settings = R"(, "batch_size": 6)";
  Isolation isolate = Isolation::process;
  double timeout_s = 30;
};

TermConfig term_of(const Harm& harm, const std::string& on = "1/1") {
  TermConfig term;
  term.name = "bad";
  term.kind = RewardKind::plugin;
  term.plugin.path = UNIGRPO_TEST_PLUGINS "/hostile.so";
  term.plugin.isolate = harm.isolate;
  term.plugin.timeout_s = harm.timeout_s;
  term.plugin.max_memory_gib = 1;  // 64 threads' stacks take half of it
  term.plugin.settings = R"({"do": ")" + harm.what + R"(", "on": ")" + on + "\"" + harm.settings + "}";
  return term;
}

PluginReward started(const TermConfig& term) { return {term.name, term.plugin}; }

/// Where sample 1/1 does the harm: it has no score, for a reason that holds `cause`, and all others have theirs.
void expect_only_the_culprit_lost(const std::vector<Score>& scores, const std::string& cause) {
  ASSERT_EQ(scores.size(), 6u);
  for (size_t n = 0; n < scores.size(); ++n) {
    if (n == 4 && !cause.empty()) {
      EXPECT_FALSE(scores[n].value);
      EXPECT_NE(scores[n].reason.find(cause), std::string::npos) << scores[n].reason;
    } else {
      EXPECT_EQ(scores[n].value, n < 3 ? 10 : 11) << n << ": " << scores[n].reason;
    }
  }
}

std::vector<Score> first_term(const ScoreTable& table) {
  std::vector<Score> scores;
  for (const auto& row : table.scores) scores.push_back(row[0]);
  return scores;
}

struct Case {
  std::string what;
  std::string cause;  // empty: no sample is lost
  double timeout_s = 30;
};

class HostilePlugin : public ::testing::TestWithParam<Case> {};

TEST_P(HostilePlugin, CostsNoSampleButItsOwnItsScore) {
  const Case& hostile = GetParam();
  if (kSanitized && hostile.what == "allocate") GTEST_SKIP() << "the sanitizer's shadow memory cannot be limited";
  const testing::TempFolder folder;
  log::to_file(folder.path() / "log.txt");
  {
    Rewarder rewarder(RewardConfig{.terms = {term_of({.what = hostile.what, .timeout_s = hostile.timeout_s})}});
    for (int call = 0; call < 2; ++call) {  // the second one finds it in order again
      const Stopwatch watch;
      expect_only_the_culprit_lost(first_term(rewarder.score(six_samples())), hostile.cause);
      EXPECT_LT(watch.seconds(), 2 * hostile.timeout_s + 5);
    }
  }
  EXPECT_EQ(num_processes_left(), 0u);
  if (hostile.cause.empty()) return;
  const std::string log = text_of(folder.path() / "log.txt");
  EXPECT_NE(log.find("reward 'bad': no score for sample 1/1 (prompt 'eleven byte'): "), std::string::npos) << log;
  EXPECT_NE(log.find(hostile.cause), std::string::npos) << log;
}

INSTANTIATE_TEST_SUITE_P(
    All, HostilePlugin,
    ::testing::Values(Case{"throw std", "no such luck"}, Case{"throw int", "no std::exception"},
                      Case{"throw no UTF-8",
                           "\xEF\xBF\xBD"
                           "chec"},
                      Case{"throw in silence", "failed without saying why"},
                      Case{"miss without UTF-8", "caf\xEF\xBF\xBD noir"}, Case{"hang", "took longer than 1 s", 1},
                      Case{"sleep", "took longer than 1 s", 1}, Case{"SIGSEGV", "the worker was killed by SIGSEGV"},
                      Case{"SIGABRT", "was killed by SIGABRT"}, Case{"exit", "the worker exited with code 0"},
                      Case{"_exit", "exited with code 3"}, Case{"NaN", "the score is nan"},
                      Case{"Inf", "the score is inf"}, Case{"wrong count", "gave 2 scores for 1 samples"},
                      Case{"out of range", "the score 1e+300 is"},
                      Case{"out of bounds", "the score -7 is outside of 0 .. 1000"},
                      Case{"unknown dimension", "names the dimension 'width'"}, Case{"missing", "cannot tell"},
                      Case{"allocate", "bad_alloc"}, Case{"stack overflow", "was killed by SIGSEGV"},
                      Case{"double free", "was killed by SIGABRT"}, Case{"print", ""},
                      Case{"close all", "exited with code 1"}, Case{"ignore SIGTERM", "took longer than 1 s", 1},
                      Case{"locale and folder", ""}, Case{"leave a child", ""}, Case{"spin", "took longer than 1 s", 1},
                      Case{"crash in the destructor", ""}),
    [](const auto& test) {
      std::string name = test.param.what;
      for (char& c : name) {
        if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
      }
      return name;
    });

class HostileInProcess : public ::testing::TestWithParam<Case> {};

TEST_P(HostileInProcess, IsContainedAsFarAsAProcessNeedNotBe) {
  PluginReward reward = started(term_of({.what = GetParam().what, .isolate = Isolation::none}));
  expect_only_the_culprit_lost(reward.score(six_samples()), GetParam().cause);
}

INSTANTIATE_TEST_SUITE_P(All, HostileInProcess,
                         ::testing::Values(Case{"throw std", "no such luck"}, Case{"throw int", "no std::exception"},
                                           Case{"throw no UTF-8",
                                                "\xEF\xBF\xBD"
                                                "chec"},
                                           Case{"throw in silence", "failed without saying why"},
                                           Case{"miss without UTF-8", "caf\xEF\xBF\xBD noir"},
                                           Case{"NaN", "the score is nan"}, Case{"Inf", "the score is inf"},
                                           Case{"wrong count", "gave 2 scores for 1 samples"},
                                           Case{"out of range", "beyond float32"}, Case{"out of bounds", "outside of"},
                                           Case{"unknown dimension", "'width'"}, Case{"missing", "cannot tell"}));

std::string refusal(const TermConfig& term) {
  try {
    PluginReward reward = started(term);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

TEST(PluginReward, IsRefusedWhereItsConstructorCrashes) {
  const std::string message = refusal(term_of({.what = "crash in the constructor"}));
  EXPECT_EQ(message.find("reward 'bad': /"), 0u) << message;
  EXPECT_NE(message.find("hostile.so: the worker was killed by SIGSEGV before it was ready"), std::string::npos)
      << message;
  EXPECT_EQ(num_processes_left(), 0u);
}

TEST(PluginReward, IsRefusedForAnotherAbiVersion) {
  TermConfig term = term_of({.what = ""});
  term.plugin.path = UNIGRPO_TEST_PLUGINS "/hostile_abi.so";
  for (const Isolation isolate : {Isolation::process, Isolation::none}) {
    term.plugin.isolate = isolate;
    EXPECT_NE(refusal(term).find("built for plugin ABI version 99, this program has 1"), std::string::npos)
        << refusal(term);
  }
}

TEST(PluginReward, IsRefusedForItsSettingsFileOrKind) {
  EXPECT_NE(refusal(term_of({.what = "", .settings = R"(, "batch_sise": 6)"}))
                .find("hostile.so: unknown setting 'batch_sise'"),
            std::string::npos);
  TermConfig term = term_of({.what = ""});
  term.plugin.path = "";
  EXPECT_EQ(refusal(term), "reward 'bad': path: missing (the plugin's file)");
  const testing::TempFolder folder;
  fs::permissions(folder.path(), fs::perms::owner_all);
  term.plugin.path = folder.write("judge.py", "#!/bin/sh\n").string();
  EXPECT_NE(refusal(term).find("neither a shared library (.so) nor a program (chmod +x it)"), std::string::npos);
  fs::permissions(term.plugin.path, fs::perms::owner_all);
  term.plugin.isolate = Isolation::none;
  EXPECT_NE(refusal(term).find("isolate = \"none\" is for shared libraries"), std::string::npos);
}

TEST(PluginReward, StopsOrTriesAgainAsTheRecipeSays) {
  for (const OnError on_error : {OnError::stop, OnError::retry, OnError::drop_sample, OnError::drop_group}) {
    Rewarder rewarder(RewardConfig{.on_error = on_error, .terms = {term_of({.what = "SIGSEGV"})}});
    if (on_error == OnError::stop) {
      try {
        rewarder.score(six_samples());
        ADD_FAILURE();
      } catch (const RuntimeFailure& error) {
        EXPECT_EQ(
            std::string(error.what()),
            "reward 'bad' has no score for sample 1/1: the worker was killed by SIGSEGV (reward.on_error = stop)");
      }
      continue;
    }
    const ScoreTable table = rewarder.score(six_samples());
    EXPECT_FALSE(table.scores[4][0].value);
    EXPECT_EQ(table.scores[5][0].value, 11);
  }
}

TEST(PluginReward, LosesTheGroupAndNoOtherWhereItComparesGroups) {
  PluginReward reward = started(term_of({.what = "SIGSEGV", .settings = R"(, "batch_size": 6, "wants_groups": true)"}));
  EXPECT_TRUE(reward.wants_groups());
  const std::vector<Score> scores = reward.score(six_samples());
  for (size_t n = 0; n < 3; ++n) EXPECT_EQ(scores[n].value, 10);
  for (size_t n = 3; n < 6; ++n) EXPECT_EQ(scores[n].reason, "the worker was killed by SIGSEGV");
}

TEST(PluginReward, BlamesNoSampleForADeathBetweenTwoCalls) {
  PluginReward reward = started(term_of({.what = "die later"}));
  expect_only_the_culprit_lost(reward.score(six_samples()), "");
  while (num_processes_left() > 0) usleep(1000);
  const std::vector<data::Sample> samples = six_samples();
  for (const Score& score : reward.score(std::span(samples).first(3))) EXPECT_EQ(score.value, 10) << score.reason;
}

TEST(PluginReward, ServesAsManyCallsAtOnceAsItDeclares) {
  for (const Isolation isolate : {Isolation::process, Isolation::none}) {
    const std::string harm = isolate == Isolation::process ? "SIGSEGV" : "throw std";
    PluginReward reward = started(term_of({.what = harm, .settings = R"(, "threads": 3)", .isolate = isolate}));
    expect_only_the_culprit_lost(reward.score(six_samples()),
                                 isolate == Isolation::process ? "SIGSEGV" : "no such luck");
  }
}

/// How a file is lost during a run: replaced as a build does it, written over in place, or gone.
void lose(const fs::path& file, const std::string& how) {
  if (how == "written over") {
    std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
    const std::string other(fs::file_size(file), 'x');
    out << other;
    return;
  }
  fs::remove(file);
  if (how == "replaced") std::ofstream(file) << "other bytes";
}

TEST(PluginReward, GoesOnWithTheFileThatItBeganWith) {
  for (const std::string how : {"replaced", "written over", "gone"}) {
    const testing::TempFolder folder;
    fs::permissions(folder.path(), fs::perms::owner_all);
    TermConfig term = term_of({.what = "SIGSEGV", .settings = ""});
    const fs::path copy = folder.path() / "copy.so";
    fs::copy_file(term.plugin.path, copy);
    term.plugin.path = copy.string();
    PluginReward reward = started(term);
    const std::string sha256 = reward.sha256();
    lose(copy, how);
    log::to_file(folder.path() / "log.txt");
    expect_only_the_culprit_lost(reward.score(six_samples()), "the worker was killed by SIGSEGV");
    EXPECT_NE(text_of(folder.path() / "log.txt").find(sha256), std::string::npos) << how;
    term.plugin.isolate = Isolation::none;
    if (how == "gone") {
      EXPECT_NE(refusal(term).find("copy.so: No such file"), std::string::npos);
    }
  }
}

TEST(PluginReward, LoadsALibraryInThisProcessFromItsFileOfTheStart) {
  const testing::TempFolder folder;
  fs::permissions(folder.path(), fs::perms::owner_all);
  TermConfig term = term_of({.what = "", .settings = "", .isolate = Isolation::none});
  const fs::path copy = folder.path() / "copy.so";
  fs::copy_file(term.plugin.path, copy);
  term.plugin.path = copy.string();
  PluginReward reward = started(term);
  lose(copy, "written over");
  expect_only_the_culprit_lost(reward.score(six_samples()), "");
}

TEST(PluginReward, IsNotWaitedForOnceAStopIsAskedFor) {
  for (const std::string harm : {"hang", "hang in the destructor"}) {
    std::atomic<int> signal{0};
    Stopwatch watch;
    {
      Rewarder rewarder(
          RewardConfig{.terms = {term_of({.what = harm, .settings = R"(, "threads": 2)"}, "")}},
          [&](const TermConfig& term) { return make_reward(term, StopToken(signal)); }, StopToken(signal));
      rewarder.submit(0, six_samples());
      usleep(300'000);
      watch.restart();
      signal = SIGTERM;
      const ScoreTable table = rewarder.collect();
      if (harm == "hang") {
        EXPECT_NE(table.scores[0][0].reason.find("SIGTERM"), std::string::npos);
      }
    }
    EXPECT_LT(watch.seconds(), kSanitized ? 6 : 2) << harm;
  }
  while (num_processes_left() > 0) usleep(1000);
}

TEST(PluginReward, IsNotWaitedForWhileItStarts) {
  std::atomic<int> signal{0};
  const std::jthread sender([&] {
    usleep(300'000);
    signal = SIGTERM;
  });
  const Stopwatch watch;
  const TermConfig term = term_of({.what = "hang in the constructor"});
  EXPECT_THROW(PluginReward(term.name, term.plugin, StopToken(signal)), Interrupted);
  EXPECT_LT(watch.seconds(), kSanitized ? 6 : 2);
}

// ---- the C interface's rules ----

TermConfig bare(const std::string& harm, Isolation isolate, const std::string& file = "bare.so") {
  TermConfig term = term_of({.what = "", .isolate = isolate});
  term.plugin.path = UNIGRPO_TEST_PLUGINS "/" + file;
  term.plugin.settings = R"({"do": ")" + harm + "\"}";
  return term;
}

TEST(BarePlugin, IsRefusedForADescriptionThatCannotBeRead) {
  const std::pair<std::string, std::string> cases[] = {
      {"throw in create", "an exception left the plugin's create function: caf\xEF\xBF\xBD"},
      {"throw an int in create", "an exception left the plugin's create function"},
      {"fail to create in silence", "failed without saying why"},
      {"fill the error", "\xEF\xBF\xBD"},
      {"no list", "and no list"},
      {"NULL dimension", "it declares NULL as dimension 1"},
      {"NULL name", "it declares the dimension 1 without a name"},
      {"short dimension", "a dimension 1 of 8 bytes, expected 32"},
      {"no UTF-8 name", "it declares the dimension '\\xe9t\\xe9'"},
      {"endless list", "it declares number of dimensions = 4294967295"}};
  for (const Isolation isolate : {Isolation::process, Isolation::none}) {
    for (const auto& [harm, part] : cases) {
      const std::string message = refusal(bare(harm, isolate));
      EXPECT_NE(message.find(part), std::string::npos) << harm << ": " << message;
      EXPECT_TRUE(is_valid_utf8(message)) << harm;
    }
    EXPECT_NE(refusal(bare("", isolate, "bare_small.so")).find("has a struct of 4 bytes, expected 32"),
              std::string::npos);
    EXPECT_NE(refusal(bare("", isolate, "bare_null.so")).find("lacks create, score or destroy"), std::string::npos);
  }
}

TEST(BarePlugin, LosesTheSampleThatItStrikes) {
  const std::pair<std::string, std::string> cases[] = {
      {"throw in score",
       "an exception left the plugin's score function: \xEF\xBF\xBD"
       "chec"},
      {"fail in silence", "failed without saying why"},
      {"score another sample", "scored dimension 0 of sample 1152921504606846976"},
      {"score another dimension", "scored dimension 4294967295 of sample 0"},
      {"note what is no text", ""},
      {"note no UTF-8", ""},
      {"miss without UTF-8",
       "\xEF\xBF\xBD"
       "chec"},
      {"miss in silence", "no reason given"},
      {"throw in destroy", ""}};
  for (const Isolation isolate : {Isolation::process, Isolation::none}) {
    for (const auto& [harm, cause] : cases) {
      PluginReward reward = started(bare(harm, isolate));
      const std::vector<Score> scores = reward.score(six_samples());
      for (size_t n = 0; n < scores.size(); ++n) {
        EXPECT_EQ(scores[n].value.has_value(), n != 4 || cause.empty()) << harm << ": " << scores[n].reason;
      }
      EXPECT_NE(scores[4].reason.find(cause), std::string::npos) << harm << ": " << scores[4].reason;
      if (harm == "note no UTF-8") {
        EXPECT_EQ(scores[4].notes.at("n\xEF\xBF\xBD"), "caf\xEF\xBF\xBD noir");
      }
    }
  }
}

TEST(BarePlugin, HasTheSamplesWithoutTheUsedDimensionInTheLog) {
  const testing::TempFolder folder;
  log::to_file(folder.path() / "log.txt");
  TermConfig term = bare("lack the second", Isolation::process);
  term.name = "judge";
  term.dimension = "second";
  Rewarder rewarder(RewardConfig{.on_error = OnError::retry, .terms = {term}});
  const ScoreTable table = rewarder.score(six_samples());
  for (size_t n = 0; n < 6; ++n) EXPECT_EQ(table.scores[n][0].value.has_value(), n != 4);
  const std::string log = text_of(folder.path() / "log.txt");
  const std::string line = "reward 'judge': no score for sample 1/1 (prompt 'eleven byte'): the plugin gave no value";
  const size_t first = log.find(line);
  ASSERT_NE(first, std::string::npos) << log;
  EXPECT_NE(log.find(line, first + 1), std::string::npos) << "asked once more: " << log;
}

TEST(PluginReward, HasItsOnlyNumberUnderItsNameAsWell) {
  TermConfig term = term_of({.what = ""});
  term.dimension = "length";
  Rewarder rewarder(RewardConfig{.terms = {term}});
  EXPECT_EQ(rewarder.score(six_samples()).scores[0][0].value, 10);
}

TEST(PluginReward, SaysWhenNoOtherProcessCanBeStarted) {
  PluginReward reward = started(term_of({.what = "SIGSEGV", .settings = ""}));
  fault::configure("plugin.spawn=throw");
  const std::vector<Score> scores = reward.score(six_samples());
  fault::configure("");
  EXPECT_NE(scores[5].reason.find("the worker could not be started again"), std::string::npos) << scores[5].reason;
  EXPECT_EQ(reward.score(six_samples())[5].value, 11);
}

// ---- programs as workers ----

TermConfig program_of(const testing::TempFolder& folder, const std::string& script) {
  fs::permissions(folder.path(), fs::perms::owner_all);
  TermConfig term;
  term.name = "episode";
  term.kind = RewardKind::plugin;
  term.plugin.path = folder.write("worker", script).string();
  fs::permissions(term.plugin.path, fs::perms::owner_all);
  return term;
}

TEST(PluginProgram, IsRefusedWhereItDoesNotSpeakTheProtocol) {
  const testing::TempFolder folder;
  EXPECT_NE(refusal(program_of(folder, "#!/bin/sh\nexit 5\n"))
                .find("worker: the worker exited with code 5 before it was ready"),
            std::string::npos);
  EXPECT_NE(refusal(program_of(folder, "#!/bin/sh\nprintf 123456789012345678901234 >&3\nsleep 1000\n"))
                .find("the worker answered request"),
            std::string::npos);
  EXPECT_NE(refusal(program_of(folder, "#!/no/such/interpreter\n")).find("exited with code 127"), std::string::npos);
  EXPECT_EQ(num_processes_left(), 0u);
}

TEST(PluginProgram, ScoresARunFromPython) {
  TermConfig term;
  term.name = "colours";
  term.kind = RewardKind::plugin;
  term.plugin.path = UNIGRPO_SOURCE_DIR "/plugins/python_judge/judge.py";
  PluginReward reward = started(term);
  EXPECT_EQ(reward.dimensions().at(1), "ink");

  std::vector<data::Sample> samples = six_samples();
  for (data::Sample& sample : samples) sample.prompt = "a red and a blue circle";
  Image image{.width = 33, .height = 2, .pixels = std::vector<uint8_t>(33 * 2 * 3, 255)};
  for (int x = 0; x < 33; ++x) image.at(x, 1)[1] = image.at(x, 1)[2] = 40;  // the lower half is red
  samples[1].segments.push_back({.kind = data::SegmentKind::image, .text = "", .image = image});
  for (int call = 0; call < 2; ++call) {
    const std::vector<Score> scores = reward.score(samples);
    EXPECT_EQ(scores[0].reason, "no image");
    EXPECT_EQ(scores[1].value, 0.5) << scores[1].reason;
    EXPECT_EQ(scores[1].parts.at("colors"), 0.5);
    EXPECT_EQ(scores[1].parts.at("ink"), 0.5);
    EXPECT_EQ(scores[1].notes.at("found"), "red");
    image = Image{.width = 640, .height = 640, .pixels = std::vector<uint8_t>(640 * 640 * 3, 255)};
    samples[2].segments.push_back({.kind = data::SegmentKind::image, .text = "", .image = image});  // memory grows
  }

  term.plugin.settings = R"({"tolerence": 3})";
  EXPECT_NE(refusal(term).find("ValueError: unknown setting 'tolerence'"), std::string::npos) << refusal(term);
}

TEST(PluginProgram, LosesItsOwnSamplesOnly) {
  const testing::TempFolder folder;
  const std::string library = UNIGRPO_SOURCE_DIR "/plugins/python_judge";
  PluginReward reward =
      started(program_of(folder,
                         "#!/usr/bin/env python3\n"
                         "import sys; sys.path.insert(0, '" +
                             library +
                             "'); sys.dont_write_bytecode = True\n"
                             "import os, unigrpo_worker\n"
                             "def score(samples):\n"
                             "    for sample in samples:\n"
                             "        if sample.id == '1/1': os.abort()\n"
                             "        if sample.id == '0/2': return []\n"
                             "    return [float('nan') if s.id == '0/1' else len(s.prompt) for s in samples]\n"
                             "unigrpo_worker.serve(lambda settings: score, name='bad', batch_size=6)\n"));
  const std::vector<Score> scores = reward.score(six_samples());
  EXPECT_EQ(scores[0].value, 10);
  EXPECT_EQ(scores[1].reason, "the score is nan");
  EXPECT_EQ(scores[2].reason, "the worker gave 0 scores for 1 samples");
  EXPECT_EQ(scores[3].value, 11);
  EXPECT_EQ(scores[4].reason, "the worker was killed by SIGABRT");
  EXPECT_EQ(scores[5].value, 11);
}

TEST(PluginProgram, GoesOnWithTheFileThatItBeganWith) {
  for (const std::string how : {"replaced", "gone"}) {
    const testing::TempFolder folder;
    const TermConfig term = program_of(folder,
                                       "#!/usr/bin/env python3\n"
                                       "import sys; sys.path.insert(0, '" UNIGRPO_SOURCE_DIR
                                       "/plugins/python_judge'); sys.dont_write_bytecode = True\n"
                                       "import os, unigrpo_worker\n"
                                       "def score(samples):\n"
                                       "    if any(sample.id == '1/1' for sample in samples): os.abort()\n"
                                       "    return [len(sample.prompt) for sample in samples]\n"
                                       "unigrpo_worker.serve(lambda settings: score, name='bad', batch_size=6)\n");
    PluginReward reward = started(term);
    lose(term.plugin.path, how);
    expect_only_the_culprit_lost(reward.score(six_samples()), "the worker was killed by SIGABRT");
  }
}

}  // namespace
}  // namespace unigrpo::reward

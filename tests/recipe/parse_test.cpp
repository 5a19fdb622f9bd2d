#include "recipe/parse.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "recipe/support.h"
#include "support/temp_folder.h"

namespace unigrpo::recipe {
namespace {

std::string repeat(std::string_view piece, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += piece;
  return text;
}

struct Bad {
  std::string text;
  std::string message;
};

TEST(Parse, SaysWhereAndWhatIsWrong) {
  const std::vector<Bad> cases = {
      // Unknown keys and tables
      {"[grpo]\ngrop_size = 8\n", "FILE:2:1: grpo.grop_size: unknown key, did you mean 'grpo.group_size'?"},
      {"group_size = 8\n", "FILE:1:1: group_size: unknown key, did you mean 'grpo.group_size'?"},
      {"[rollout]\n\n  group_size = 8\n", "FILE:3:3: rollout.group_size: unknown key, did you mean 'grpo.group_size'?"},
      {"[optim]\nlearning_rate = 1e-4\n",
       "FILE:2:1: optim.learning_rate: unknown key, expected one of lr, beta1, beta2, eps, "
       "weight_decay, warmup_steps, "
       "schedule, schedule_steps, max_grad_norm, on_nonfinite, max_skipped, groups, ema"},
      {"[run]\nzzzzzz = 1\n",
       "FILE:2:1: run.zzzzzz: unknown key, expected one of name, dir, seed, num_steps, threads, deterministic"},
      {"[grop]\ngroup_size = 8\n", "FILE:1:2: grop: unknown table, did you mean 'grpo'?"},
      {"[rollout.windw]\nwidth = 2\n", "FILE:1:10: rollout.windw: unknown table, did you mean 'rollout.window'?"},
      {"[window]\nwidth = 2\n", "FILE:1:2: window: unknown table, did you mean 'rollout.window'?"},
      {"[quantum]\nx = 1\n",
       "FILE:1:2: quantum: unknown table, expected one of run, policy, data, rollout, grpo, "
       "reward, rewards, optim, checkpoint, parallel, "
       "monitor, eval, sft, tasks"},
      {"[[rewards]]\nkind = \"geneval\"\nwieght = 2\n",
       "FILE:3:1: rewards.0.wieght: unknown key, did you mean 'rewards.0.weight'?"},
      {"[[optim.groups]]\npattern = \"a\"\nlr = 1\n[[optim.groups]]\npatern = \"b\"\nlr = 1\n",
       "FILE:5:1: optim.groups.1.patern: unknown key, did you mean 'optim.groups.1.pattern'?"},
      // Sub-tables of a list's elements
      {"[[rewards]]\n[rewards.http]\nmax_trys = 2\n",
       "FILE:3:1: rewards.0.http.max_trys: unknown key, did you mean 'rewards.0.http.max_tries'?"},
      {"[[rewards]]\n[[rewards]]\nhttp.modell = \"m\"\n",
       "FILE:3:6: rewards.1.http.modell: unknown key, did you mean 'rewards.1.http.model'?"},
      {"[[rewards]]\nurl = \"https://a\"\n",
       "FILE:2:1: rewards.0.url: unknown key, did you mean 'rewards.0.http.url'?"},
      {"[[rewards]]\n[rewards.htp]\nurl = \"https://a\"\n",
       "FILE:2:10: rewards.0.htp: unknown table, did you mean 'rewards.0.http'?"},
      {"[[rewards]]\n[rewards.http]\nquantum = 1\n",
       "FILE:3:1: rewards.0.http.quantum: unknown key, expected one of url, key_env, ca_file, allow_plain_http, "
       "use_proxy, probe, max_concurrent, max_tries, image_format, batch_size, format, whole_groups, model, system, "
       "template, "
       "max_tokens, temperature, score_pointer, score_regex, scale, offset, min_number, max_number"},
      {"[[rewards]]\nquantum = 1\n",
       "FILE:2:1: rewards.0.quantum: unknown key, expected one of name, kind, dimension, metric, detector, "
       "pattern, min_tokens, max_tokens, overlong_cache, jpeg_prefer, model, timeout_s, http, path, isolate, "
       "max_memory_gib, "
       "settings, "
       "weight, modality, streams, scale, clip, gate, gate_min"},
      {"[[rewards]]\nhttp = \"https://a\"\n",
       "FILE:2:8: rewards.0.http: expected a table [rewards.http], got \"https://a\""},
      {"[[rewards]]\n\"http.url\" = \"https://a\"\n",
       "FILE:2:1: rewards.0.\"http.url\": unknown key, did you mean 'rewards.0.http.url'?"},
      {"[[rewards]]\n[rewards.http]\nurl = \"ftp://a\"\n",
       "FILE:3:7: rewards.0.http.url: expected an http:// or https:// address without user name, got \"ftp://a\""},
      {"[[rewards]]\nhttp = {max_concurrent = 0}\n",
       "FILE:2:26: rewards.0.http.max_concurrent: expected an integer from 1 to 512, got 0"},
      {"[[rewards]]\nhttp.url.x = 1\n",
       "FILE:2:6: rewards.0.http.url: expected an http:// or https:// address without user name, got a table"},
      {"[policy]\nlora.rnk = 4\n", "FILE:2:6: policy.lora.rnk: unknown key, did you mean 'policy.lora.rank'?"},
      {"\"grpo.group_size\" = 8\n", "FILE:1:1: \"grpo.group_size\": unknown key, did you mean 'grpo.group_size'?"},
      {"[run]\n\"a\\nb\" = 1\n",
       "FILE:2:1: run.\"a\\nb\": unknown key, expected one of name, dir, seed, num_steps, threads, deterministic"},
      {"[run]\n\"\" = 1\n",
       "FILE:2:1: run.\"\": unknown key, expected one of name, dir, seed, num_steps, threads, deterministic"},
      // Wrong types
      {"[grpo]\ngroup_size = 8.0\n", "FILE:2:14: grpo.group_size: expected an integer from 2 to 65536, got 8.0"},
      {"[grpo]\ngroup_size = \"8\"\n", "FILE:2:14: grpo.group_size: expected an integer from 2 to 65536, got \"8\""},
      {"[grpo]\ngroup_size = [8]\n", "FILE:2:14: grpo.group_size: expected an integer from 2 to 65536, got a list"},
      {"[grpo.group_size]\n", "FILE:1:1: grpo.group_size: expected an integer from 2 to 65536, got a table"},
      {"[run]\nnum_steps = 1979-05-27\n",
       "FILE:2:13: run.num_steps: expected an integer from 1 to 1e9, got a date or time"},
      {"[optim]\nlr = \"1e-4\"\n", "FILE:2:6: optim.lr: expected a number >= 0, got \"1e-4\""},
      {"[optim]\nlr = true\n", "FILE:2:6: optim.lr: expected a number >= 0, got true"},
      {"[optim]\nlr = nan\n", "FILE:2:6: optim.lr: expected a number >= 0, got nan"},
      {"[optim]\nlr = inf\n", "FILE:2:6: optim.lr: expected a number >= 0, got inf"},
      {"[optim]\nlr = 1e30\n", "FILE:2:6: optim.lr: expected a number from 0 to 1000, got 1e+30"},
      {"[[optim.groups]]\npattern = \"*\"\nlr = 1e30\n",
       "FILE:3:6: optim.groups.0.lr: expected a number from 0 to 1000, got 1e+30"},
      {"[optim]\nmax_grad_norm = 1e300\n",
       "FILE:2:17: optim.max_grad_norm: expected 0 or a number from 1e-06 to 1e12, got 1e+300"},
      {"[grpo.text]\ndual_clip = 1e30\n",
       "FILE:2:13: grpo.text.dual_clip: expected 0 or a number > 1 and <= 1e6, got 1e+30"},
      {"[monitor.drift]\nthreshold = 1e300\n",
       "FILE:2:13: monitor.drift.threshold: expected a number > 0 and <= 1e9, got 1e+300"},
      {"[[rewards]]\nweight = -1e300\n",
       "FILE:2:10: rewards.0.weight: expected a number from -1e6 to 1e6, got -1e+300"},
      {"[[rewards]]\nclip = 1e300\n", "FILE:2:8: rewards.0.clip: expected a number from 0 to 1e12, got 1e+300"},
      {"[[rewards]]\ngate_min = 1e300\n",
       "FILE:2:12: rewards.0.gate_min: expected a number from -1e12 to 1e12, got 1e+300"},
      {"[[rewards]]\nkind = \"http\"\nhttp.scale = 1e300\n",
       "FILE:3:14: rewards.0.http.scale: expected a number from -1e6 to 1e6, got 1e+300"},
      {"[[rewards]]\nweight = -inf\n", "FILE:2:10: rewards.0.weight: expected a number, got -inf"},
      {"[monitor]\nreport = 1\n", "FILE:2:10: monitor.report: expected true or false, got 1"},
      {"[monitor]\nreport = \"yes\"\n", "FILE:2:10: monitor.report: expected true or false, got \"yes\""},
      {"[run]\ndir = 7\n", "FILE:2:7: run.dir: expected a string, got 7"},
      {"[policy]\ndtype = 32\n", "FILE:2:9: policy.dtype: expected one of float32 | bfloat16, got 32"},
      {"[rollout]\nepisode = \"image\"\n",
       "FILE:2:11: rollout.episode: expected a non-empty list of \"text\", \"image\" and \"av\", got "
       "\"image\""},
      {"[policy]\nfreeze = [\"a\", 1]\n", "FILE:2:16: policy.freeze.1: expected a non-empty string, got 1"},
      {"grpo = 3\n", "FILE:1:8: grpo: expected a table [grpo], got 3"},
      {"[[grpo]]\n", "FILE:1:1: grpo: expected a table [grpo], got a list"},
      {"[rewards]\nkind = \"geneval\"\n", "FILE:1:1: rewards: expected a list of tables [[rewards]], got a table"},
      {"rewards = [1]\n", "FILE:1:12: rewards.0: expected a list of tables [[rewards]], got 1"},
      {"rewards = 1\n", "FILE:1:11: rewards: expected a list of tables [[rewards]], got 1"},
      // Out of range
      {"[grpo]\ngroup_size = 1\n", "FILE:2:14: grpo.group_size: expected an integer from 2 to 65536, got 1"},
      {"[run]\nnum_steps = 0\n", "FILE:2:13: run.num_steps: expected an integer from 1 to 1e9, got 0"},
      {"[run]\nseed = -1\n", "FILE:2:8: run.seed: expected an integer >= 0, got -1"},
      {"[run]\nname = \"a/b\"\n", "FILE:2:8: run.name: expected a folder name (1 to 200 bytes, no '/'), got \"a/b\""},
      {"[run]\nname = \"..\"\n", "FILE:2:8: run.name: expected a folder name (1 to 200 bytes, no '/'), got \"..\""},
      {"[run]\nname = \"\"\n", "FILE:2:8: run.name: expected a folder name (1 to 200 bytes, no '/'), got \"\""},
      {"[run]\ndir = \"a\\u0000b\"\n",
       "FILE:2:7: run.dir: expected a string without control characters, got \"a\\u0000b\""},
      {"[rollout]\ntemperature = 0\n", "FILE:2:15: rollout.temperature: expected a number from 0.01 to 100, got 0"},
      {"[rollout]\nepisode = []\n",
       "FILE:2:11: rollout.episode: expected a non-empty list of \"text\", \"image\" and \"av\", got an "
       "empty list"},
      {"[monitor.drift]\nstatistics = [\"text_length\", \"sharpness\"]\n",
       "FILE:2:30: monitor.drift.statistics.1: expected one of brightness, chroma, dark_share, "
       "saturated_share, edge_density, color_entropy, image_diversity, text_length, "
       "text_repetition, text_diversity, got \"sharpness\""},
      {"[rollout]\nepisode = [\"text\", \"video\"]\n",
       "FILE:2:20: rollout.episode.1: expected \"text\", \"image\" or \"av\", got \"video\""},
      {"[rollout.sde]\nkind = \"flow\"\n",
       "FILE:2:8: rollout.sde.kind: expected one of flow_sde | cps | dance, got \"flow\""},
      {"[grpo.text]\nimportance = \"tokens\"\n",
       "FILE:2:14: grpo.text.importance: expected one of token | sequence | cispo, got \"tokens\" "
       "(did you mean "
       "\"token\"?)"},
      {"[rollout.window]\nlast = 0\n",
       "FILE:2:8: rollout.window.last: expected -1 or an integer from 1 to 10000, got 0"},
      {"[grpo.text]\nclip_low = 1\n", "FILE:2:12: grpo.text.clip_low: expected a number > 0 and < 1, got 1"},
      {"[grpo.text]\ndual_clip = 0.5\n", "FILE:2:13: grpo.text.dual_clip: expected 0 or a number > 1, got 0.5"},
      {"[grpo.image]\nclip_range = 0.0\n", "FILE:2:14: grpo.image.clip_range: expected a number > 0 and < 1, got 0.0"},
      {"[policy.lora]\nrank = 0\n", "FILE:2:8: policy.lora.rank: expected an integer from 1 to 4096, got 0"},
      {"[reward]\nmax_dropped = 1.5\n", "FILE:2:15: reward.max_dropped: expected a number from 0 to 1, got 1.5"},
      {"[[rewards]]\nname = \"a b\"\n",
       "FILE:2:8: rewards.0.name: expected a name of letters, digits and _ - . (at most 100), "
       "got \"a b\""},
      {"[[optim.groups]]\npattern = \"\"\nlr = 1\n",
       "FILE:2:11: optim.groups.0.pattern: expected a non-empty string, got \"\""},
      {"[checkpoint]\non_disk_full = \"proceed\"\n",
       "FILE:2:16: checkpoint.on_disk_full: expected one of stop | continue, got \"proceed\""},
      {"[policy]\nmodel = 0x7fffffffffffffff\n", "FILE:2:9: policy.model: expected a string, got 9223372036854775807"},
      {fmt::format("[policy]\ndtype = \"{}\"\n", repeat("x", 100)),
       fmt::format("FILE:2:9: policy.dtype: expected one of float32 | bfloat16, got \"{}\"...", repeat("x", 60))},
      // The first in the file, whatever its alphabetical place
      {"[run]\nseed = -1\n[grpo]\ngroup_size = 1\n", "FILE:2:8: run.seed: expected an integer >= 0, got -1"},
      {"[sft]\nstage = \"x\"\n[checkpoint]\nevry = 1\n",
       "FILE:2:9: sft.stage: expected one of autoencoder | joint, got \"x\""},
      // Elements that lack a key
      {"[[optim.groups]]\nlr = 1\n", "FILE: optim.groups.0.pattern: missing (string: of parameter names, * and ?)"},
      {"[optim]\ngroups = [{pattern = \"a\", lr = 1}, {pattern = \"b\"}]\n",
       "FILE: optim.groups.1.lr: missing (float: learning rate)"},
  };
  for (const Bad& bad : cases) EXPECT_EQ(refusal(bad.text), bad.message) << bad.text;
}

TEST(Parse, RefusesWhatIsNotToml) {
  const std::vector<Bad> cases = {
      {"[grpo\ngroup_size = 8\n", "FILE:1:6: not TOML: "},
      {"[run]\nseed = \n", "FILE:2:8: not TOML: "},
      {"[run]\nseed = 1\nseed = 2\n", "FILE:3:"},
      {"[run]\nseed = 1\n[run]\nname = \"a\"\n", "FILE:3:"},
      {"[run]\nname = \"a\n", "FILE:2:"},
      {"[run]\nseed = 99999999999999999999\n", "FILE:2:"},
      {"run\n", "FILE:1:"},
      {"[run]\nseed = 12\"\xC3\xA9\"", "FILE:2:10: not TOML: a quote out of place"},
      {"[run]\nseed = 1.'\xC3\xA9'", "FILE:2:10: not TOML: a quote out of place"},
      {"[policy]\nfreeze = [1, 1.'\xC3\xA9']", "FILE:2:16: not TOML: a quote out of place"},
      {"[=a]\n", "FILE:1:2: not TOML: expected a key after the bracket"},
      {"run.seed = 1\n [[ .a]]\n", "FILE:2:5: not TOML: expected a key after the bracket"},
      {"[\n", "FILE:1:2: not TOML: expected a key after the bracket"},
      {"[", "FILE:1:"},
      {"[]", "FILE:1:"},
      {"[run]\nname = \"\xC3\xA9\xFF\"\n", "FILE:2:10: not UTF-8"},
      {"\xFF", "FILE:1:1: not UTF-8"},
      {"a = \"\xE2\x82", "FILE:1:6: not UTF-8"},
      {"[run]\nseed = 1 \xC3\xA9", "FILE:2:10: not TOML: a non-ASCII character outside of strings and"},
      {"[run]\nseed\xC2\xA0= 1", "FILE:2:5: not TOML: a non-ASCII character outside of strings and"},
      {"[run]\nname = \"\"\"a\\\n  \xE3\x80\x81\"\"\"", "FILE:3:3: not TOML: a non-ASCII character after a backslash"},
      {std::string("[run]\nna\0me = 1\n", 16), "FILE:2:"},
      {std::string((1 << 20) + 1, '\n'), "FILE: more than 1.0 MiB, not a recipe"},
      {fmt::format("a{}\n", repeat(".", 200000)), "FILE:1:33: more than 32 parts in a dotted key"},
      {fmt::format("x = 1\na{} = 1\n", repeat(".a", 90000)), "FILE:2:64: more than 32 parts in a dotted key"},
      {fmt::format("[a{}]\n", repeat(".a", 90000)), "FILE:1:65: more than 32 parts in a dotted key"},
      {fmt::format("a = {}", repeat("[", 100000)), "FILE:1:37: more than 32 brackets inside one another"},
      {fmt::format("a = [\"\"\"b\"\"\"\", {{a{} = 1}}]", repeat(".a", 90000)),
       "FILE:1:80: more than 32 parts in a dotted key"},
      {fmt::format("a = \"\"\"\n[[[\n\"\"\"\nb = {}", repeat("{", 33)),
       "FILE:4:37: more than 32 brackets inside one another"},
  };
  for (const Bad& bad : cases) {
    const std::string message = refusal(bad.text);
    EXPECT_TRUE(message.starts_with(bad.message)) << bad.text.substr(0, 80) << "\n" << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(Parse, TakesDotsAndBracketsInStringsAndComments) {
  const std::string dots = repeat(".", 100);
  const std::string brackets = repeat("[", 100);
  EXPECT_EQ(refusal(fmt::format("# {0}{1}\n[run]\ndir = \"{0}{1}\\\"{1}\"\n", dots, brackets)), "accepted");
  EXPECT_EQ(refusal(fmt::format("[run]\ndir = '''{0}'{1}'''\n[data]\nprompts = '{1}'\n", dots, brackets)), "accepted");
  EXPECT_EQ(
      refusal(fmt::format("# \xC3\xA9\n[run]\ndir = \"\"\"\xC3\xA9{}\\\n  \\\" a\"\"\"\"\"\nseed = 1.5", brackets)),
      "FILE:5:8: run.seed: expected an integer >= 0, got 1.5");
  std::string floats = "[policy]\nfreeze = [";
  for (int i = 0; i < 100; ++i) floats += "\n  \"a.b\",  # one.\n";
  EXPECT_EQ(refusal(floats + "]\n"), "accepted");
  std::string terms;
  for (int i = 0; i < 50; ++i) terms += fmt::format("[[rewards]]\nname = \"t{}\"\nweight = 0.5\n", i);
  EXPECT_EQ(refusal(terms), "accepted");
}

TEST(Parse, NamesAPathThatIsNoFile) {
  const unigrpo::testing::TempFolder folder;
  const auto message = [](const std::filesystem::path& path) -> std::string {
    try {
      parse(path, {}, Command::check);
    } catch (const BadInput& error) {
      return error.what();
    }
    return "accepted";
  };
  const std::string path = folder.path().string();
  EXPECT_EQ(message(folder.path()), path + ": a folder, expected a recipe file");
  EXPECT_EQ(message(folder.path() / "none.toml"), path + "/none.toml: no such file");
  EXPECT_EQ(message("/dev/null"), "/dev/null: not a regular file");
  folder.write("file", "");
  EXPECT_EQ(message(folder.path() / "file" / "x.toml"), path + "/file/x.toml: no such file");
}

TEST(Parse, ReadsAFileAndNamesItAsGiven) {
  const unigrpo::testing::TempFolder folder;
  const std::string path = folder.write("recipe.toml", kShortest).string();
  EXPECT_EQ(parse(path, {"run.seed=3"}, Command::train).run.seed, 3);
  try {
    parse(path, {"policy.train=lora"}, Command::sft);
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_EQ(error.what(),
              path +
                  ": sft.output: missing (string: model folder to write); the recipe has [[rewards]]: did "
                  "you mean `unigrpo train`?");
  }
}

TEST(Parse, NamesAMissingKeyWithoutALine) {
  const auto train = [](const std::string& text) { return refusal(text, {}, Command::train); };
  const auto sft = [](const std::string& text) { return refusal(text, {}, Command::sft); };
  EXPECT_EQ(train(""),
            "FILE: policy.model: missing (string: model folder in the official BAGEL, Qwen2.5 or LTX-2 layout)");
  EXPECT_EQ(train("[policy]\nmodel = \"m\"\n"), "FILE: data.prompts: missing (string: prompt file (JSONL))");
  EXPECT_EQ(train("[policy]\nmodel = \"m\"\n[data]\nprompts = \"p\"\n"),
            "FILE: rewards: missing (list of tables: the reward is the weighted sum of its terms)");
  EXPECT_EQ(train("[policy]\nmodel = \"\"\n"), "FILE:2:9: policy.model: expected a non-empty string, got \"\"");
  EXPECT_EQ(train("rewards = []\n[policy]\nmodel = \"m\"\n[data]\nprompts = \"p\"\n"),
            "FILE: rewards: missing (list of tables: the reward is the weighted sum of its terms)");
  EXPECT_EQ(train(kShortest), "accepted");
  EXPECT_EQ(sft(""), "FILE: data.prompts: missing (string: prompt file (JSONL))");
  EXPECT_EQ(sft("[data]\nprompts = \"p\"\n"), "FILE: sft.output: missing (string: model folder to write)");
  EXPECT_EQ(sft("[sft]\noutput = \"o\"\n[data]\nprompts = \"p\"\n"), "accepted");
  EXPECT_EQ(refusal(""), "accepted");
  EXPECT_EQ(train("[policy]\nmodel = \"m\"\n[data]\nprompts = \"p\"\n[sft]\noutput = \"o\"\n"),
            "FILE: rewards: missing (list of tables: the reward is the weighted sum of its terms); the recipe has an "
            "[sft] table: did you mean `unigrpo sft`?");
}

TEST(Parse, TakesEveryWritingOfAValue) {
  const std::vector<std::string> cases = {
      "",
      "\n\n# only a comment",
      "\xEF\xBB\xBF[run]\nseed = 1\n",
      "[run]\r\nseed = 1\r\n",
      "run.seed = 1",
      "run = {seed = 1, name = \"x\"}",
      "[run]\nseed = 0xFF",
      "[run]\nseed = 1_000",
      "[run]\nseed = 9223372036854775807",
      "[optim]\nlr = 0",
      "[optim]\nlr = 1",
      "[optim]\nlr = 3e-5",
      "[optim]\nlr = 1_0.5",
      "[policy]\nfreeze = []",
      "[policy]\nfreeze = [\n  \"a\", # why\n  'b',\n]",
      "[run]\nname = '''x'''",
      "[run]\nname = \"\\u00e9\"",
      "[run]\nname = \"\xC3\xA9\"",
      "\"run\".'seed' = 1",
      "run = {'seed' = 1, \"name\" = \"a\"}",
      "[\"grpo\" . 'text']\nweight = 1",
      "rewards = [\n  {name = 'a', \"weight\" = 1}, {\"name\" = 'b'},\n]\n'run'.\"seed\" = 1",
      "[ run ]\nseed = 1",
      "[grpo]\n[grpo.text]\n[grpo.image]",
      "[grpo.text]\n[grpo]\ngroup_size = 4",
      "rewards = []",
      "rewards = [{kind = \"format\"}]",
      "[[rewards]]",
      "[[rewards]]\nweight = -1",
      "[rollout.window]\nlast = -1",
      "[rollout.window]\nlast = 10\nfirst = 8",
      "[rollout.window]\nmode = \"all\"\nwidth = 99",
      "[rollout]\nepisode = [\"text\"]\nnum_steps = 1",
      "[rollout]\nepisode = [\"text\", \"text\", \"image\"]",
      "[rollout.sde]\nkind = \"cps\"\nnoise_level = 1",
      "[grpo.text]\ndual_clip = 0",
      "[grpo.text]\ndual_clip = 3",
      "[grpo.text]\nweight = 0",
      "[grpo.image]\nweight = 0",
      "[optim.groups]" /* refused below */,
      "[[optim.groups]]\npattern = \"*moe_gen*\"\nlr = 3e-5\n[[optim.groups]]\npattern = \"*\"\nlr "
      "= 0\nweight_decay = 0",
      "[optim]\ngroups = [{pattern = \"a\", lr = 1}]",
      "[checkpoint]\non_disk_full = \"continue\"",
      "[sft]\ntext_weight = 0\nimage_weight = 0",
      "[optim.ema]\nenabled = false\ndecay = 0",
      "[[rewards]]\nkind = \"http\"\n[rewards.http]\nurl = \"https://a.b/c\"\n[[rewards]]\nname = \"b\"",
      "[[rewards]]\nhttp.url = \"https://a\"\nkind = \"http\"\nhttp.model = \"m\"",
      "rewards = [{kind = \"http\", http = {url = \"http://[::1]:80/x?y#z\"}}]",
      "[[rewards]]\nhttp = {}"};
  for (const std::string& text : cases) {
    const bool refused = text == "[optim.groups]";
    EXPECT_EQ(refusal(text) == "accepted", !refused) << text << "\n" << refusal(text);
  }
}

TEST(Parse, BindsValues) {
  const Recipe recipe = accepted(
      "run.seed = 7\n[policy]\ndtype = \"bfloat16\"\nfreeze = [\"x.*\"]\n[optim]\nlr = 1\n"
      "[[optim.groups]]\npattern = \"a\"\nlr = 0.5\n[[optim.groups]]\npattern = \"b\"\nlr = "
      "0.25\nweight_decay = 0\n"
      "[monitor]\nreport = false\n");
  EXPECT_EQ(recipe.run.seed, 7);
  EXPECT_EQ(recipe.policy.dtype, policy::DtypeChoice::bfloat16);
  EXPECT_EQ(recipe.policy.freeze, std::vector<std::string>{"x.*"});
  EXPECT_EQ(recipe.optim.lr, 1.0);
  ASSERT_EQ(recipe.optim.groups.size(), 2u);
  EXPECT_EQ(recipe.optim.groups[0].weight_decay, -1);
  EXPECT_EQ(recipe.optim.groups[1].lr, 0.25);
  EXPECT_FALSE(recipe.monitor.report);
  EXPECT_EQ(recipe.grpo.group_size, grpo::GrpoConfig().group_size);
  EXPECT_EQ(recipe.run_dir(), "runs/run");
}

TEST(Parse, BindsSubTablesOfAListsElements) {
  const Recipe recipe = accepted(
      "[[rewards]]\nkind = \"http\"\n[rewards.http]\nurl = \"https://a/b\"\nkey_env = \"JUDGE_KEY\"\n"
      "[[rewards]]\nname = \"second\"\nkind = \"http\"\nhttp.url = \"https://c\"\nhttp.batch_size = 3\n",
      {"rewards.1.http.max_tries=7", "rewards.0.http.url=http://localhost:8000/v1"});
  ASSERT_EQ(recipe.reward.terms.size(), 2u);
  EXPECT_EQ(recipe.reward.terms[0].http.url, "http://localhost:8000/v1");
  EXPECT_EQ(recipe.reward.terms[0].http.key_env, "JUDGE_KEY");
  EXPECT_EQ(recipe.reward.terms[0].http.batch_size, reward::EndpointConfig().batch_size);
  EXPECT_EQ(recipe.reward.terms[1].http.url, "https://c");
  EXPECT_EQ(recipe.reward.terms[1].http.batch_size, 3);
  EXPECT_EQ(recipe.reward.terms[1].http.max_tries, 7);
}

TEST(Overrides, TakeTheKeysType) {
  const Recipe recipe =
      accepted(kShortest + "[[rewards]]\nkind = \"format\"\n[[optim.groups]]\npattern = \"a\"\nlr = 1\n",
               {"grpo.group_size=16", "optim.lr=1", "optim.lr=3e-5", "run.name=a=b", "data.prompts=\"a \\\"b\\\"\"",
                "run.dir='x y'", "policy.model=", "monitor.report=false", "policy.train=lora",
                "policy.dtype=\"bfloat16\"", "rollout.episode=[\"image\"]", "policy.freeze=[]", "rewards.1.weight=0.5",
                "optim.groups.0.lr=0.125", "rollout.window.last=-1"});
  EXPECT_EQ(recipe.grpo.group_size, 16);
  EXPECT_EQ(recipe.optim.lr, 3e-5);
  EXPECT_EQ(recipe.run.name, "a=b");
  EXPECT_EQ(recipe.data.prompts, "a \"b\"");
  EXPECT_EQ(recipe.run.dir, "x y");
  EXPECT_EQ(recipe.policy.model, "");
  EXPECT_FALSE(recipe.monitor.report);
  EXPECT_EQ(recipe.policy.train, policy::TrainMode::lora);
  EXPECT_EQ(recipe.policy.dtype, policy::DtypeChoice::bfloat16);
  EXPECT_EQ(recipe.rollout.episode, std::vector{data::SegmentKind::image});
  EXPECT_TRUE(recipe.policy.freeze.empty());
  EXPECT_EQ(recipe.reward.terms[0].weight, 1.0);
  EXPECT_EQ(recipe.reward.terms[1].weight, 0.5);
  EXPECT_EQ(recipe.optim.groups[0].lr, 0.125);
}

TEST(Overrides, ReplaceAWholeListOfTables) {
  const std::string list = "rewards=[{kind = \"saturation\", weight = 2}, {kind = \"geneval\"}]";
  const Recipe recipe = accepted(kShortest, {list, "rewards.1.weight=0"});
  ASSERT_EQ(recipe.reward.terms.size(), 2u);
  EXPECT_EQ(recipe.reward.terms[0].kind, reward::RewardKind::saturation);
  EXPECT_EQ(recipe.reward.terms[1].weight, 0.0);
}

TEST(Overrides, SayWhichArgumentIsWrong) {
  struct Case {
    std::string argument;
    std::string message;  // after "--set <argument>: "
  };
  const std::vector<Case> cases = {
      {"grpo.grop_size=3", "unknown key, did you mean 'grpo.group_size'?"},
      {"group_size=3", "unknown key, did you mean 'grpo.group_size'?"},
      {"grpo.group_size", "expected key=value"},
      {"=3", "expected key=value"},
      {"", "expected key=value"},
      {"grpo.group_size=", "expected an integer from 2 to 65536, got nothing"},
      {"grpo.group_size=1", "expected an integer from 2 to 65536, got 1"},
      {"grpo.group_size=4.0", "expected an integer from 2 to 65536, got 4.0"},
      {"grpo.group_size=four", "expected an integer from 2 to 65536, got \"four\""},
      {"grpo.group_size= \"4\"", "expected an integer from 2 to 65536, got \"4\""},
      {"optim.lr=nan", "expected a number >= 0, got nan"},
      {"optim.lr=-1e-3", "expected a number >= 0, got -0.001"},
      {"monitor.report=1", "expected true or false, got 1"},
      {"monitor.report=True", "expected true or false, got \"True\""},
      {"policy.dtype=float23", "expected one of float32 | bfloat16, got \"float23\" (did you mean \"float32\"?)"},
      {"run.name=a/b", "expected a folder name (1 to 200 bytes, no '/'), got \"a/b\""},
      {"run.name=\"a", "expected a folder name (1 to 200 bytes, no '/'), got \"\\\"a\""},
      {"rollout.episode=image", "expected a non-empty list of \"text\", \"image\" and \"av\", got \"image\""},
      {"rollout.episode=[\"image\", \"vdeo\"]",
       "rollout.episode.1: expected \"text\", \"image\" or \"av\", got \"vdeo\""},
      {"grpo=3", "grpo is a table, expected one of its keys (grpo.prompts_per_step, ...)"},
      {"rewards.0.weight=x", "expected a number, got \"x\""},
      {"rewards.0.wieght=1", "unknown key, did you mean 'rewards.0.weight'?"},
      {"rewards.1.weight=1", "rewards has 1 element, counted from 0"},
      {"optim.groups.0.lr=1", "optim.groups has 0 elements, counted from 0"},
      {"rewards.x.weight=1", "unknown key, did you mean 'rewards.0.weight'?"},
      {"rewards.N.weight=1", "unknown key, did you mean 'rewards.0.weight'?"},
      {"rewards=[1]", "rewards.0: expected a list of tables [[rewards]], got 1"},
      {"rewards=x", "expected a list of tables, got \"x\""},
      {"optim.groups=[{lr = 1}]", "optim.groups.0.pattern: missing (string: of parameter names, * and ?)"},
      {"rewards.0.http.modell=x", "unknown key, did you mean 'rewards.0.http.model'?"},
      {"optim.groups.0.x.y=x", "optim.groups has 0 elements, counted from 0"},
      {"rewards.0.http.quantum=x",
       "unknown key, expected one of url, key_env, ca_file, allow_plain_http, use_proxy, probe, max_concurrent, "
       "max_tries, "
       "image_format, batch_size, format, whole_groups, model, system, template, max_tokens, temperature, "
       "score_pointer, "
       "score_regex, scale, offset, min_number, max_number"},
      {"rewards.0.http=x", "rewards.0.http is a table, expected one of its keys"},
      {"rewards.2.http.url=https://a", "rewards has 1 element, counted from 0"},
      {"rewards.0.http.url=a", "expected an http:// or https:// address without user name, got \"a\""},
      {"run.seed=1\nname = \"x\"", "expected an integer >= 0, got \"1\\nname = \\\"x\\\"\""},
      {"run.name=\xFF", "not UTF-8"},
  };
  for (const Case& one : cases) {
    std::string shown = one.argument;
    for (char& c : shown) {
      if (c == '\n' || c == '\xFF') c = '?';
    }
    EXPECT_EQ(refusal(kShortest, {one.argument}), "--set " + shown + ": " + one.message);
  }
}

TEST(Overrides, AreAppliedInOrderAndAfterTheFile) {
  EXPECT_EQ(accepted("[run]\nseed = 1\n", {"run.seed=2", "run.seed=3"}).run.seed, 3);
  EXPECT_EQ(refusal("[run]\nseed = -1\n", {"run.seed=2"}), "FILE:2:8: run.seed: expected an integer >= 0, got -1");
  EXPECT_EQ(refusal(kShortest, {"policy.model="}, Command::train),
            "--set policy.model=: policy.model: expected a non-empty string, got \"\"");
  const std::string long_name = repeat("a", 300);
  EXPECT_TRUE(refusal("", {fmt::format("run.name={}", long_name)})
                  .starts_with(fmt::format("--set run.name={}...: expected a folder name", repeat("a", 191))));
}

}  // namespace
}  // namespace unigrpo::recipe

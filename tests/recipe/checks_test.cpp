#include "recipe/checks.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "recipe/support.h"

namespace unigrpo::recipe {
namespace {

TEST(Checks, NameTheKeysThatDoNotGoTogether) {
  struct Case {
    std::string text;
    std::string message;
    Command command = Command::check;
  };
  std::string many = "[rollout]\nepisode = [\"text\"";
  for (int i = 0; i < 16; ++i) many += ", \"text\"";
  const std::vector<Case> cases = {
      {many + "]\n", "FILE:2:11: rollout.episode: expected at most 16 segments, got 17"},
      {"[rollout]\ngraphs = true\n",
       "FILE:2:10: rollout.graphs: expected false with policy.device = \"cpu\": graphs are CUDA's"},
      {"[policy]\ndevice = \"cuda\"\n[rollout]\ngraphs = true\n", "accepted"},
      {"[rollout.window]\nwidth = 11\n",
       "FILE:2:9: rollout.window.width: expected first + width of at most rollout.num_steps = 10, "
       "got 0 + 11"},
      {"[rollout.window]\nmode = \"fixed\"\nfirst = 9\n",
       "FILE:3:9: rollout.window.width: expected first + width of at most rollout.num_steps = 10, "
       "got 9 + 2"},
      {"[rollout.window]\nfirst = 3\nlast = 4\n",
       "FILE:2:9: rollout.window.width: expected first + width of at most rollout.window.last = 4, "
       "got 3 + 2"},
      {"[rollout]\nnum_steps = 1\n",
       "FILE:2:13: rollout.window.width: expected first + width of at most rollout.num_steps = 1, "
       "got 0 + 2"},
      {"[rollout]\nnum_steps = 4\n[rollout.window]\nmode = \"sliding\"\nlast = 5\n",
       "FILE:5:8: rollout.window.last: expected at most rollout.num_steps = 4, got 5"},
      {"[rollout]\nnum_steps = 4\nsde.kind = \"cps\"\nwindow.width = 4\n",
       "FILE:4:16: rollout.window.width: expected first + width of at most rollout.num_steps - 1 = 3, got 0 + 4"},
      {"[rollout.sde]\nkind = \"cps\"\nnoise_level = 1.5\n",
       "FILE:3:15: rollout.sde.noise_level: expected at most 1 with rollout.sde.kind = \"cps\", "
       "got 1.5"},
      {"[rollout.sde]\nkind = \"cps\"\n[grpo.image]\nratio_norm = true\n",
       "FILE:4:14: grpo.image.ratio_norm: expected false with rollout.sde.kind = \"cps\" (flow_sde "
       "and dance only), got "
       "true"},
      {"[rollout]\nnum_steps = 1\nwindow.width = 1\nsde.kind = \"cps\"\n",
       "FILE:2:13: rollout.num_steps: expected at least 2 with rollout.sde.kind = \"cps\" (its "
       "last step has no noise), "
       "got 1"},
      {"[grpo]\ntext.weight = 0\nimage.weight = 0\n",
       "FILE:2:15: grpo.text.weight: expected a weight > 0 here or in grpo.image.weight: nothing "
       "is trained"},
      {"[grpo.image]\nweight = 0\n[rollout]\nepisode = [\"image\"]\n",
       "FILE:2:10: grpo.image.weight: expected a weight > 0: rollout.episode has images only, so "
       "nothing is trained"},
      {"[grpo.text]\nweight = 0\n[rollout]\nepisode = [\"text\"]\n",
       "FILE:2:10: grpo.text.weight: expected a weight > 0: rollout.episode has text only, so "
       "nothing is trained"},
      {"[sft]\noutput = \"o\"\ntext_weight = 0\nimage_weight = 0\n[data]\nprompts = \"p\"\n",
       "FILE:3:15: sft.text_weight: expected a weight > 0 here or in sft.image_weight: nothing is "
       "trained",
       Command::sft},
      {"[sft]\noutput = \"o\"\nprompt_dropout = 1\nanswer = 0.5\ndescribe = 0.5\n[data]\nprompts = \"p\"\n",
       "FILE:3:18: sft.prompt_dropout: expected below 1 where all examples end in a text: nothing is trained",
       Command::sft},
      {"[sft]\noutput = \"o\"\nprompt_dropout = 1\nanswer = 0.5\n[data]\nprompts = \"p\"\n", "accepted", Command::sft},
      {"[rollout]\nnum_steps = 1\nwindow.mode = \"all\"\n",
       "FILE:2:13: rollout.num_steps: expected at least 2 with rollout.sde.kind = \"flow_sde\" (whose first step's "
       "noise "
       "needs the time of the second), got 1"},
      {"[rollout]\nnum_steps = 4\nsde.kind = \"cps\"\nwindow = {mode = \"fixed\", first = 2, width = 2}\n",
       "FILE:4:46: rollout.window.width: expected first + width of at most rollout.num_steps - 1 = 3, got 2 + 2"},
      {"[rollout]\nnum_steps = 1\nwindow.mode = \"all\"\nepisode = [\"text\"]\n", "accepted"},
      {"[rollout]\nnum_steps = 1\nwindow.mode = \"all\"\nsde.kind = \"dance\"\n", "accepted"},
      {"[policy]\ntrain = \"lora\"\nfreeze = [\"vit_model.*\"]\n",
       "FILE:3:10: policy.freeze: expected no list of your own with policy.train = \"lora\": all weights stay as they "
       "are, and policy.lora.targets says which get adapters"},
      {"[policy]\ntrain = \"lora\"\nfreeze = []\n", "accepted"},
      {"[grpo.text]\nkl_beta = 0.1\nkl_estimator = \"k1\"\n",
       "FILE:3:16: grpo.text.kl_estimator: expected k2 or k3 with grpo.text.kl_beta > 0, got k1: the expectation of "
       "its "
       "gradient is 0 (k2's gradient is that of the KL)"},
      {"[grpo.text]\nkl_estimator = \"k1\"\n", "accepted"},
      {"[grpo]\nprompts_per_step = 1\ngroup_size = 2\nnum_minibatches = 3\n",
       "FILE:4:19: grpo.num_minibatches: expected at most prompts_per_step = 1 (a mini-batch holds whole groups), got "
       "3"},
      {"[[rewards]]\n[[rewards]]\nkind = \"geneval\"\n",
       "FILE:3:8: rewards.1.name: expected a name of its own, got \"geneval\" as in "
       "rewards.0"},
      {"[[rewards]]\ngate = \"ink\"\n",
       "FILE:2:8: rewards.0.gate: expected the name of another reward term, got \"ink\""},
      {"[[rewards]]\nname = \"a\"\ngate = \"a\"\n",
       "FILE:3:8: rewards.0.gate: expected the name of another reward term, got \"a\""},
      {"[eval]\nkeep_best = true\n", "FILE:2:13: eval.keep_best: expected eval.every > 0 and eval.prompts with it"},
      {"[[rewards]]\nweight = 0\n", "FILE:2:10: rewards.0.weight: expected a weight other than 0 in at least one term"},
      {kShortest + "[rollout]\nepisode = [\"text\"]\n",
       "FILE:6:8: rewards.0.kind: expected \"image\" in rollout.episode for kind \"geneval\"", Command::train},
      {"[[rewards]]\nkind = \"text_rules\"\nmax_tokens = 20\noverlong_cache = 21\n",
       "FILE:4:18: rewards.0.overlong_cache: expected at most max_tokens = 20, got 21"},
      {"[[rewards]]\nkind = \"text_rules\"\nmin_tokens = 21\nmax_tokens = 20\n",
       "FILE:3:14: rewards.0.min_tokens: expected at most max_tokens = 20, got 21"},
      {kShortest + "[[rewards]]\nkind = \"text_rules\"\n[rollout]\nepisode = [\"image\"]\n",
       "FILE:8:8: rewards.1.kind: expected \"text\" in rollout.episode for kind \"text_rules\"", Command::train},
      {kShortest + "[[rewards]]\nkind = \"format\"\n[rollout]\nepisode = [\"image\"]\n",
       "FILE:8:8: rewards.1.kind: expected \"text\" in rollout.episode for kind \"format\"", Command::train},
  };
  const std::string http = "[[rewards]]\nkind = \"http\"\n[rewards.http]\n";
  const std::string chat = http + "url = \"https://a\"\nformat = \"chat\"\n";
  const std::vector<Case> of_http = {
      {"[[rewards]]\nkind = \"http\"\n", "FILE:2:8: rewards.0.http.url: expected an address for kind = \"http\""},
      {"[[rewards]]\ndetector = \"http\"\n",
       "FILE:2:12: rewards.0.http.url: expected an address for detector = \"http\""},
      {http + "url = \"http://judge/score\"\n",
       "FILE:4:7: rewards.0.http.url: expected https:// for another machine (or allow_plain_http = true on a "
       "private network)"},
      {http + "url = \"http://127.0.0.1.evil.example/\"\n",
       "FILE:4:7: rewards.0.http.url: expected https:// for another machine (or allow_plain_http = true on a "
       "private network)"},
      {http + "url = \"http://judge/score\"\nallow_plain_http = true\n", "accepted"},
      {http + "url = \"http://localhost:8000/score\"\n", "accepted"},
      {http + "url = \"https://[2001:db8::1]:8000/score?to=a@b\"\n", "accepted"},
      {"[[rewards]]\nkind = \"edit\"\nmetric = \"official\"\n",
       "FILE:3:10: rewards.0.metric: expected strict, soft or mixed for kind \"edit\", got \"official\": GenEval has "
       "no "
       "rule for edits"},
      {http + "url = \"http://127.0.0.1/\"\n", "accepted"},
      {http + "url = \"http://[::1]:8000\"\n", "accepted"},
      {http + "url = \"https://judge\"\n", "accepted", Command::check},
      {http + "url = \"https://a\"\nmin_number = 2\nmax_number = 1\n",
       "FILE:5:14: rewards.0.http.min_number: expected at most max_number = 1, got 2"},
      {chat, "FILE:5:10: rewards.0.http.model: expected a model for format = \"chat\""},
      {chat + "model = \"m\"\n", "FILE:5:10: rewards.0.http.template: expected a message for format = \"chat\""},
      {chat + "model = \"m\"\ntemplate = \"t\"\n",
       "FILE:5:10: rewards.0.http.score_pointer: expected this or score_regex, one of them, for format = "
       "\"chat\""},
      {chat + "model = \"m\"\ntemplate = \"t\"\nscore_pointer = \"/a\"\nscore_regex = \"a\"\n",
       "FILE:8:17: rewards.0.http.score_pointer: expected this or score_regex, one of them, for format = "
       "\"chat\""},
      {chat + "model = \"m\"\ntemplate = \"t\"\nscore_regex = \"a\"\n", "accepted"},
      {"[[eval.rewards]]\nkind = \"http\"\n",
       "FILE:2:8: eval.rewards.0.http.url: expected an address for kind = \"http\""},
  };
  for (const Case& one : of_http) EXPECT_EQ(refusal(one.text, {}, one.command), one.message) << one.text;
  for (const Case& one : cases) EXPECT_EQ(refusal(one.text, {}, one.command), one.message) << one.text;
}

TEST(Checks, NoNumberMakesAStepOverflowOrVanish) {
  for (const std::string number :
       {"rollout.temperature=1e-38",      "rollout.temperature=1e30",     "rollout.sde.noise_level=1e-30",
        "rollout.sde.noise_level=1e30",   "rollout.timestep_shift=1e-30", "rollout.timestep_shift=1e30",
        "rollout.rollout_cfg_scale=1e30", "grpo.text.clip_high=1e300",    "grpo.text.kl_beta=1e300",
        "grpo.text.weight=1e300",         "grpo.image.weight=1e300",      "grpo.image.penalty_weight=1e300",
        "grpo.advantage.clip=1e300",      "grpo.advantage.eps=1e300",     "optim.eps=1e-60",
        "optim.weight_decay=1e30",        "optim.max_grad_norm=1e-60",    "policy.lora.alpha=1e-60",
        "policy.lora.alpha=1e60",         "sft.text_weight=1e300"}) {
    EXPECT_EQ(refusal("[[rewards]]\n", {number}).find("--set " + number + ": expected "), 0U)
        << refusal("[[rewards]]\n", {number});
  }
}

TEST(Checks, AKeyIsOfItsKindAlone) {
  const std::string of = "FILE:3:11: rewards.0.pattern: belongs to kind text_rules, not to kind ";
  EXPECT_EQ(refusal("[[rewards]]\nkind = \"geneval\"\npattern = \"a\"\n"), of + "geneval");
  EXPECT_EQ(refusal("[[rewards]]\nkind = \"jpeg\"\npattern = \"\"\n"), of + "jpeg");
  EXPECT_EQ(refusal("[[rewards]]\nmetric = \"strict\"\nkind = \"saturation\"\n"),
            "FILE:2:10: rewards.0.metric: belongs to kind geneval or edit, not to kind saturation");
  EXPECT_EQ(refusal("[[rewards]]\nkind = \"geneval\"\n[rewards.http]\nurl = \"https://a\"\n"),
            "FILE:4:7: rewards.0.http.url: belongs to kind http or detector = http, not to kind geneval");
  EXPECT_EQ(refusal("[[rewards]]\ndetector = \"http\"\nhttp.url = \"https://a\"\nhttp.model = \"m\"\n"),
            "FILE:4:14: rewards.0.http.model: belongs to kind http, not to kind geneval");
  EXPECT_EQ(refusal("[[eval.rewards]]\nkind = \"jpeg\"\ntimeout_s = 3\n"),
            "FILE:3:13: eval.rewards.0.timeout_s: belongs to kind http or plugin or detector = http, not to kind jpeg");
  EXPECT_EQ(refusal("[[rewards]]\nkind = \"ocr\"\nsettings = {a = 1}\n"),
            "FILE:3:12: rewards.0.settings: belongs to kind plugin, not to kind ocr");
  EXPECT_EQ(refusal("[[rewards]]\nmetric = \"strict\"\n", {"rewards.0.kind=ocr"}),
            "--set rewards.0.kind=ocr: rewards.0.metric: belongs to kind geneval or edit, not to kind ocr");
  EXPECT_EQ(refusal("[[rewards]]\n", {"rewards.0.settings.limit=3"}),
            "--set rewards.0.settings.limit=3: rewards.0.settings: belongs to kind plugin, not to kind geneval");
}

TEST(Checks, RanksThatAreGroupedAnewAreNotGroupedOtherwise) {
  const std::string on = "[[rewards]]\n[parallel]\nflexible_sp = true\n";
  EXPECT_EQ(refusal(on), "accepted");
  EXPECT_EQ(refusal(on + "profile = \"p\"\nshard = \"weights\"\n"), "accepted");
  EXPECT_EQ(refusal(on + "sp = 2\n"), "FILE:4:6: parallel.sp: expected 1 with flexible_sp");
  EXPECT_EQ(refusal(on + "tp = 2\n"), "FILE:4:6: parallel.tp: expected 1 with flexible_sp");
  EXPECT_EQ(refusal(on + "plan = \"p.json\"\n"), "FILE:4:8: parallel.plan: expected an empty string with flexible_sp");
  EXPECT_EQ(refusal(on + "exact_reduction = true\n"),
            "FILE:4:19: parallel.exact_reduction: expected false with flexible_sp");
  EXPECT_EQ(refusal("[[rewards]]\n[parallel]\nprofile = \"p\"\n"),
            "FILE:3:11: parallel.profile: expected flexible_sp = true with it: nothing else reads it");
  EXPECT_EQ(refusal("[[rewards]]\n[parallel]\ntp = 2\n", {"parallel.flexible_sp=true"}),
            "--set parallel.flexible_sp=true: parallel.tp: expected 1 with flexible_sp");
}

TEST(Checks, RanksThatJudgeForOthersAreNotGrouped) {
  const std::string on = "[[rewards]]\n[parallel]\nreward_ranks = 1\n";
  EXPECT_EQ(refusal(on + "flexible_sp = true\n"), "accepted");
  EXPECT_EQ(refusal(on + "tp = 2\n"), "FILE:4:6: parallel.tp: expected 1 with reward_ranks");
  EXPECT_EQ(refusal(on + "exact_reduction = true\n"),
            "FILE:4:19: parallel.exact_reduction: expected false with reward_ranks");
}

TEST(Checks, LayAConflictToTheOverrideThatTookPart) {
  EXPECT_EQ(refusal("[rollout.window]\nwidth = 4\n", {"rollout.num_steps=3"}),
            "--set rollout.num_steps=3: rollout.window.width: expected first + width of at most "
            "rollout.num_steps = 3, "
            "got 0 + 4");
  EXPECT_EQ(refusal("", {"rollout.num_steps=1"}),
            "--set rollout.num_steps=1: rollout.window.width: expected first + width of at most "
            "rollout.num_steps = 1, "
            "got 0 + 2");
  EXPECT_EQ(refusal(kShortest, {"rewards=[{weight = 0}]"}),
            "--set rewards=[{weight = 0}]: rewards.0.weight: expected a weight other "
            "than 0 in at least one "
            "term");
}

TEST(Checks, RefuseAUserNameWithoutShowingThePassword) {
  const std::vector<std::string> addresses = {"http://user:s3cret@host/",  "https://user:s3cret@host:1/p",
                                              "http://user:s3/cret@host/", "http://user:s3?cret@host/",
                                              "http://user:s3 cret@host/", "user:s3cret@host/",
                                              "HTTP://user:s3cret@host/",  "http://user:s3#cret@host",
                                              "ftp://user:s3cret@host",    "http://user:s3@cret@host/"};
  for (const std::string& address : addresses) {
    for (const std::string list : {"rewards", "eval.rewards"}) {
      const std::string value = "url = \"" + address + "\"\n";
      const std::string in_file = refusal("[[" + list + "]]\nkind = \"http\"\n[" + list + ".http]\n" + value);
      const std::string override = refusal("[[" + list + "]]\nkind = \"http\"\n", {list + ".0.http.url=" + address});
      const std::string whole = refusal("", {list + "=[{kind = \"http\", http = {url = \"" + address + "\"}}]"});
      for (const std::string& message : {in_file, override, whole}) {
        EXPECT_NE(message.find("expected an http:// or https:// address without user name"), std::string::npos)
            << message;
        EXPECT_EQ(message.find("s3"), std::string::npos) << message;
        EXPECT_EQ(message.find("cret"), std::string::npos) << message;
      }
    }
  }
}

}  // namespace
}  // namespace unigrpo::recipe

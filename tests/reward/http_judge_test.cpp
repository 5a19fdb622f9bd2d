#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "data/worlds/shapes_world.h"
#include "reward/http/http_reward.h"
#include "reward/http/reply_number.h"
#include "support/server_process.h"

namespace unigrpo::reward {
namespace {

using ::unigrpo::testing::ServerProcess;

constexpr const char* kKey = "sk-secret-0123456789";

std::string local(const std::string& path) {
  static const ServerProcess server("tests/support/judge_server.py");
  return "http://127.0.0.1:" + server.line() + path;
}

TermConfig term_of(const std::string& path, double timeout_s = 60) {
  setenv("UNIGRPO_TEST_JUDGE_KEY", kKey, 1);
  TermConfig term;
  term.name = "judge";
  term.kind = RewardKind::http;
  term.http.timeout_s = timeout_s;
  term.http.url = local(path);
  term.http.key_env = "UNIGRPO_TEST_JUDGE_KEY";
  term.http.batch_size = 2;
  return term;
}

TermConfig chat_of(const std::string& path) {
  TermConfig term = term_of(path);
  term.judge.format = HttpFormat::chat;
  term.judge.model = "judge-1";
  term.judge.message_template = "Prompt: {prompt}";
  term.judge.score_pointer = "/score";
  return term;
}

/// Four samples with an image each; the judge finds sample i worth i / 8.
std::vector<data::Sample> samples_of(int64_t count = 4) {
  std::vector<data::Sample> samples(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    data::Sample& sample = samples[static_cast<size_t>(i)];
    sample.id = fmt::format("p/{}", i);
    sample.prompt = fmt::format("worth {}", static_cast<double>(i) / 8);
    sample.group = i / 2;
    sample.segments.push_back({.kind = data::SegmentKind::text, .text = "a thought", .image = {}});
    sample.segments.push_back(
        {.kind = data::SegmentKind::image,
         .text = "",
         .image = data::shapes::render({{data::shapes::Shape::circle, data::shapes::Color::red, 32, 32, 9}})});
  }
  return samples;
}

std::string everything_in(const Score& score) {
  std::string text = score.reason;
  for (const auto& [name, value] : score.parts) text += name;
  for (const auto& [name, why] : score.missing) text += name + why;
  for (const auto& [name, note] : score.notes) text += name + note;
  return text;
}

struct Case {
  const char* mode;
  const char* reason;  // a regular expression; empty: the right scores
  double timeout_s = 60;
};

// What R14 of the reliability goals asks for and some more: each ends in time, with the right scores or none.
const std::vector<Case> kHostile = {
    {"slow_header", "no whole answer within 1.5 s", 1.5},
    {"slow_body", "no whole answer within 1.5 s", 1.5},
    {"never", "no whole answer within 1.5 s", 1.5},
    {"endless_body", "the answer is longer than 1.0 MiB"},
    {"huge_body", "the answer is longer than 1.0 MiB"},
    {"length_too_long", "'transfer closed with .* bytes remaining to read' \\(3 tries\\)"},
    {"length_too_short", "the answer: invalid JSON: .*"},
    {"length_negative", ".*"},
    {"truncated", "the answer: invalid JSON: .*"},
    {"gzip_bomb", "the answer: invalid JSON: not valid UTF-8 at byte .*"},
    {"transfer_bomb", "the answer is longer than 1.0 MiB|the answer: invalid JSON: .*"},
    {"redirect", "status 307, and redirects are not followed"},
    {"redirect_to_metadata", "status 302, and redirects are not followed"},
    {"recovers", ""},
    {"retry_after", ""},
    {"some_fail", ""},
    {"always_500", "status 500: 'out of order' \\(3 tries\\)"},
    {"retry_never", "status 429; the next try would come in 86400.0 s, too late"},
    {"unauthorized", "status 401: .*"},
    {"not_json", "the answer: invalid JSON: .*"},
    {"empty", "the answer: invalid JSON: empty.*"},
    {"too_deep", "the answer: invalid JSON: nested deeper than 32 levels.*"},
    {"nan", "the answer: invalid JSON: unexpected 'NaN'.*"},
    {"huge_integer", "the answer: invalid JSON: .*"},
    {"out_of_range", "the judge's number 9.22.*e\\+18 is not within -1000000 and 1000000 .*"},
    {"wrong_count", "the answer has 3 scores for 2 samples"},
    {"wrong_types", "the answer's entry [01]: 'score' is neither a number nor null"},
    {"wrong_order", "the answer's entry [01]: it is of another sample"},
    {"huge_header", "the answer's header is longer than 16.0 KiB"},
    {"many_headers", "the answer's header is longer than 16.0 KiB"},
    {"endless_continue", "the answer's header is longer than 16.0 KiB"},
    {"connection_cut", "'.*' \\(3 tries\\)"},
    {"cut_in_body", "'.*' \\(3 tries\\)"},
    {"not_http", "'.*'.*"},
};

TEST(HttpJudge, OutlivesAHostileServer) {
  const auto samples = samples_of();
  struct Result {
    std::vector<Score> scores;
    double seconds = 0;
  };
  std::vector<Result> results(kHostile.size());
  {
    std::vector<std::unique_ptr<Reward>> judges;
    for (const Case& one : kHostile)
      judges.push_back(make_http_reward(term_of("/" + std::string(one.mode), one.timeout_s)));
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < kHostile.size(); ++i) {
      threads.emplace_back([&, i] {
        const Stopwatch watch;
        results[i].scores = judges[i]->score(samples);
        results[i].seconds = watch.seconds();
      });
    }
  }
  for (size_t i = 0; i < kHostile.size(); ++i) {
    const Case& one = kHostile[i];
    ASSERT_EQ(results[i].scores.size(), samples.size()) << one.mode;
    EXPECT_LT(results[i].seconds, one.timeout_s + 5) << one.mode;
    for (size_t n = 0; n < samples.size(); ++n) {
      const Score& score = results[i].scores[n];
      EXPECT_EQ(everything_in(score).find(kKey), std::string::npos) << one.mode;
      if (*one.reason == '\0') {
        ASSERT_TRUE(score.value) << one.mode << ": " << score.reason;
        EXPECT_EQ(*score.value, static_cast<double>(n) / 8) << one.mode;
      } else {
        EXPECT_FALSE(score.value) << one.mode;
        EXPECT_TRUE(std::regex_match(score.reason, std::regex(one.reason))) << one.mode << ": " << score.reason;
        EXPECT_NE(score.reason, "") << one.mode;
      }
    }
  }
}

TEST(HttpJudge, BringsDimensionsReasonsAndNotes) {
  TermConfig term = term_of("/good");
  term.judge.scale = 2;
  term.judge.offset = 1;
  const auto scores = make_http_reward(term)->score(samples_of());
  EXPECT_EQ(scores[3].value, 1.75);
  EXPECT_EQ(scores[3].parts, (std::map<std::string, double>{{"length", 11}}));
  EXPECT_EQ(scores[3].reason, "as asked");
  EXPECT_EQ(scores[3].notes, (std::map<std::string, std::string>{{"judge", "test"}}));
}

TEST(HttpJudge, KeepsTheKeyOutOfWhatAJudgeEchoes) {
  const auto scores = make_http_reward(term_of("/echo"))->score(samples_of(2));
  for (const Score& score : scores) {
    ASSERT_TRUE(score.value);
    EXPECT_EQ(score.reason, "key [key]");
    EXPECT_EQ(score.missing.at("c"), "[key]");
    EXPECT_EQ(score.notes.at("b"), "[key]");
    EXPECT_EQ(everything_in(score).find("sk-secret"), std::string::npos);
  }
}

TEST(HttpJudge, IsRefusedWhereNobodyAnswers) {
  TermConfig term = term_of("/good", 2);
  term.http.max_tries = 1;
  for (const char* url : {"http://127.0.0.1:9/score", "http://no-such-host.invalid/score"}) {
    term.http.url = url;
    term.http.allow_plain_http = true;
    try {
      make_http_reward(term);
      ADD_FAILURE();
    } catch (const BadInput& error) {
      const std::string message = error.what();
      EXPECT_TRUE(message.starts_with("reward 'judge': http.url: nobody answers at " + std::string(url))) << message;
      EXPECT_NE(message.find("http.probe = false"), std::string::npos) << message;
    }
    EXPECT_THROW(make_http_detector(term), BadInput);
  }
  term.http.probe = false;
  EXPECT_FALSE(make_http_reward(term)->score(samples_of(1))[0].value);
}

TEST(HttpJudge, KeepsTheScoreOfAnAnswerThatIsNotUtf8) {
  const auto scores = make_http_reward(term_of("/no_utf8"))->score(samples_of(2));
  EXPECT_EQ(scores[1].value, 0.125) << scores[1].reason;
  EXPECT_EQ(scores[1].reason, "tr\xEF\xBF\xBDs bien");
}

TEST(HttpJudge, AsksForWholeGroupsWhereItCompares) {
  TermConfig term = term_of("/good/0");
  EXPECT_FALSE(make_http_reward(term)->wants_groups());
  term.judge.whole_groups = true;
  term.http.batch_size = 1;
  const auto judge = make_http_reward(term);
  EXPECT_TRUE(judge->wants_groups());
  const auto scores = judge->score(samples_of(6));
  for (size_t n = 0; n < scores.size(); ++n) EXPECT_EQ(scores[n].value, static_cast<double>(n) / 8);
}

TEST(HttpJudge, SendsNoSampleWithABrokenImage) {
  auto samples = samples_of(3);
  samples[1].segments[1].image.pixels.clear();
  for (const TermConfig& term : {term_of("/good"), chat_of("/good")}) {
    const auto scores = make_http_reward(term)->score(samples);
    EXPECT_EQ(scores[0].value, 0.0);
    EXPECT_FALSE(scores[1].value);
    EXPECT_EQ(scores[1].reason, "an image is empty");
    EXPECT_EQ(scores[2].value, 0.25);
  }
}

TEST(HttpJudge, ReadsTextsThatAreNotUtf8) {
  auto samples = samples_of(1);
  samples[0].segments[0].text = "\xFF\xFE";
  EXPECT_EQ(make_http_reward(term_of("/good"))->score(samples)[0].value, 0.0);
}

TEST(ChatJudge, TakesTheNumberOutOfTheReply) {
  TermConfig term = chat_of("/good");
  for (const auto format : {HttpImageFormat::png, HttpImageFormat::jpeg, HttpImageFormat::webp}) {
    term.http.image_format = format;
    const auto scores = make_http_reward(term)->score(samples_of());
    for (size_t n = 0; n < scores.size(); ++n)
      EXPECT_EQ(scores[n].value, static_cast<double>(n) / 8) << scores[n].reason;
    EXPECT_EQ(scores[3].notes.at("reply"), "{\"score\": 0.375}");
  }
  term.judge.score_pointer = "";
  term.judge.score_regex = R"("score": ([0-9.]+))";
  EXPECT_EQ(make_http_reward(term)->score(samples_of())[3].value, 0.375);
  term.judge.score_regex = "stars";
  const Score none = make_http_reward(term)->score(samples_of(1))[0];
  EXPECT_FALSE(none.value);
  EXPECT_EQ(none.reason, "the reply has nothing that http.score_regex matches");
}

TEST(ChatJudge, FillsItsTemplateOnce) {
  TermConfig term = chat_of("/good");
  auto samples = samples_of(1);
  samples[0].prompt = "{text} 9";
  samples[0].segments[0].text = "4";
  term.judge.message_template = "{prompt}";
  EXPECT_EQ(make_http_reward(term)->score(samples)[0].value, 9.0);
  samples[0].prompt = "7 {text}";  // ends with no number as it stands
  EXPECT_EQ(make_http_reward(term)->score(samples)[0].value, 0.5);
  term.judge.message_template = R"({"score": N} {prompt} {text})";
  EXPECT_EQ(make_http_reward(term)->score(samples)[0].value, 4.0);
}

TEST(ChatJudge, AnswersOfAnotherFormHaveNoScore) {
  for (const char* mode : {"/not_json", "/empty", "/too_deep"}) {
    const Score score = make_http_reward(chat_of(mode))->score(samples_of(1))[0];
    EXPECT_FALSE(score.value);
    EXPECT_TRUE(score.reason.starts_with("the answer: invalid JSON")) << score.reason;
  }
  for (const char* mode : {"/no_choices", "/null_content"}) {
    const Score score = make_http_reward(chat_of(mode))->score(samples_of(1))[0];
    EXPECT_FALSE(score.value);
    EXPECT_EQ(score.reason, "the answer has no text at choices[0].message.content");
  }
}

std::string complaint(const ReplyNumber& number, const std::string& reply) {
  try {
    return fmt::format("{}", number.in(reply));
  } catch (const BadInput& error) {
    return error.what();
  }
}

TEST(ReplyNumber, StandsAtAPointer) {
  const auto number = number_at_pointer("/a/0/score");
  EXPECT_EQ(complaint(*number, R"({"a": [{"score": 7}]})"), "7");
  EXPECT_EQ(complaint(*number, "Well:\n```json\n{\"a\": [{\"score\": 7.5}]}\n```\nThat is it."), "7.5");
  EXPECT_EQ(complaint(*number, R"({"a": []})"), "the reply has no '/a/0/score'");
  EXPECT_EQ(complaint(*number, R"({"a": {"score": 7}})"), "the reply has no '/a/0/score'");
  EXPECT_EQ(complaint(*number, R"({"a": [{"score": "7"}]})"), "the reply's '/a/0/score' is no number");
  EXPECT_TRUE(complaint(*number, "7 of 10").starts_with("the reply: invalid JSON: "));
  EXPECT_TRUE(complaint(*number, "```").starts_with("the reply: invalid JSON: "));
  EXPECT_THROW(number_at_pointer("score"), BadInput);
  EXPECT_THROW(number_at_pointer("/a~5"), BadInput);
}

TEST(ReplyNumber, IsWhatAPatternMatches) {
  const auto number = number_by_pattern(R"(Score:\s*(\S+))");
  EXPECT_EQ(complaint(*number, "Good. Score: 7 Score: 8"), "7");
  EXPECT_EQ(complaint(*number, "Score: -1e-3"), "-0.001");
  EXPECT_EQ(complaint(*number, "Score: 7/10"), "http.score_regex found '7/10', which is no number");
  EXPECT_EQ(complaint(*number, "Score: nan"), "http.score_regex found 'nan', which is no number");
  EXPECT_EQ(complaint(*number, "Score: 1e999"), "http.score_regex found '1e999', which is no number");
  EXPECT_EQ(complaint(*number, "none"), "the reply has nothing that http.score_regex matches");
  EXPECT_EQ(complaint(*number_by_pattern("[0-9]+"), "a 12 b"), "12");
  EXPECT_EQ(complaint(*number_by_pattern("x|([0-9]+)"), "x"),
            "the first group of http.score_regex is not in the reply");
  EXPECT_THROW(number_by_pattern("("), BadInput);
  // A pattern that would take ages gives up.
  const Stopwatch watch;
  EXPECT_TRUE(
      complaint(*number_by_pattern("(a+)+$"), std::string(10000, 'a') + "b").starts_with("http.score_regex gave up"));
  EXPECT_LT(watch.seconds(), 10);
}

TEST(MakeHttpReward, NamesTheTermInItsErrors) {
  const auto refusal = [](const TermConfig& term) -> std::string {
    try {
      make_http_reward(term);
    } catch (const BadInput& error) {
      return error.what();
    }
    return "accepted";
  };
  TermConfig term = term_of("/good");
  term.http.key_env = "UNIGRPO_TEST_NO_SUCH_KEY";
  EXPECT_EQ(refusal(term),
            "reward 'judge': the environment variable UNIGRPO_TEST_NO_SUCH_KEY (http.key_env) is not set");
  term = term_of("/good");
  term.http.url = "";
  EXPECT_TRUE(refusal(term).starts_with("reward 'judge': URL ''")) << refusal(term);
  term = chat_of("/good");
  term.judge.score_pointer = "";
  term.judge.score_regex = "(";
  EXPECT_TRUE(refusal(term).starts_with("reward 'judge': http.score_regex: '('")) << refusal(term);
}

}  // namespace
}  // namespace unigrpo::reward

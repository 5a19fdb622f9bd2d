// The tokenizer and prompt cases of tests/data/malformed, judged by the loaders themselves.

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "base/error.h"
#include "data/prompt_file.h"
#include "data/tokenizer/tokenizer.h"
#include "support/malformed_cases.h"

namespace unigrpo::data {
namespace {

using testing::MalformedCase;

template <typename Load>
std::optional<std::string> refusal(const Load& load) {
  try {
    load();
  } catch (const BadInput& error) {
    return error.what();
  }
  return std::nullopt;
}

class MalformedTokenizer : public ::testing::TestWithParam<MalformedCase> {};

TEST_P(MalformedTokenizer, IsJudgedAsTheManifestSays) {
  const MalformedCase& one = GetParam();
  if (one.accept) {
    const auto& probe = one.all.at("probe");
    const auto tokenizer = open_tokenizer(one.path);
    EXPECT_EQ(nlohmann::json(tokenizer->encode(probe.at("text").get<std::string>())), probe.at("ids"));
    return;
  }
  const auto message = refusal([&] { open_tokenizer(one.path); });
  ASSERT_TRUE(message.has_value());
  EXPECT_TRUE(names_the_fault(one, *message)) << *message;
}

INSTANTIATE_TEST_SUITE_P(All, MalformedTokenizer, ::testing::ValuesIn(testing::malformed_cases("tokenizer")),
                         testing::case_name);

class MalformedPrompts : public ::testing::TestWithParam<MalformedCase> {};

TEST_P(MalformedPrompts, IsJudgedAsTheManifestSays) {
  const MalformedCase& one = GetParam();
  if (one.accept) {
    EXPECT_EQ(read_prompt_file(one.path).size(), one.all.at("rows").get<size_t>());
    return;
  }
  const auto message = refusal([&] { read_prompt_file(one.path); });
  ASSERT_TRUE(message.has_value());
  EXPECT_TRUE(names_the_fault(one, *message)) << *message;
  const std::string place = fmt::format("{}:{}: ", one.path.filename().string(), one.all.at("line").get<int>());
  EXPECT_NE(message->find(place), std::string::npos) << *message;
}

INSTANTIATE_TEST_SUITE_P(All, MalformedPrompts, ::testing::ValuesIn(testing::malformed_cases("prompts")),
                         testing::case_name);

}  // namespace
}  // namespace unigrpo::data

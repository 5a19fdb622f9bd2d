#include "scorers/clip_tokenizer.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "scorers/tiny_clip.h"
#include "support/tensors.h"

namespace unigrpo::scorers {
namespace {

using testing::message_of;

std::string refusal(const ClipCopy& copy) {
  return message_of<BadInput>([&] { ClipTokenizer tokenizer(copy.path()); });
}

// One folder has vocab.json and merges.txt, the other tokenizer.json; texts are truncated to 77 and at 20 ids.
TEST(ClipTokenizer, GivesTheIdsOfTransformers) {
  for (const auto& [name, length] : {std::pair{"clip_tiny", 77}, {"clip_tiny_gelu", 20}}) {
    const Golden golden(name);
    const ClipTokenizer tokenizer(kData / name);
    EXPECT_EQ(tokenizer.vocab_size(), 618);
    ASSERT_GT(golden.json["texts"].size(), 15u);
    for (size_t i = 0; i < golden.json["texts"].size(); ++i) {
      EXPECT_EQ(tokenizer.encode(golden.text(i), length).ids, golden.ids(i)) << name << ": " << golden.text(i);
    }
  }
}

TEST(ClipTokenizer, SaysWhetherATextWasCut) {
  const ClipTokenizer tokenizer(kData / "clip_tiny");
  const ClipTokenizer::Text whole = tokenizer.encode("a photo of a red circle", 77);
  const auto length = static_cast<int64_t>(whole.ids.size());
  EXPECT_FALSE(whole.truncated);
  EXPECT_FALSE(tokenizer.encode("a photo of a red circle", length).truncated);
  const ClipTokenizer::Text truncated = tokenizer.encode("a photo of a red circle", length - 1);
  EXPECT_TRUE(truncated.truncated);
  EXPECT_EQ(static_cast<int64_t>(truncated.ids.size()), length - 1);
  EXPECT_EQ(truncated.ids.back(), tokenizer.eos_token_id());
}

TEST(ClipTokenizer, RefusesTextThatIsNotUtf8) {
  const ClipTokenizer tokenizer(kData / "clip_tiny");
  EXPECT_EQ(message_of<BadInput>([&] { tokenizer.encode("a\xFF", 77); }),
            "text to encode is not valid UTF-8: 'a\\xff'");
}

TEST(ClipTokenizer, NamesFileAndTokenOfWhatItCannotRead) {
  const ClipCopy no_end;
  no_end.change_json("vocab.json", [](nlohmann::json& vocab) {
    vocab.erase("<|endoftext|>");
    vocab["the end"] = 617;
  });
  EXPECT_NE(refusal(no_end).find("vocab.json: token '<|endoftext|>' is missing"), std::string::npos) << refusal(no_end);

  const ClipCopy twice;
  twice.change_json("vocab.json", [](nlohmann::json& vocab) { vocab["!"] = 1; });
  EXPECT_NE(refusal(twice).find("must be one of its own from 0 to 617, found '1'"), std::string::npos)
      << refusal(twice);

  const ClipCopy bad_merge;
  bad_merge.folder.write("merges.txt", "#version: 0.2\nt h\nnot a merge\n");
  EXPECT_NE(refusal(bad_merge).find("merges.txt:3: a merge must be two tokens"), std::string::npos)
      << refusal(bad_merge);

  const ClipCopy unknown;
  unknown.folder.write("merges.txt", "q q\n");
  EXPECT_NE(refusal(unknown).find("token 'qq' is missing"), std::string::npos) << refusal(unknown);

  const ClipCopy another("clip_tiny_gelu");
  another.change_json("tokenizer.json", [](nlohmann::json& root) { root["model"]["end_of_word_suffix"] = nullptr; });
  EXPECT_NE(refusal(another).find("tokenizer.json: expected a CLIP tokenizer"), std::string::npos) << refusal(another);
}

}  // namespace
}  // namespace unigrpo::scorers

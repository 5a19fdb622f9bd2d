#include "base/enum_names.h"

#include <gtest/gtest.h>

namespace unigrpo::paint {

// Over several lines, with a comment between.
UNIGRPO_ENUM(Color, red,
             dark_green,  // of leaves
             UNIGRPO_SPELLED(none, "no colour"), UNIGRPO_SPELLED(default_color, "default"), blue);
UNIGRPO_ENUM(Only, one);

}  // namespace unigrpo::paint

namespace unigrpo {
namespace {

using paint::Color;

static_assert(enum_names<Color>.size() == 5);
static_assert(enum_name(Color::blue) == "blue");

TEST(EnumNames, SpellsAnEnumeratorAsItsIdentifier) {
  EXPECT_EQ(enum_name(Color::red), "red");
  EXPECT_EQ(enum_name(Color::dark_green), "dark_green");
  EXPECT_EQ(enum_name(paint::Only::one), "one");
}

TEST(EnumNames, SpellsAnEnumeratorAsItsTextWhereOneIsGiven) {
  EXPECT_EQ(enum_name(Color::none), "no colour");
  EXPECT_EQ(enum_value<Color>("default"), Color::default_color);
  EXPECT_EQ(enum_value<Color>("default_color"), std::nullopt);
}

TEST(EnumNames, ReadsEverySpellingBack) {
  for (const std::string_view name : enum_names<Color>) {
    ASSERT_TRUE(enum_value<Color>(name).has_value()) << name;
    EXPECT_EQ(enum_name(*enum_value<Color>(name)), name);
  }
  EXPECT_EQ(enum_value<Color>("Red"), std::nullopt);
  EXPECT_EQ(enum_value<Color>(""), std::nullopt);
}

TEST(EnumNames, NamesAStrangeValueByAQuestionMark) { EXPECT_EQ(enum_name(static_cast<Color>(5)), "?"); }

TEST(EnumNames, ListsTheChoicesInOrder) {
  EXPECT_EQ(enum_choices<Color>(), "red | dark_green | no colour | default | blue");
}

}  // namespace
}  // namespace unigrpo

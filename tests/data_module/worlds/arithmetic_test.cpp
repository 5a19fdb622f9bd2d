#include "data/worlds/arithmetic.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

namespace unigrpo::data {
namespace {

TEST(Arithmetic, EverySumIsThereOnceAndTwinsStayTogether) {
  const ArithmeticRows rows = make_sums(9, 0);
  EXPECT_EQ(rows.train.size() + rows.test.size(), 100U);
  EXPECT_GE(rows.test.size(), 11U);  // 11 of 55 pairs
  std::set<std::string> ids;
  for (const auto* part : {&rows.train, &rows.test}) {
    std::set<std::string> mine;
    for (const std::string& line : *part) {
      const auto row = nlohmann::json::parse(line);
      const int a = row["id"].get<std::string>()[0] - '0', b = row["id"].get<std::string>()[2] - '0';
      EXPECT_EQ(row["prompt"], std::to_string(a) + " + " + std::to_string(b) + " =");
      EXPECT_EQ(row["metadata"]["answer"], std::to_string(a + b));
      mine.insert(row["id"]);
      ids.insert(row["id"]);
    }
    for (const std::string& id : mine) EXPECT_TRUE(mine.contains({id[2], '+', id[0]})) << id;
  }
  EXPECT_EQ(ids.size(), 100U);
}

TEST(Arithmetic, TheSeedDecidesWhatIsForTesting) {
  EXPECT_EQ(make_sums(20, 3).test, make_sums(20, 3).test);
  EXPECT_NE(make_sums(20, 3).test, make_sums(20, 4).test);
  EXPECT_EQ(make_sums(1, 0).test.size() + make_sums(1, 0).train.size(), 4U);
}

}  // namespace
}  // namespace unigrpo::data

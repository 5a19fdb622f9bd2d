#include "base/bytes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace unigrpo {
namespace {

struct Point {
  int x = 0;
  std::optional<double> y;
  bool operator==(const Point&) const = default;
};

template <typename Bytes, SameAs<Point> T>
void fields(Bytes& bytes, T& point) {
  bytes(point.x, point.y);
}

TEST(Bytes, WhatIsWrittenIsRead) {
  const std::map<std::string, std::vector<Point>> points = {{"", {}}, {"a\0b", {{1, 0.1}, {-2, std::nullopt}}}};
  const std::vector<float> floats = {0.1F, -std::numeric_limits<float>::infinity()};
  const std::vector<std::string> texts = {"", std::string("\0\n", 2)};
  const std::string bytes = to_bytes(points, floats, texts, true, int64_t{-5});
  std::map<std::string, std::vector<Point>> points_read = {{"old", {}}};
  std::vector<float> floats_read;
  std::vector<std::string> texts_read = {"old"};
  bool flag = false;
  int64_t number = 0;
  from_bytes(bytes, points_read, floats_read, texts_read, flag, number);
  EXPECT_EQ(points_read, points);
  EXPECT_EQ(floats_read, floats);
  EXPECT_EQ(texts_read, texts);
  EXPECT_TRUE(flag);
  EXPECT_EQ(number, -5);
}

TEST(Bytes, ANumberKeepsItsBits) {
  double read = 0;
  from_bytes(to_bytes(std::nan("7")), read);
  EXPECT_TRUE(std::isnan(read));
  from_bytes(to_bytes(-0.0), read);
  EXPECT_TRUE(std::signbit(read));
}

TEST(Bytes, AnyPrefixIsRefused) {
  const std::string bytes = to_bytes(std::vector<std::string>{"one", "two"}, std::vector<double>{1, 2}, Point{3, 4.0});
  for (size_t length = 0; length < bytes.size(); ++length) {
    std::vector<std::string> texts;
    std::vector<double> numbers;
    Point point;
    EXPECT_THROW(from_bytes(std::string_view(bytes).substr(0, length), texts, numbers, point), RuntimeFailure);
  }
}

}  // namespace
}  // namespace unigrpo

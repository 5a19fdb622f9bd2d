#include "base/hash.h"

#include <gtest/gtest.h>

namespace unigrpo {
namespace {

TEST(Hash, IsFnv1a64) {
  EXPECT_EQ(fnv1a64(""), 0xcbf29ce484222325ULL);  // published test vectors of the hash
  EXPECT_EQ(fnv1a64("a"), 0xaf63dc4c8601ec8cULL);
  EXPECT_EQ(fnv1a64("foobar"), 0x85944171f73967e8ULL);
}

TEST(Hash, OfANumberIsThatOfItsBytesAndGoesOn) {
  EXPECT_EQ(fnv1a64(uint64_t{0x61}, kFnvStart), fnv1a64(std::string_view("a\0\0\0\0\0\0\0", 8)));
  EXPECT_EQ(fnv1a64("bar", fnv1a64("foo")), fnv1a64("foobar"));
}

}  // namespace
}  // namespace unigrpo

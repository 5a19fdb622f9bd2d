#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace unigrpo::data {

/// Prompt rows (JSON lines) whose answers a rule can check.
struct ArithmeticRows {
  std::vector<std::string> train, test;
};

/// Every sum of two numbers from 0 to `largest` as {"id": "3+4", "tag": "sum", "prompt": "3 + 4 =", "metadata":
/// {"answer": "7"}}, for the reward `answer`. One pair in five, drawn by `seed` and rounded up, is for testing; a + b
/// and b + a stay together. largest: at least 1.
ArithmeticRows make_sums(int64_t largest, uint64_t seed);

}  // namespace unigrpo::data

#include "base/failure.h"

#include <gtest/gtest.h>

#include <exception>
#include <new>
#include <stdexcept>

namespace unigrpo {
namespace {

Failure failure_of(void (*action)()) {
  try {
    action();
  } catch (const std::exception& error) {
    return describe_failure(error);
  }
  return {ExitCode::done, "no exception"};
}

TEST(Failure, BadInputIsTheUsersToMend) {
  const Failure failure = failure_of([] { throw BadInput("a.toml:{}: wrong", 3); });
  EXPECT_EQ(failure.code, ExitCode::bad_input);
  EXPECT_EQ(failure.line, "a.toml:3: wrong");
}

TEST(Failure, WhatIsNeitherFamilyIsAFailure) {
  EXPECT_EQ(failure_of([] { throw RuntimeFailure("disk full"); }).code, ExitCode::failed);
  EXPECT_EQ(failure_of([] { throw std::logic_error("ours"); }).code, ExitCode::failed);
  EXPECT_EQ(failure_of([] { throw std::bad_alloc(); }).line, "out of memory");
}

TEST(Failure, ALostPeerIsWorthAnotherTry) {
  EXPECT_EQ(failure_of([] { throw PeerLost("rank {} is gone", 1); }).code, ExitCode::try_again);
}

TEST(Failure, WhatLibTorchTellsOfItsStackIsLeftOut) {
  const char* text = "shapes differ\nException raised from check at a.cpp:3 (most recent call first):\nframe #0: f";
  EXPECT_EQ(describe_failure(std::runtime_error(text)).line, "shapes differ");
}

TEST(Failure, ContextIsJoinedOutermostFirstAndKeepsTheFamilyOfItsCause) {
  const Failure failure = failure_of([] {
    try {
      throw BadInput("rows.jsonl:7: seed is negative");
    } catch (...) {
      std::throw_with_nested(std::runtime_error("step 3"));
    }
  });
  EXPECT_EQ(failure.code, ExitCode::bad_input);
  EXPECT_EQ(failure.line, "step 3: rows.jsonl:7: seed is negative");
}

TEST(Failure, TheOutermostFamilyDecides) {
  const Failure failure = failure_of([] {
    try {
      throw RuntimeFailure("cannot read");
    } catch (...) {
      std::throw_with_nested(BadInput("model.safetensors"));
    }
  });
  EXPECT_EQ(failure.code, ExitCode::bad_input);
  EXPECT_EQ(failure.line, "model.safetensors: cannot read");
}

TEST(Failure, IsOneLineWhateverTheInputHolds) {
  const Failure failure = failure_of([] { throw BadInput("{}: missing\n", "a\nb\x1b[31m\x7f"); });
  EXPECT_EQ(failure.line, "a\\nb\\x1b[31m\\x7f: missing");
}

}  // namespace
}  // namespace unigrpo

#pragma once

#include <string>

#include "base/error.h"

namespace unigrpo::testing {

/// Why something is refused; "accepted" where it is not.
template <typename Work>
std::string refusal(const Work& work) {
  try {
    work();
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace unigrpo::testing

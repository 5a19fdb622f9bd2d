#pragma once

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <new>
#include <string_view>

#include "base/error.h"

namespace unigrpo::train {

/// What `work` returns. Where the machine or a device has no memory left for it, throws RuntimeFailure with the phase
/// and the key that makes it need less.
template <typename Work>
auto within_memory(std::string_view phase, std::string_view key, int64_t value, const Work& work) {
  try {
    return work();
  } catch (const c10::OutOfMemoryError& error) {
    const std::string why = error.what_without_backtrace();
    throw RuntimeFailure("{}: the device is out of memory; a {} below {} takes less ({})", phase, key, value,
                         why.substr(0, why.find('\n')));
  } catch (const std::bad_alloc&) {
    throw RuntimeFailure("{}: out of memory; a {} below {} takes less", phase, key, value);
  }
}

}  // namespace unigrpo::train

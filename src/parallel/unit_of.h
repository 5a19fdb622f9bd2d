#pragma once

#include <cstddef>

namespace unigrpo::parallel {

class ShardedModel;

/// A unit of a model that is spread over ranks, as the code that runs it knows it; without a model it does nothing.
struct UnitOf {
  ShardedModel* model = nullptr;
  size_t unit = 0;

  /// See ShardedModel.
  void enter(bool again) const;
  void leave(bool again) const;
};

}  // namespace unigrpo::parallel

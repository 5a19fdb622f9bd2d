#pragma once

#include "base/bytes.h"
#include "reward/score.h"

namespace unigrpo::reward {

template <typename Bytes, SameAs<Score> T>
void fields(Bytes& bytes, T& score) {
  bytes(score.value, score.reason, score.parts, score.missing, score.notes, score.asked);
}

template <typename Bytes, SameAs<ScoreTable> T>
void fields(Bytes& bytes, T& table) {
  bytes(table.terms, table.weights, table.modality, table.streams, table.scores);
}

}  // namespace unigrpo::reward

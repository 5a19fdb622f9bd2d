#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace unigrpo::data {

/// A SentencePiece model file after all checks, ready for the library.
struct SentencePieceModel {
  enum class Type : int { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::normal;
  };
  std::vector<Piece> pieces;  // the id is the index
  /// The model written anew in protobuf's wire format, holding nothing but verified fields.
  std::string serialized;
};

/// Parses a `.model` file (ModelProto of SentencePiece's sentencepiece_model.proto) and verifies
/// all that the library trusts: the wire format, piece count, length, encoding, uniqueness and
/// types, finite scores, exactly one unknown piece, byte pieces, model type, and that the compiled
/// normalizer's trie stays inside its own blob. The library ends the process or reads out of bounds
/// where these do not hold. Throws BadInput "<where>: SentencePiece model: ...".
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, std::string_view where);

}  // namespace unigrpo::data

#include "data/tokenizer/sentencepiece_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "base/text.h"

namespace unigrpo::data {
namespace {

using Type = SentencePieceModel::Type;
using Piece = SentencePieceModel::Piece;

constexpr size_t kMaxPieces = 1'000'000;
// The library's trie builder recurses once a byte of a piece, and finds at most 1024 pieces that
// are prefixes of one text.
constexpr size_t kMaxPieceBytes = 1024;
constexpr size_t kMaxAllPieceBytes = size_t{8} << 20;  // the trie takes some 50 times as much
constexpr size_t kMaxNestedUserSymbols = 64;           // room for prefixes in the library's PrefixMatch
constexpr size_t kMaxCharsmapBytes = size_t{8} << 20;
constexpr int kMaxNestedRules = 32;  // room for prefixes in the library's NormalizePrefix
constexpr size_t kMaxReplacementBytes = 1024;
constexpr int kNumModelTypes = 4;  // unigram, bpe, word, char

enum class Wire : uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

struct Field {
  uint32_t number = 0;
  Wire wire = Wire::varint;
  uint64_t value = 0;      // varint, fixed32, fixed64
  std::string_view bytes;  // of wire type bytes
};

/// Walks the fields of one protobuf message.
class WireReader {
 public:
  WireReader(std::string_view bytes, size_t offset, std::string_view where)
      : bytes_(bytes), offset_(offset), where_(where) {}

  bool done() const { return at_ == bytes_.size(); }
  /// Offset in the file of the bytes that next() gave last.
  size_t payload_offset() const { return payload_offset_; }

  Field next() {
    const size_t begin = at_;
    const uint64_t tag = varint();
    Field field{.number = static_cast<uint32_t>(tag >> 3), .wire = static_cast<Wire>(tag & 7), .value = 0, .bytes = {}};
    if (tag > std::numeric_limits<uint32_t>::max() || field.number == 0) {
      fail("a bad field number", begin);
    }
    switch (field.wire) {
      case Wire::varint:
        field.value = varint();
        break;
      case Wire::fixed64:
        field.value = fixed(8, begin);
        break;
      case Wire::fixed32:
        field.value = fixed(4, begin);
        break;
      case Wire::bytes: {
        const uint64_t size = varint();
        if (size > bytes_.size() - at_) {
          fail(fmt::format("field {} of {} bytes runs past the end (truncated)", field.number, size), begin);
        }
        payload_offset_ = offset_ + at_;
        field.bytes = bytes_.substr(at_, size);
        at_ += size;
        break;
      }
      default:
        fail(fmt::format("wire type {}", tag & 7), begin);
    }
    return field;
  }

  [[noreturn]] void fail(std::string_view what, size_t at) const {
    throw BadInput("{}: SentencePiece model does not parse: {} at byte {}", where_, what, offset_ + at);
  }

 private:
  uint64_t varint() {
    const size_t begin = at_;
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at_ == bytes_.size()) fail("a truncated number", begin);
      const auto byte = static_cast<uint8_t>(bytes_[at_++]);
      if (shift == 63 && byte > 1) break;
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number of more than 64 bits", begin);
  }

  uint64_t fixed(size_t size, size_t begin) {
    if (size > bytes_.size() - at_) fail("a truncated number", begin);
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) {
      value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes_[at_++])) << (8 * i);
    }
    return value;
  }

  std::string_view bytes_;
  size_t offset_;  // of bytes_ in the file, for messages
  std::string_view where_;
  size_t at_ = 0;
  size_t payload_offset_ = 0;
};

class WireWriter {
 public:
  void add_varint(uint32_t number, uint64_t value) {
    varint(uint64_t{number} << 3);
    varint(value);
  }
  void add_float(uint32_t number, float value) {
    varint(uint64_t{number} << 3 | 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) text_ += static_cast<char>(bits >> shift & 0xFF);
  }
  void add_bytes(uint32_t number, std::string_view value) {
    varint(uint64_t{number} << 3 | 2);
    varint(value.size());
    text_ += value;
  }
  std::string take() { return std::move(text_); }
  const std::string& text() const { return text_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }
  std::string text_;
};

struct TrainerSpec {
  int model_type = 1;
  bool treat_whitespace_as_suffix = false;
  bool byte_fallback = false;
  std::optional<std::string> unk_surface;
};

struct NormalizerSpec {
  std::string_view charsmap;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

// A double-array trie (darts-clone) as it stands in a compiled normalizer. From the state `s` a
// byte b leads to unit s ^ b, if that unit's label is b, and from there to state (s ^ b) ^ offset;
// where the unit has a leaf, the unit at that state holds the value. Nothing in the library checks
// these indices.
class NormalizerTrie {
 public:
  NormalizerTrie(std::string_view units, std::string_view replacements)
      : units_(units), num_units_(units.size() / 4), replacements_(replacements) {}

  /// The first fault on any path from the root; empty where there is none.
  std::string fault() {
    if (units_.size() % 4 != 0 || num_units_ == 0) return "trie size is not a multiple of 4";
    if (replacements_.empty() || replacements_.back() != '\0') {
      return "replacement texts do not end in NUL";
    }
    return walk(offset(unit(0)));
  }

 private:
  struct Open {
    uint32_t state;
    uint32_t next_label;
    int leaves_below;  // most values on a path from this state on
  };

  uint32_t unit(uint32_t index) const {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) {
      value |= uint32_t{static_cast<uint8_t>(units_[4 * size_t{index} + i])} << (8 * i);
    }
    return value;
  }
  static uint32_t label(uint32_t unit) { return unit & (uint32_t{1} << 31 | 0xFF); }
  static uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
  static bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }

  std::string walk(uint32_t root) {
    constexpr int kUnseen = -1, kOpen = -2;
    std::vector<int> leaves(num_units_, kUnseen);  // kOpen, or the most values on a path from here
    std::vector<Open> path;
    if (root >= num_units_) return "trie root is out of range";
    leaves[root] = kOpen;
    path.push_back({root, 0, 0});
    while (!path.empty()) {
      Open& top = path.back();
      if (top.next_label == 256) {
        const int depth = top.leaves_below;
        leaves[top.state] = depth;
        path.pop_back();
        if (path.empty()) break;
        settle(path.back(), depth);
        continue;
      }
      const uint32_t symbol = top.next_label;
      const uint32_t child = top.state ^ symbol;
      if (child >= num_units_) return "trie node is out of range";
      const uint32_t child_unit = unit(child);
      if (label(child_unit) != symbol) {
        ++top.next_label;
        continue;
      }
      const uint32_t next = child ^ offset(child_unit);
      if (next >= num_units_) return "trie node is out of range";
      if (has_leaf(child_unit)) {
        if (std::string why = replacement_fault(unit(next)); !why.empty()) return why;
      }
      if (leaves[next] == kOpen) return "trie has a cycle";
      if (leaves[next] == kUnseen) {
        leaves[next] = kOpen;
        path.push_back({next, 0, 0});
      } else {
        settle(top, leaves[next]);
        if (top.leaves_below > kMaxNestedRules) return "trie nests too many rules";
      }
    }
    return leaves[root] > kMaxNestedRules ? "trie nests too many rules" : "";
  }

  // A state's transition under top.next_label is finished, with `depth` values from there on.
  void settle(Open& top, int depth) {
    const int own = has_leaf(unit(top.state ^ top.next_label)) ? 1 : 0;
    top.leaves_below = std::max(top.leaves_below, own + depth);
    ++top.next_label;
  }

  std::string replacement_fault(uint32_t leaf) const {
    const uint32_t at = leaf & 0x7FFFFFFF;
    if (at >= replacements_.size()) return "trie value is out of range";
    const std::string_view rest = replacements_.substr(at);
    const std::string_view text = rest.substr(0, rest.substr(0, kMaxReplacementBytes + 1).find('\0'));
    if (text.size() > kMaxReplacementBytes) return "replacement text is too long";
    if (!is_valid_utf8(text)) return "replacement text is not valid UTF-8";
    return {};
  }

  std::string_view units_;
  size_t num_units_;
  std::string_view replacements_;
};

/// Everything of a model file, in the order of the format.
class ModelReader {
 public:
  explicit ModelReader(std::string_view where) : where_(where) {}

  SentencePieceModel read(std::string_view bytes) {
    if (bytes.empty()) fail("the file is empty");
    WireReader reader(bytes, 0, where_);
    while (!reader.done()) {
      const Field field = reader.next();
      const size_t offset = reader.payload_offset();
      if (field.number > 5 || field.number == 4) continue;  // 4: self-test, not needed to run
      expect(field, Wire::bytes, "ModelProto");
      if (field.number == 1) read_piece(field.bytes, offset);
      if (field.number == 2) read_trainer(field.bytes, offset);
      if (field.number == 3) read_normalizer(normalizer_, field.bytes, offset);
      if (field.number == 5) {
        has_denormalizer_ = true;
        read_normalizer(denormalizer_, field.bytes, offset);
      }
    }
    check_pieces();
    check_charsmap("normalizer", normalizer_);
    check_charsmap("denormalizer", denormalizer_);
    model_.serialized = serialize();
    return std::move(model_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw BadInput("{}: SentencePiece model: {}", where_, fmt::format(format, std::forward<Args>(args)...));
  }

  void expect(const Field& field, Wire wire, std::string_view message) const {
    if (field.wire != wire) {
      throw BadInput("{}: SentencePiece model does not parse: field {} of {} has wire type {}, expected {}", where_,
                     field.number, message, static_cast<int>(field.wire), static_cast<int>(wire));
    }
  }

  void read_piece(std::string_view bytes, size_t offset) {
    const size_t id = model_.pieces.size();
    if (id == kMaxPieces) fail("more than {} pieces", kMaxPieces);
    Piece piece;
    WireReader reader(bytes, offset, where_);
    while (!reader.done()) {
      const Field field = reader.next();
      if (field.number == 1) {
        expect(field, Wire::bytes, "a piece");
        if (field.bytes.size() > kMaxPieceBytes) {
          fail("piece {} is too long: {} bytes, the limit is {}", id, field.bytes.size(), kMaxPieceBytes);
        }
        piece.text = field.bytes;
        all_piece_bytes_ += field.bytes.size();
        if (all_piece_bytes_ > kMaxAllPieceBytes) {
          fail("the pieces have more than {} bytes in all", kMaxAllPieceBytes);
        }
      } else if (field.number == 2) {
        expect(field, Wire::fixed32, "a piece");
        piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
      } else if (field.number == 3) {
        expect(field, Wire::varint, "a piece");
        if (field.value < 1 || field.value > 6) {
          fail("piece {} has the unknown type {}, expected 1..6", id, field.value);
        }
        piece.type = static_cast<Type>(field.value);
      }
    }
    model_.pieces.push_back(std::move(piece));
  }

  void read_trainer(std::string_view bytes, size_t offset) {
    WireReader reader(bytes, offset, where_);
    while (!reader.done()) {
      const Field field = reader.next();
      switch (field.number) {
        case 3:
          expect(field, Wire::varint, "trainer_spec");
          if (field.value < 1 || field.value > kNumModelTypes) {
            fail("model_type {} is unknown, expected 1..{}", field.value, kNumModelTypes);
          }
          trainer_.model_type = static_cast<int>(field.value);
          break;
        case 24:
          trainer_.treat_whitespace_as_suffix = flag(field, "trainer_spec");
          break;
        case 35:
          trainer_.byte_fallback = flag(field, "trainer_spec");
          break;
        case 44:
          expect(field, Wire::bytes, "trainer_spec");
          if (field.bytes.size() > kMaxPieceBytes || !is_valid_utf8(field.bytes)) {
            fail("unk_surface is not valid UTF-8 of at most {} bytes", kMaxPieceBytes);
          }
          trainer_.unk_surface = field.bytes;
          break;
        default:
          break;  // how the model was trained
      }
    }
  }

  void read_normalizer(NormalizerSpec& spec, std::string_view bytes, size_t offset) const {
    WireReader reader(bytes, offset, where_);
    while (!reader.done()) {
      const Field field = reader.next();
      switch (field.number) {
        case 2:
          expect(field, Wire::bytes, "normalizer_spec");
          spec.charsmap = field.bytes;
          break;
        case 3:
          spec.add_dummy_prefix = flag(field, "normalizer_spec");
          break;
        case 4:
          spec.remove_extra_whitespaces = flag(field, "normalizer_spec");
          break;
        case 5:
          spec.escape_whitespaces = flag(field, "normalizer_spec");
          break;
        default:
          break;  // its name and the rules it was compiled from
      }
    }
  }

  bool flag(const Field& field, std::string_view message) const {
    expect(field, Wire::varint, message);
    return field.value != 0;
  }

  void check_pieces() const {
    if (model_.pieces.empty()) fail("no pieces in the model; is this a SentencePiece file?");
    std::unordered_map<std::string_view, size_t> ids;
    std::array<bool, 256> byte_found{};
    std::optional<size_t> unknown;
    bool any_in_trie = false;
    for (size_t id = 0; id < model_.pieces.size(); ++id) {
      const Piece& piece = model_.pieces[id];
      if (piece.text.empty()) fail("piece {} is empty", id);
      if (!is_valid_utf8(piece.text)) {
        fail("piece {} is not valid UTF-8: {}", id, in_quotes(piece.text, 40));
      }
      if (piece.text.find('\0') != std::string::npos) {
        fail("piece {} holds a NUL byte: {}", id, in_quotes(piece.text, 40));
      }
      if (!std::isfinite(piece.score)) {
        fail("piece {} {}: score is {}, a finite number is expected (not NaN or infinite)", id,
             in_quotes(piece.text, 40), piece.score);
      }
      if (const auto [other, is_new] = ids.try_emplace(piece.text, id); !is_new) {
        fail("piece {} {} is a duplicate: already defined as piece {}", id, in_quotes(piece.text, 40), other->second);
      }
      switch (piece.type) {
        case Type::unknown:
          if (unknown) {
            fail("two unknown pieces (unk), {} and {}; exactly one is expected", *unknown, id);
          }
          unknown = id;
          break;
        case Type::byte:
          check_byte_piece(id, piece, byte_found);
          break;
        case Type::control:
          break;
        default:
          any_in_trie = true;
      }
    }
    if (!unknown) fail("no unknown piece (unk); exactly one is expected");
    if (!any_in_trie) fail("no piece that stands for text");
    if (trainer_.byte_fallback && std::find(byte_found.begin(), byte_found.end(), false) != byte_found.end()) {
      fail("byte_fallback is on, but not all 256 byte pieces are there");
    }
    check_user_symbols();
  }

  void check_byte_piece(size_t id, const Piece& piece, std::array<bool, 256>& byte_found) const {
    if (!trainer_.byte_fallback) {
      fail("byte piece {} {} although byte_fallback is off", id, in_quotes(piece.text, 40));
    }
    for (size_t byte = 0; byte < byte_found.size(); ++byte) {
      if (piece.text == fmt::format("<0x{:02X}>", byte)) {
        byte_found[byte] = true;
        return;
      }
    }
    fail("byte piece {} {} is none of <0x00>..<0xFF>", id, in_quotes(piece.text, 40));
  }

  void check_user_symbols() const {
    std::vector<std::string_view> symbols;
    for (const Piece& piece : model_.pieces) {
      if (piece.type == Type::user_defined) symbols.push_back(piece.text);
    }
    std::sort(symbols.begin(), symbols.end());
    std::vector<std::string_view> nested;  // each a prefix of the next
    for (const std::string_view symbol : symbols) {
      while (!nested.empty() && !symbol.starts_with(nested.back())) nested.pop_back();
      nested.push_back(symbol);
      if (nested.size() > kMaxNestedUserSymbols) {
        fail("more than {} user-defined pieces that are prefixes of {}", kMaxNestedUserSymbols, in_quotes(symbol, 40));
      }
    }
  }

  void check_charsmap(std::string_view name, const NormalizerSpec& spec) const {
    const std::string_view map = spec.charsmap;
    if (map.empty()) return;
    if (map.size() > kMaxCharsmapBytes) {
      fail("{}: precompiled_charsmap has {} bytes, the limit is {}", name, map.size(), kMaxCharsmapBytes);
    }
    uint32_t trie_bytes = 0;
    for (size_t i = 0; i < std::min<size_t>(4, map.size()); ++i) {
      trie_bytes |= uint32_t{static_cast<uint8_t>(map[i])} << (8 * i);
    }
    if (map.size() < 4 || trie_bytes > map.size() - 4) {
      fail("{}: precompiled_charsmap is broken: its trie is longer than the map", name);
    }
    NormalizerTrie trie(map.substr(4, trie_bytes), map.substr(4 + size_t{trie_bytes}));
    if (const std::string why = trie.fault(); !why.empty()) {
      fail("{}: precompiled_charsmap is broken: {}", name, why);
    }
  }

  static std::string serialize(const NormalizerSpec& spec) {
    WireWriter writer;
    if (!spec.charsmap.empty()) writer.add_bytes(2, spec.charsmap);
    writer.add_varint(3, spec.add_dummy_prefix ? 1 : 0);
    writer.add_varint(4, spec.remove_extra_whitespaces ? 1 : 0);
    writer.add_varint(5, spec.escape_whitespaces ? 1 : 0);
    return writer.take();
  }

  std::string serialize() const {
    WireWriter writer;
    for (const Piece& piece : model_.pieces) {
      WireWriter inner;
      inner.add_bytes(1, piece.text);
      inner.add_float(2, piece.score);
      inner.add_varint(3, static_cast<uint64_t>(piece.type));
      writer.add_bytes(1, inner.text());
    }
    WireWriter trainer;
    trainer.add_varint(3, static_cast<uint64_t>(trainer_.model_type));
    trainer.add_varint(24, trainer_.treat_whitespace_as_suffix ? 1 : 0);
    trainer.add_varint(35, trainer_.byte_fallback ? 1 : 0);
    if (trainer_.unk_surface) trainer.add_bytes(44, *trainer_.unk_surface);
    writer.add_bytes(2, trainer.text());
    writer.add_bytes(3, serialize(normalizer_));
    if (has_denormalizer_) writer.add_bytes(5, serialize(denormalizer_));
    return writer.take();
  }

  std::string_view where_;
  SentencePieceModel model_;
  size_t all_piece_bytes_ = 0;
  TrainerSpec trainer_;
  NormalizerSpec normalizer_;
  NormalizerSpec denormalizer_;
  bool has_denormalizer_ = false;
};

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, std::string_view where) {
  return ModelReader(where).read(bytes);
}

}  // namespace unigrpo::data

// A small reader of JSON for reward plugins: settings and a prompt's metadata. C++17, standard library only; a plugin
// may use any other.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace unigrpo {
inline namespace sdk_v1 {

/// A JSON value. Reading one of another kind throws std::runtime_error that says what was expected.
class Json {
 public:
  enum class Kind { null, boolean, number, string, array, object };

  /// Throws std::runtime_error with the byte's number for a text that is not JSON or nests deeper than 64.
  static Json parse(std::string_view text) {
    Parser parser{text, 0};
    Json value = parser.value(0);
    parser.skip_space();
    if (parser.at != text.size()) parser.fail("more text after the value");
    return value;
  }

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  bool boolean() const { return need(Kind::boolean, "true or false").boolean_; }
  double number() const { return need(Kind::number, "a number").number_; }
  const std::string& string() const { return need(Kind::string, "a string").string_; }
  const std::vector<Json>& array() const { return need(Kind::array, "a list").array_; }
  const std::map<std::string, Json>& object() const { return need(Kind::object, "a table").object_; }

  /// A member of an object; null where there is none.
  const Json& operator[](const std::string& key) const {
    static const Json null;
    const auto found = object().find(key);
    return found == object().end() ? null : found->second;
  }

 private:
  struct Parser {
    std::string_view text;
    size_t at;

    [[noreturn]] void fail(const std::string& what) const {
      throw std::runtime_error("not JSON: " + what + " at byte " + std::to_string(at));
    }
    void skip_space() {
      while (at < text.size() && std::string_view(" \t\r\n").find(text[at]) != std::string_view::npos) ++at;
    }
    bool take(std::string_view token) {
      if (text.substr(at, token.size()) != token) return false;
      at += token.size();
      return true;
    }
    void expect(char c) {
      skip_space();
      if (!take({&c, 1})) fail(std::string("expected '") + c + "'");
    }

    Json value(int depth) {
      if (depth > 64) fail("nested too deep");
      skip_space();
      if (at == text.size()) fail("unexpected end");
      Json out;
      if (text[at] == '{') return members(depth);
      if (text[at] == '[') return elements(depth);
      if (text[at] == '"') {
        out.kind_ = Kind::string;
        out.string_ = quoted();
      } else if (take("true") || take("false")) {
        out.kind_ = Kind::boolean;
        out.boolean_ = text[at - 2] == 'u';
      } else if (!take("null")) {
        out.kind_ = Kind::number;
        out.number_ = digits();
      }
      return out;
    }
    Json members(int depth) {
      Json out;
      out.kind_ = Kind::object;
      ++at;
      skip_space();
      if (take("}")) return out;
      do {
        skip_space();
        if (at == text.size() || text[at] != '"') fail("expected a key");
        std::string key = quoted();
        expect(':');
        out.object_.insert_or_assign(std::move(key), value(depth + 1));
        skip_space();
      } while (take(","));
      expect('}');
      return out;
    }
    Json elements(int depth) {
      Json out;
      out.kind_ = Kind::array;
      ++at;
      skip_space();
      if (take("]")) return out;
      do {
        out.array_.push_back(value(depth + 1));
        skip_space();
      } while (take(","));
      expect(']');
      return out;
    }
    double digits() {
      const size_t begin = at;
      while (at < text.size() && std::string_view("+-.eE0123456789").find(text[at]) != std::string_view::npos) ++at;
      const std::string number(text.substr(begin, at - begin));
      char* end = nullptr;
      const double parsed = std::strtod(number.c_str(), &end);
      if (number.empty() || *end != '\0') fail("expected a value");
      return parsed;
    }
    unsigned hex4() {
      if (text.size() - at < 4) fail("cut escape");
      const std::string code(text.substr(at, 4));
      char* end = nullptr;
      const auto parsed = static_cast<unsigned>(std::strtoul(code.c_str(), &end, 16));
      if (end != code.c_str() + 4) fail("bad escape");
      at += 4;
      return parsed;
    }
    std::string quoted() {
      std::string out;
      for (++at; at < text.size();) {
        const char c = text[at++];
        if (c == '"') return out;
        if (c == '\\') {
          escape(out);
        } else {
          out += c;
        }
      }
      fail("a string without end");
    }
    void escape(std::string& out) {
      static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
      if (at == text.size()) fail("cut escape");
      const char name = text[at++];
      if (name != 'u') {
        const size_t index = kNames.find(name);
        if (index == std::string_view::npos) fail("bad escape");
        out += kValues[index];
        return;
      }
      unsigned code = hex4();
      if (code >= 0xD800 && code < 0xDC00 && take("\\u")) {
        const unsigned low = hex4();
        if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      }
      append_utf8(out, code);
    }
    static void append_utf8(std::string& out, unsigned code) {
      if (code < 0x80) {
        out += static_cast<char>(code);
        return;
      }
      const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      out += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | code >> (6 * more));
      for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | (code >> (6 * i) & 0x3F));
    }
  };

  const Json& need(Kind kind, const char* expected) const {
    if (kind_ != kind) throw std::runtime_error(std::string("expected ") + expected);
    return *this;
  }

  Kind kind_ = Kind::null;
  bool boolean_ = false;
  double number_ = 0;
  std::string string_;
  std::vector<Json> array_;
  std::map<std::string, Json> object_;
};

}  // namespace sdk_v1
}  // namespace unigrpo

#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace unigrpo {

/// Values one after another as bytes, for what processes of one build tell each other: in this machine's order, without
/// versions. A struct is written and read by one function, found by its argument:
///
///   template <typename Bytes, SameAs<Point> T>
///   void fields(Bytes& bytes, T& point) { bytes(point.x, point.y); }
class ByteWriter {
 public:
  template <typename... T>
  void operator()(const T&... values) {
    (put(values), ...);
  }
  std::string take() { return std::move(bytes_); }

 private:
  template <typename T>
  void put(const T& value) {
    if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>) {
      bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    } else {
      fields(*this, value);
    }
  }
  void put_size(size_t size) { put(static_cast<uint64_t>(size)); }
  void put(const std::string& text) {
    put_size(text.size());
    bytes_ += text;
  }
  template <typename T>
  void put(const std::optional<T>& value) {
    put(value.has_value());
    if (value) put(*value);
  }
  template <typename T>
  void put(const std::vector<T>& values) {
    put_size(values.size());
    if constexpr (std::is_arithmetic_v<T>) {
      bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    } else {
      for (const T& value : values) put(value);
    }
  }
  template <typename K, typename V>
  void put(const std::map<K, V>& values) {
    put_size(values.size());
    for (const auto& [key, value] : values) (*this)(key, value);
  }

  std::string bytes_;
};

/// Reads what a ByteWriter wrote. Throws RuntimeFailure where the bytes end before the values do.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename... T>
  void operator()(T&... values) {
    (get(values), ...);
  }

 private:
  template <typename T>
  void get(T& value) {
    if constexpr (std::is_arithmetic_v<T> || std::is_enum_v<T>) {
      std::memcpy(&value, cut(sizeof value).data(), sizeof value);
    } else {
      fields(*this, value);
    }
  }
  size_t get_size() {
    uint64_t size = 0;
    get(size);
    if (size > bytes_.size()) throw RuntimeFailure("{} values are said to be in {} bytes", size, bytes_.size());
    return static_cast<size_t>(size);
  }
  void get(std::string& text) { text = std::string(cut(get_size())); }
  template <typename T>
  void get(std::optional<T>& value) {
    bool has_value = false;
    get(has_value);
    value.reset();
    if (has_value) get(value.emplace());
  }
  template <typename T>
  void get(std::vector<T>& values) {
    values.assign(get_size(), T{});
    if constexpr (std::is_arithmetic_v<T>) {
      const std::string_view from = cut(values.size() * sizeof(T));
      if (!from.empty()) std::memcpy(values.data(), from.data(), from.size());
    } else {
      for (T& value : values) get(value);
    }
  }
  template <typename K, typename V>
  void get(std::map<K, V>& values) {
    values.clear();
    for (size_t left = get_size(); left > 0; --left) {
      K key{};
      get(key);
      get(values[key]);
    }
  }
  std::string_view cut(size_t size) {
    if (size > bytes_.size()) throw RuntimeFailure("{} bytes are missing", size - bytes_.size());
    const std::string_view front = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return front;
  }

  std::string_view bytes_;
};

/// T, const or not.
template <typename Other, typename T>
concept SameAs = std::is_same_v<std::remove_const_t<Other>, T>;

template <typename... T>
std::string to_bytes(const T&... values) {
  ByteWriter writer;
  writer(values...);
  return writer.take();
}

template <typename... T>
void from_bytes(std::string_view bytes, T&... values) {
  ByteReader reader(bytes);
  reader(values...);
}

}  // namespace unigrpo

// Named arrays in one binary file: golden.bin (the twin of a bundle's golden.npz) and the fixtures of the tests.
//
// The format, all numbers little-endian and unsigned:
//
//     0   8 bytes   89 44 4b 41 0d 0a 1a 0a: a copy in text mode changes it
//     8   uint32    how many arrays follow
//     12  uint32    0
//     16  64 bytes for each array:
//           0   16 bytes  name, ASCII, filled up with zeros
//           16  uint32    type: 0 uint8, 1 int64, 2 float32 (IEEE 754)
//           20  uint32    rank, 1 to 4
//           24  4 uint32  shape, 0 behind the rank
//           40  uint64    where its data begins in the file, a multiple of 16
//           48  uint64    bytes of data
//           56  uint64    0
//     then the data in C order, in the order of the arrays, with zeros between them; nothing stands behind the last.
//
// golden.bin has image [N, H, W, 3] uint8, logits [N, K] float32 and, where the bundle explains, explained_class [N] int64 and
// cam [N, h, w] float32. It is read byte by byte, so big-endian machines read the same numbers.
#ifndef DEPLOYKIT_GOLDEN_H
#define DEPLOYKIT_GOLDEN_H

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "deploykit/error.h"
#include "deploykit/file.h"
#include "deploykit/model.h"
#include "deploykit/sha256.h"

namespace deploykit {

struct Array {
  std::string name;
  DataType type = DataType::uint8;
  std::vector<std::size_t> shape;
  std::string_view data;  // little-endian

  std::size_t size() const noexcept {
    std::size_t count = 1;
    for (const std::size_t length : shape) count *= length;
    return count;
  }
};

namespace detail {

inline std::uint64_t little_endian(std::string_view data, std::size_t at, std::size_t bytes) noexcept {
  std::uint64_t value = 0;
  for (std::size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(data[at + i]);
  return value;
}

}  // namespace detail

// A file of arrays, whole in memory. Threads may read one together.
class ArrayFile {
 public:
  // Throws Error: unreadable, not this format, cut short, or, where `sha256` is given, of another digest.
  explicit ArrayFile(const std::string& path, std::string_view sha256 = {}) : ArrayFile(path, read_file(path, hint()), sha256) {}

  // The same of bytes that are in memory already; `path` is for the messages.
  ArrayFile(const std::string& path, std::string data, std::string_view sha256) : path_(path), data_(std::move(data)) {
    using namespace std::string_view_literals;
    if (std::string_view(data_).substr(0, 8) != "\x89\x44\x4b\x41\r\n\x1a\n"sv)
      fail("is not a file of arrays, or was copied in text mode");
    if (!sha256.empty() && sha256_of(data_) != sha256) {
      fail("has sha256 " + sha256_of(data_).substr(0, 12) + "\xe2\x80\xa6, the header says " + std::string(sha256.substr(0, 12)) +
           "\xe2\x80\xa6");
    }
    if (data_.size() < 16) fail("is cut short");
    const std::uint64_t count = detail::little_endian(data_, 8, 4);
    if (count > (data_.size() - 16) / 64) fail("is cut short");
    for (std::size_t i = 0; i < count; ++i) arrays_.push_back(read_entry(16 + 64 * i));
    std::size_t end = 16 + 64 * arrays_.size();
    for (const Array& array : arrays_) end = static_cast<std::size_t>(array.data.data() - data_.data()) + array.data.size();
    if (end != data_.size()) fail("has something behind its arrays");
  }
  ArrayFile(const ArrayFile&) = delete;  // its arrays point into it
  ArrayFile& operator=(const ArrayFile&) = delete;

  const std::vector<Array>& arrays() const noexcept { return arrays_; }

  bool has(std::string_view name) const noexcept { return find(name) != nullptr; }

  // Throws Error where there is no such array or it has another type.
  const Array& get(std::string_view name, DataType type) const {
    const Array* found = find(name);
    if (found == nullptr) fail("has no array " + std::string(name));
    if (found->type != type)
      fail("has " + std::string(name) + " as " + std::string(name_of(found->type)) + ", expected " + std::string(name_of(type)));
    return *found;
  }
  std::vector<std::uint8_t> bytes(std::string_view name) const {
    const Array& array = get(name, DataType::uint8);
    return {array.data.begin(), array.data.end()};
  }
  std::vector<std::int64_t> integers(std::string_view name) const {
    const Array& array = get(name, DataType::int64);
    std::vector<std::int64_t> values(array.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<std::int64_t>(detail::little_endian(array.data, 8 * i, 8));
    return values;
  }
  std::vector<float> floats(std::string_view name) const {
    static_assert(sizeof(float) == 4, "float is IEEE 754 single precision");
    const Array& array = get(name, DataType::float32);
    std::vector<float> values(array.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const auto bits = static_cast<std::uint32_t>(detail::little_endian(array.data, 4 * i, 4));
      std::memcpy(&values[i], &bits, sizeof bits);
    }
    return values;
  }

 private:
  static std::string hint() { return "write it again with: deploykit cpp BUNDLE --force"; }
  [[noreturn]] void fail(const std::string& what) const { throw Error(path_ + " " + what, hint()); }

  const Array* find(std::string_view name) const noexcept {
    for (const Array& array : arrays_) {
      if (array.name == name) return &array;
    }
    return nullptr;
  }

  Array read_entry(std::size_t at) const {
    const std::string_view text = std::string_view(data_).substr(at, 16);
    Array array;
    array.name = std::string(text.substr(0, text.find('\0')));
    const std::uint64_t type = detail::little_endian(data_, at + 16, 4), rank = detail::little_endian(data_, at + 20, 4);
    if (type > 2 || rank < 1 || rank > 4)
      fail("has an array of type " + std::to_string(type) + " and rank " + std::to_string(rank));
    array.type = static_cast<DataType>(type);
    const std::uint64_t begin = detail::little_endian(data_, at + 40, 8), bytes = detail::little_endian(data_, at + 48, 8);
    // Bounds first: afterwards no product of the shape can be larger than the file, or it is refused before it overflows.
    if (begin > data_.size() || bytes > data_.size() - begin) fail("is cut short: " + array.name + " ends behind the file");
    std::uint64_t elements = 1;
    for (std::size_t axis = 0; axis < rank; ++axis) {
      const std::uint64_t length = detail::little_endian(data_, at + 24 + 4 * axis, 4);
      if (length != 0 && elements > bytes / length) fail("has an array, " + array.name + ", whose shape does not fit its data");
      elements *= length;
      array.shape.push_back(static_cast<std::size_t>(length));
    }
    if (elements * size_of(array.type) != bytes) fail("has an array, " + array.name + ", whose shape does not fit its data");
    array.data = std::string_view(data_).substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(bytes));
    return array;
  }

  std::string path_;
  std::string data_;
  std::vector<Array> arrays_;
};

}  // namespace deploykit

#endif

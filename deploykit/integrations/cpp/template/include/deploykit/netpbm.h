// The simplest picture files: PPM (P6) in, PPM and PGM (P5) out; and raw RGB. Other formats are the caller's.
// http://netpbm.sourceforge.net/doc/ppm.html
#ifndef DEPLOYKIT_NETPBM_H
#define DEPLOYKIT_NETPBM_H

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "deploykit/error.h"
#include "deploykit/file.h"
#include "deploykit/image.h"
#include "deploykit/maps.h"

namespace deploykit {

// Of a photo's side, to read numbers without overflow; check_image() of image.h says what a photo may have.
inline constexpr int most_length = 64'000'000;

// A P6 file of 8 bits per channel. `path` is for the messages. Throws Error.
inline Image parse_ppm(std::string_view data, const std::string& path) {
  const std::string hint = "make one with: convert photo.jpg -auto-orient -depth 8 photo.ppm";
  if (data.substr(0, 2) != "P6") throw Error(path + " is not a PPM file (P6)", hint);
  std::size_t at = 2;
  const auto is_space = [&] { return at < data.size() && std::isspace(static_cast<unsigned char>(data[at])) != 0; };
  const auto number = [&](const char* what, int most) {
    while (is_space() || (at < data.size() && data[at] == '#')) {
      if (data[at] == '#') at = std::min(data.find('\n', at), data.size() - 1);
      ++at;
    }
    int value = 0;
    const std::size_t first = at;
    for (; at < data.size() && std::isdigit(static_cast<unsigned char>(data[at])) != 0 && value <= most; ++at)
      value = 10 * value + (data[at] - '0');
    if (at == first || value < 1 || value > most)
      throw Error(path + " has no " + what + " from 1 to " + std::to_string(most), hint);
    return value;
  };
  Image image;
  image.width = number("width", most_length);
  image.height = number("height", most_length);
  if (number("greatest value", 65535) != 255) throw Error(path + " does not have 8 bits per channel", hint);
  if (!is_space()) throw Error(path + " has no pixels", hint);
  const std::string_view pixels = data.substr(at + 1);
  const std::size_t size = 3 * static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height);
  if (pixels.size() != size) {
    throw Error(path + " has " + std::to_string(pixels.size()) + " bytes of pixels, expected " + std::to_string(size),
                "copy it again, in binary mode");
  }
  image.pixels.assign(pixels.begin(), pixels.end());
  check_image(image);
  return image;
}

inline Image read_ppm(const std::string& path) {
  return parse_ppm(read_file(path), path);
}

// Raw RGB: width * height * 3 bytes and nothing else. Throws Error.
inline Image read_raw(const std::string& path, int width, int height) {
  const std::string data = read_file(path);
  Image image{width, height, {data.begin(), data.end()}};
  try {
    check_image(image);
  } catch (const Error& error) {
    throw Error(path + ": " + error.what(), error.hint());
  }
  return image;
}

inline void write_ppm(const std::string& path, const Image& image) {
  std::string data = "P6\n" + std::to_string(image.width) + " " + std::to_string(image.height) + "\n255\n";
  data.append(image.pixels.begin(), image.pixels.end());
  write_file(path, data);
}

// A map from 0 to 1 as grey levels from 0 to 255.
inline void write_pgm(const std::string& path, const Map& map) {
  std::string data = "P5\n" + std::to_string(map.width) + " " + std::to_string(map.height) + "\n255\n";
  for (const float value : map.values) data += static_cast<char>(static_cast<std::uint8_t>(std::lround(255 * value)));
  write_file(path, data);
}

}  // namespace deploykit

#endif

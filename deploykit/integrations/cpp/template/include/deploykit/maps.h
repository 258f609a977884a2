// From a raw map at the layer's size to the map people see: scaled to 0..1 at the network's size, then laid on the photo.
//
// The arithmetic of deploykit.runtime.maps, with sums of four products in double instead of matrix products in float: maps differ
// by 2e-6 at most, of a greatest value of 1 (each of Python's values is a sum of up to four float32 products, and the last division
// enlarges its rounding by what is left of the maximum between the layer's pixels).
#ifndef DEPLOYKIT_MAPS_H
#define DEPLOYKIT_MAPS_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "deploykit/error.h"
#include "deploykit/image.h"

namespace deploykit {

// One map, rows from the top.
struct Map {
  int height = 0;
  int width = 0;
  std::vector<float> values;
};

namespace detail {

// Bilinear shares of two neighbours at places between pixel centres; beyond an edge its value holds.
struct Share {
  std::size_t below;
  std::size_t above;
  double of_above;
};

inline Share share_at(double at, int size) noexcept {
  at = std::clamp(at, 0.0, static_cast<double>(size - 1));
  const int below = std::min(static_cast<int>(at), std::max(size - 2, 0));
  // Python keeps shares in float32.
  const float of_above = size > 1 ? static_cast<float>(at - below) : 0.0F;
  return {static_cast<std::size_t>(below), static_cast<std::size_t>(std::min(below + 1, size - 1)), static_cast<double>(of_above)};
}

// Bilinear samples at rows x columns, in pixels between centres.
inline Map sample(const Map& map, const std::vector<double>& rows, const std::vector<double>& columns) {
  Map result{static_cast<int>(rows.size()), static_cast<int>(columns.size()), {}};
  result.values.reserve(rows.size() * columns.size());
  std::vector<Share> across;
  for (const double x : columns) across.push_back(share_at(x, map.width));
  const auto width = static_cast<std::size_t>(map.width);
  for (const double y : rows) {
    const Share down = share_at(y, map.height);
    const float *upper = map.values.data() + down.below * width, *lower = map.values.data() + down.above * width;
    for (const Share& at : across) {
      const double above =
          static_cast<double>(upper[at.below]) * (1 - at.of_above) + static_cast<double>(upper[at.above]) * at.of_above;
      const double below =
          static_cast<double>(lower[at.below]) * (1 - at.of_above) + static_cast<double>(lower[at.above]) * at.of_above;
      result.values.push_back(static_cast<float>(above * (1 - down.of_above) + below * down.of_above));
    }
  }
  return result;
}

// Where the centres of `resized` pixels lie on `size` pixels, counted between centres: align_corners=False.
inline std::vector<double> pixel_centres(int size, int resized) {
  std::vector<double> centres;
  for (int i = 0; i < resized; ++i) centres.push_back((i + 0.5) * size / resized - 0.5);
  return centres;
}

// A map minus its least value, divided by what is then its greatest; a map of one value becomes zeros.
inline void scale_to_one(std::vector<float>& values) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  const double low = static_cast<double>(*least), range = static_cast<double>(*most) - low;
  for (float& value : values) value = range > 0 ? static_cast<float>((static_cast<double>(value) - low) / range) : 0.0F;
}

}  // namespace detail

// Scale a raw map [h, w] of values of 0 or more to [height, width], least value 0 and greatest 1. A map of zeros stays zeros; an
// even one (one value everywhere, up to eight roundings) becomes zeros: it favours no place. Throws Error: NaN, infinity, or values
// below 0.
inline Map normalize_map(const float* cam, int cam_height, int cam_width, int height, int width) {
  if (cam_height < 1 || cam_width < 1 || height < 1 || width < 1)
    throw Error("a map has no pixels, expected [h, w] of 1 or more each");
  Map small{cam_height, cam_width, {cam, cam + static_cast<std::size_t>(cam_height) * static_cast<std::size_t>(cam_width)}};
  for (const float value : small.values) {
    if (!std::isfinite(value)) throw Error("cam holds NaN or infinity, which no scale makes a map of");
    if (value < 0)
      throw Error("cam has values down to " + std::to_string(value) + ", expected 0 or more", "apply max(0, cam) first");
  }
  const auto [least, most] = std::minmax_element(small.values.begin(), small.values.end());
  constexpr float even = 1e-6F;
  const bool is_even = *most - *least <= even * *most;
  detail::scale_to_one(small.values);
  if (is_even) std::fill(small.values.begin(), small.values.end(), 0.0F);
  Map map = detail::sample(small, detail::pixel_centres(cam_height, height), detail::pixel_centres(cam_width, width));
  detail::scale_to_one(map.values);
  return map;
}

// Whether a raw map says anything for its class; false where it is zero everywhere.
inline bool has_evidence(const float* cam, std::size_t size) noexcept {
  return std::any_of(cam, cam + size, [](float value) { return value > 0; });
}

// Lay a map at the network's size on the photo that the network's picture was cut from: 0 where the network saw nothing, judged by
// a pixel's centre.
inline Map place_map(const Map& network_map, const CropBox& box, int photo_width, int photo_height) {
  const auto seen = [](double begin, double end, int size, int length) {
    std::vector<double> places;
    int first = 0;
    for (int i = 0; i < size; ++i) {
      if (i + 0.5 > begin && i + 0.5 < end) {
        if (places.empty()) first = i;
        places.push_back((i + 0.5 - begin) * length / (end - begin) - 0.5);
      }
    }
    return std::pair<int, std::vector<double>>(first, places);
  };
  const auto [left, columns] = seen(box.left, box.right, photo_width, network_map.width);
  const auto [top, rows] = seen(box.top, box.bottom, photo_height, network_map.height);
  const Map part = detail::sample(network_map, rows, columns);
  Map placed{photo_height, photo_width,
             std::vector<float>(static_cast<std::size_t>(photo_height) * static_cast<std::size_t>(photo_width))};
  for (std::size_t y = 0; y < rows.size(); ++y) {
    for (std::size_t x = 0; x < columns.size(); ++x) {
      const std::size_t to =
          (static_cast<std::size_t>(top) + y) * static_cast<std::size_t>(photo_width) + static_cast<std::size_t>(left) + x;
      placed.values[to] = std::clamp(part.values[y * columns.size() + x], 0.0F, 1.0F);
    }
  }
  return placed;
}

}  // namespace deploykit

#endif

// Which pixels ResizeNormalize computes, in which order, and where its tables and its picture between the passes lie.
//
// In: the operator's attributes and a photo's size. Out: a Geometry, a Workspace. Host code only; tested beside the arithmetic.
#ifndef DEPLOYKIT_RESIZE_GEOMETRY_H
#define DEPLOYKIT_RESIZE_GEOMETRY_H

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "resize_math.h"

namespace deploykit {

constexpr std::int32_t kLongestSide = 65535;       // what an ImageSpec allows
constexpr std::int32_t kLongestResized = 1 << 30;  // a line of one pixel's width, enlarged, may still be counted in 32 bits

// The operator's attributes; see deploykit.ResizeNormalize.
struct ResizeSpec {
  std::int32_t height = 0, width = 0;  // what the network sees
  std::int32_t resize_size = 0;        // the shorter side after the resize; 0 resizes to height x width whatever the aspect ratio
  Filter filter = Filter::kBilinear;
  std::int32_t channels[3] = {0, 1, 2};  // plane i of the result shows channels[i] of the photo
  float scale[3] = {}, bias[3] = {};     // plane i of the result: level * scale[i] + bias[i]
};

// What is wrong with a spec, or nullptr.
inline const char* spec_error(const ResizeSpec& spec) {
  if (spec.height < 1 || spec.height > kLongestSide) return "height is not between 1 and 65535";
  if (spec.width < 1 || spec.width > kLongestSide) return "width is not between 1 and 65535";
  if (spec.resize_size < 0 || spec.resize_size > kLongestSide) return "resize_size is not between 0 and 65535";
  if (spec.resize_size != 0 && spec.resize_size < std::max(spec.height, spec.width)) return "resize_size is smaller than the crop";
  if (spec.filter != Filter::kBilinear && spec.filter != Filter::kBicubic) return "cubic is neither 0 nor 1";
  for (std::int32_t channel : spec.channels) {
    if (channel < 0 || channel > 2) return "channels are not three of 0, 1 and 2";
  }
  return nullptr;
}

// What is wrong with a photo's size, or nullptr. The spec has no error.
inline const char* photo_error(std::int32_t height, std::int32_t width, const ResizeSpec& spec) {
  if (height < 1 || height > kLongestSide || width < 1 || width > kLongestSide) return "a side is not between 1 and 65535";
  const std::int64_t longer = std::max(height, width), shorter = std::min(height, width);
  if (spec.resize_size * longer / shorter > kLongestResized) return "the longer side would have more than 2^30 pixels";
  return nullptr;
}

struct Geometry {
  Axis x, y;
  bool is_vertical_first;  // Pillow 13 takes the columns before the rows of a photo that loses far more rows than columns
  Span between;            // rows (columns if vertical first) of the photo that the second pass reads
};

// The shorter side becomes resize_size and the longer one keeps the aspect ratio, rounded down, as torchvision's Resize does.
inline std::int32_t resized_length(std::int32_t side, std::int32_t other, std::int32_t resize_size, std::int32_t exact) {
  if (resize_size == 0) return exact;
  if (side <= other) return resize_size;
  return static_cast<std::int32_t>(std::int64_t{resize_size} * side / other);
}

// The first pixel of a centre crop: half the difference, a half rounded to the even neighbour, as torchvision's CenterCrop does.
inline std::int32_t crop_start(std::int32_t resized, std::int32_t crop) {
  const std::int32_t spare = resized - crop, half = spare / 2;
  return half + (spare % 2) * (half % 2);
}

inline Axis make_axis(std::int32_t photo, std::int32_t other, std::int32_t resize_size, std::int32_t crop) {
  const std::int32_t resized = resized_length(photo, other, resize_size, crop);
  return {photo, resized, crop_start(resized, crop), crop};
}

// Neither the spec nor the photo's size has an error.
inline Geometry make_geometry(std::int32_t height, std::int32_t width, const ResizeSpec& spec) {
  Geometry geometry{
      make_axis(width, height, spec.resize_size, spec.width), make_axis(height, width, spec.resize_size, spec.height), false, {}};
  const std::int64_t fewer_rows = std::int64_t{height} - geometry.y.resized;
  const std::int64_t fewer_columns = std::int64_t{width} - geometry.x.resized;
  geometry.is_vertical_first = fewer_rows > 0 && fewer_rows > 2 * fewer_columns;
  const Axis& second = geometry.is_vertical_first ? geometry.x : geometry.y;
  const Span first = tap_span(second, spec.filter, 0), last = tap_span(second, spec.filter, second.count - 1);
  geometry.between = {first.first, last.first + last.count - first.first};
  return geometry;
}

// Byte offsets in the workspace. Weights stand tap by tap, so that neighbouring threads read neighbouring numbers.
struct Workspace {
  std::size_t x_spans, x_weights;  // Span [count], int32 [taps, count]
  std::size_t y_spans, y_weights;
  std::size_t between;  // uint8 [rows, columns, 3], the picture between the passes
  std::size_t bytes;
};

inline Workspace lay_out(std::size_t columns, std::size_t rows, std::size_t x_taps, std::size_t y_taps,
                         std::size_t between_pixels) {
  const auto padded = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
  Workspace workspace{};
  workspace.x_weights = workspace.x_spans + padded(columns * sizeof(Span));
  workspace.y_spans = workspace.x_weights + padded(columns * x_taps * sizeof(std::int32_t));
  workspace.y_weights = workspace.y_spans + padded(rows * sizeof(Span));
  workspace.between = workspace.y_weights + padded(rows * y_taps * sizeof(std::int32_t));
  workspace.bytes = workspace.between + padded(between_pixels * 3);
  return workspace;
}

inline Workspace make_workspace(const Geometry& geometry, Filter filter) {
  const std::size_t other = geometry.is_vertical_first ? geometry.y.count : geometry.x.count;
  return lay_out(geometry.x.count, geometry.y.count, most_taps(filter_stretch(geometry.x), filter),
                 most_taps(filter_stretch(geometry.y), filter), other * geometry.between.count);
}

// Enough for every photo of up to these sides: TensorRT asks once for a profile, for its largest shapes.
inline std::size_t workspace_bound(std::int32_t most_rows, std::int32_t most_columns, const ResizeSpec& spec) {
  double x_stretch = static_cast<double>(most_columns) / spec.width, y_stretch = static_cast<double>(most_rows) / spec.height;
  if (spec.resize_size != 0) {
    // The shorter side's scale is at most shorter / size. The longer side's can exceed it, because its length is rounded down
    // from at least `size`: by less than (size + 1) / size.
    const double size = spec.resize_size;
    x_stretch = y_stretch = std::min(most_rows, most_columns) / size * ((size + 1) / size);
  }
  const std::size_t between = std::max(std::size_t(most_rows) * spec.width, std::size_t(most_columns) * spec.height);
  return lay_out(spec.width, spec.height, most_taps(std::max(x_stretch, 1.0), spec.filter),
                 most_taps(std::max(y_stretch, 1.0), spec.filter), between)
      .bytes;
}

}  // namespace deploykit

#endif

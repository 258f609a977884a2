// The numbers of ResizeNormalize: Pillow's antialiased resize in 8-bit fixed point, then one product and one sum per value.
//
// Reference: Pillow's Resample.c (precompute_coeffs, normalize_coeffs_8bpc, the 8bpc passes). Weights are made in double,
// divided by their sum and rounded to integers of 22 fractional bits; a pass adds integer products and rounds to 0..255. Equal
// to the last bit.
//
// Words: an axis is one direction of the resize; a tap is one photo pixel that an output pixel reads; a span is all of them.
#ifndef DEPLOYKIT_RESIZE_MATH_H
#define DEPLOYKIT_RESIZE_MATH_H

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../hostdevice.h"

namespace deploykit {

enum class Filter : std::int32_t { kBilinear = 0, kBicubic = 1 };

// 32 bits hold 8 bits of a pixel, 22 of a weight, a sign, and one bit for sums of weights beyond 1.
constexpr int kFractionBits = 22;

// One direction of the resize of a whole photo, and the part of the result that the crop keeps.
struct Axis {
  std::int32_t photo;    // pixels of the photo
  std::int32_t resized;  // pixels of the whole photo after the resize
  std::int32_t start;    // first pixel of the crop, counted in the resized photo
  std::int32_t count;    // pixels of the crop
};

// The photo pixels that one output pixel reads: `count` of them from `first` on.
struct Span {
  std::int32_t first;
  std::int32_t count;
};

DEPLOYKIT_HD double filter_radius(Filter filter) { return filter == Filter::kBilinear ? 1.0 : 2.0; }

// The filter at a distance from its centre: the triangle, or Keys' cubic convolution with a = -0.5 (Keys 1981, equation 4).
DEPLOYKIT_HD double filter_weight(Filter filter, double x) {
  x = x < 0.0 ? -x : x;
  if (filter == Filter::kBilinear) return x < 1.0 ? 1.0 - x : 0.0;
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 : 0.0;
}

DEPLOYKIT_HD double axis_scale(const Axis& axis) { return static_cast<double>(axis.photo) / axis.resized; }

// How much the filter is stretched: by the scale where the photo shrinks (that is the antialiasing), not at all where it grows.
DEPLOYKIT_HD double filter_stretch(const Axis& axis) {
  const double scale = axis_scale(axis);
  return scale < 1.0 ? 1.0 : scale;
}

DEPLOYKIT_HD double output_centre(const Axis& axis, std::int32_t index) { return (axis.start + index + 0.5) * axis_scale(axis); }

// The most taps that any output pixel of an axis has.
DEPLOYKIT_HD std::int32_t most_taps(double stretch, Filter filter) {
  return static_cast<std::int32_t>(ceil(filter_radius(filter) * stretch)) * 2 + 1;
}

// The taps of the crop's pixel `index`.
DEPLOYKIT_HD Span tap_span(const Axis& axis, Filter filter, std::int32_t index) {
  const double centre = output_centre(axis, index), radius = filter_radius(filter) * filter_stretch(axis);
  std::int32_t first = static_cast<std::int32_t>(centre - radius + 0.5);
  std::int32_t end = static_cast<std::int32_t>(centre + radius + 0.5);
  first = first < 0 ? 0 : first;
  end = end > axis.photo ? axis.photo : end;
  return {first, end - first};
}

// The weight of a span's tap before the division by their sum. `centre` and `inverse` are the pixel's centre and 1 / stretch.
DEPLOYKIT_HD double tap_weight(Filter filter, const Span& span, std::int32_t tap, double centre, double inverse) {
  return filter_weight(filter, (tap + span.first - centre + 0.5) * inverse);
}

// A weight as an integer, rounded half away from zero.
DEPLOYKIT_HD std::int32_t fixed_weight(double weight, double sum) {
  if (sum != 0.0) weight /= sum;
  const double scaled = weight * (1 << kFractionBits);
  return static_cast<std::int32_t>(weight < 0 ? scaled - 0.5 : scaled + 0.5);
}

// A sum of products, which began at half a grey level, as a pixel.
DEPLOYKIT_HD std::uint8_t clip_level(std::int32_t sum) {
  const std::int32_t level = sum >> kFractionBits;  // arithmetic in every compiler used here, as in Pillow
  return static_cast<std::uint8_t>(level < 0 ? 0 : level > 255 ? 255 : level);
}

// One output pixel of one pass: `taps` pixels of three bytes, `step` bytes apart, each times its weight.
// Weights of one output pixel lie `weight_step` apart, those of neighbouring output pixels side by side.
DEPLOYKIT_HD void filter_pixel(const std::uint8_t* pixels, std::ptrdiff_t step, const std::int32_t* weights,
                               std::ptrdiff_t weight_step, std::int32_t taps, std::uint8_t (&levels)[3]) {
  std::int32_t red = 1 << (kFractionBits - 1), green = red, blue = red;
  for (std::int32_t tap = 0; tap < taps; ++tap) {
    const std::int32_t weight = weights[tap * weight_step];
    const std::uint8_t* pixel = pixels + tap * step;
    red += pixel[0] * weight;
    green += pixel[1] * weight;
    blue += pixel[2] * weight;
  }
  levels[0] = clip_level(red);
  levels[1] = clip_level(green);
  levels[2] = clip_level(blue);
}

// A grey level as the network takes it; two roundings, as the graph's Mul and Add have.
DEPLOYKIT_HD float normalize_level(std::uint8_t level, float scale, float bias) {
  const float scaled = static_cast<float>(level) * scale;
  return scaled + bias;
}

}  // namespace deploykit

#endif

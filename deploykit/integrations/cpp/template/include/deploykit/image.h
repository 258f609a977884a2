// Upright RGB photo in, the network's pixels out, and the box of the photo that they show: deploykit's own preprocessing, bit for
// bit.
//
// The filters are Pillow 13's antialiased bilinear and bicubic in its fixed point: coefficients in double, scaled by 2^22 and
// rounded; sums in 32-bit integers, rounded and clipped to 0..255 after each of the two passes (libImaging/Resample.c). The crop is
// folded into the resize, as `deploykit.image.resize` does it, and the box goes through 32-bit floats, as it does in Pillow.
//
// Compile with -ffp-contract=off where the compiler fuses multiplications and additions (GCC and Clang on ARM): a fused product may
// move a coefficient by 2^-22 and a value in millions by one grey level.
#ifndef DEPLOYKIT_IMAGE_H
#define DEPLOYKIT_IMAGE_H

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "deploykit/error.h"
#include "deploykit/model.h"

namespace deploykit {

// 8-bit RGB, rows from the top, without padding: pixels[(y * width + x) * 3 + channel].
struct Image {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> pixels;
};

// A part of the upright photo in its pixels; the origin is the top left corner.
struct CropBox {
  double left;
  double top;
  double right;
  double bottom;
};

struct Size {
  int width;
  int height;
};

// What a photo may cost, as deploykit.image.limits has it: pixels before and after the resize, longer side / shorter side. A strip
// of 1 x 400,000 passes every count of pixels, but resizing its shorter side to 256 asks for 26 gigapixels.
inline constexpr std::int64_t most_pixels = 64'000'000;
inline constexpr int most_aspect_ratio = 100;

// Refuse a photo that is empty, too large, or whose data is not width * height * 3 bytes. Throws Error.
inline void check_image(const Image& image) {
  const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height);
  if (image.width < 1 || image.height < 1) throw Error("photo is " + size + ", expected at least 1 x 1");
  if (static_cast<std::int64_t>(image.width) * image.height > most_pixels)
    throw Error("photo is " + size + ", expected at most " + std::to_string(most_pixels) + " pixels");
  const std::size_t pixels = static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height);
  if (image.pixels.size() != 3 * pixels) {
    throw Error(
        "photo of " + size + " has " + std::to_string(image.pixels.size()) + " bytes, expected " + std::to_string(3 * pixels),
        "give 8-bit RGB without padding between rows");
  }
}

namespace detail {

struct Range {
  int first;
  int last;  // one past the end
  int length() const noexcept { return last - first; }
};

// The taps of one output pixel: input pixels from `first`, and their weights in units of 2^-22.
struct Taps {
  int first;
  std::vector<std::int32_t> weights;
};

constexpr int precision_bits = 32 - 8 - 2;  // a filter's negative parts need two bits more than a byte

inline double filter_reach(Interpolation filter) noexcept {
  return filter == Interpolation::bilinear ? 1.0 : 2.0;
}

inline double filter_value(Interpolation filter, double x) noexcept {
  x = std::fabs(x);
  if (filter == Interpolation::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;  // Catmull-Rom: Keys' cubic convolution
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// Taps of `length` output pixels that cover input positions `begin` to `end` of a row of `size` pixels.
inline std::vector<Taps> make_taps(int size, float begin, float end, int length, Interpolation filter) {
  const double scale = static_cast<double>(end - begin) / length;
  const double stretch = std::max(scale, 1.0);  // antialiasing: a filter as wide as the pixels it makes
  const double reach = filter_reach(filter) * stretch, shrink = 1.0 / stretch;
  std::vector<Taps> taps(static_cast<std::size_t>(length));
  std::vector<double> weights;
  for (int i = 0; i < length; ++i) {
    const double centre = static_cast<double>(begin) + (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - reach + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + reach + 0.5), size);
    double sum = 0;
    weights.clear();
    for (int x = first; x < last; ++x) {
      weights.push_back(filter_value(filter, (x - centre + 0.5) * shrink));
      sum += weights.back();
    }
    Taps& made = taps[static_cast<std::size_t>(i)];
    made.first = first;
    for (double weight : weights) {
      if (sum != 0) weight /= sum;
      made.weights.push_back(static_cast<std::int32_t>(weight * (1 << precision_bits) + (weight < 0 ? -0.5 : 0.5)));
    }
  }
  return taps;
}

inline std::uint8_t to_grey(std::int32_t sum) noexcept {
  // The shift of a negative number is arithmetic on every compiler that counts, and by the standard since C++20.
  return static_cast<std::uint8_t>(std::clamp(sum >> precision_bits, 0, 255));
}

// One pass. `step` is the distance in bytes between neighbours of a line, `lines` where each line begins in source and target.
template <bool horizontal>
Image resample(const Image& source, const std::vector<Taps>& taps) {
  const int length = static_cast<int>(taps.size());
  Image target{horizontal ? length : source.width, horizontal ? source.height : length, {}};
  const std::size_t in_stride = 3 * static_cast<std::size_t>(source.width), out_stride = 3 * static_cast<std::size_t>(target.width);
  target.pixels.resize(out_stride * static_cast<std::size_t>(target.height));
  const std::size_t step = horizontal ? 3 : in_stride;
  for (std::size_t y = 0; y < static_cast<std::size_t>(target.height); ++y) {
    for (std::size_t x = 0; x < static_cast<std::size_t>(target.width); ++x) {
      const Taps& at = taps[horizontal ? x : y];
      const std::size_t first = static_cast<std::size_t>(at.first);
      const std::uint8_t* from = source.pixels.data() + (horizontal ? y * in_stride + 3 * first : first * in_stride + 3 * x);
      for (std::size_t channel = 0; channel < 3; ++channel) {
        std::int32_t sum = 1 << (precision_bits - 1);
        for (std::size_t tap = 0; tap < at.weights.size(); ++tap) sum += from[tap * step + channel] * at.weights[tap];
        target.pixels[y * out_stride + 3 * x + channel] = to_grey(sum);
      }
    }
  }
  return target;
}

// Whether Pillow 13 runs the vertical pass first; older ones never do.
inline bool is_vertical_first(Size size, Size target) noexcept {
  const int drop = size.height - target.height;
  return drop > 0 && drop > 2 * (size.width - target.width);
}

// Pillow's Image.resize(target, filter, box).
inline Image resize(const Image& source, Size target, Interpolation filter, const CropBox& box) {
  const auto left = static_cast<float>(box.left), top = static_cast<float>(box.top);
  const auto right = static_cast<float>(box.right), bottom = static_cast<float>(box.bottom);
  const bool across = target.width != source.width || left != 0 || right != static_cast<float>(target.width);
  const bool down = target.height != source.height || top != 0 || bottom != static_cast<float>(target.height);
  const auto horizontal = [&](const Image& image) {
    return across ? resample<true>(image, make_taps(image.width, left, right, target.width, filter)) : image;
  };
  const auto vertical = [&](const Image& image) {
    return down ? resample<false>(image, make_taps(image.height, top, bottom, target.height, filter)) : image;
  };
  return is_vertical_first({source.width, source.height}, target) ? horizontal(vertical(source)) : vertical(horizontal(source));
}

// Rows `rows` and columns `columns` of an image.
inline Image crop(const Image& source, Range columns, Range rows) {
  Image part{columns.length(), rows.length(), {}};
  const std::size_t stride = 3 * static_cast<std::size_t>(source.width), bytes = 3 * static_cast<std::size_t>(part.width);
  part.pixels.resize(bytes * static_cast<std::size_t>(part.height));
  for (std::size_t y = 0; y < static_cast<std::size_t>(part.height); ++y) {
    const std::size_t from = (static_cast<std::size_t>(rows.first) + y) * stride + 3 * static_cast<std::size_t>(columns.first);
    std::memcpy(part.pixels.data() + y * bytes, source.pixels.data() + from, bytes);
  }
  return part;
}

// Half of a number that is not negative, a half to the even neighbour, as Python's round() does it.
constexpr int half_to_even(int number) noexcept {
  return number / 2 + (number % 4 == 3 ? 1 : 0);
}

// Width and height of the whole photo after the spec's resize, before the crop. The longer side is rounded down.
inline Size resized_size(Size photo, const ImageSpec& spec) {
  if (spec.resize_rule == ResizeRule::exact) return {spec.width, spec.height};
  const auto longer = [&](int shorter, int side) {
    const std::int64_t length = static_cast<std::int64_t>(spec.resize_size) * side / shorter;
    if (side / shorter >= most_aspect_ratio || length * spec.resize_size > most_pixels) {
      throw Error(
          "photo is " + std::to_string(photo.width) + " x " + std::to_string(photo.height) + ", too long for its shorter side",
          "cut out the part that matters");
    }
    return static_cast<int>(length);
  };
  if (photo.width <= photo.height) return {spec.resize_size, longer(photo.width, photo.height)};
  return {longer(photo.height, photo.width), spec.resize_size};
}

inline CropBox on_photo(Range columns, Range rows, Size photo, Size resized) noexcept {
  const auto at = [](int place, int size, int of) { return static_cast<double>(static_cast<std::int64_t>(place) * size) / of; };
  return {at(columns.first, photo.width, resized.width), at(rows.first, photo.height, resized.height),
          at(columns.last, photo.width, resized.width), at(rows.last, photo.height, resized.height)};
}

// The columns (or rows) to compute: those of the crop, widened to edges that 32-bit floats hold exactly on the photo where that is
// cheap.
inline Range exact_span(int size, int resized, Range wanted) noexcept {
  int step = resized / std::gcd(size, resized);
  step /= step & -step;
  const int first = wanted.first / step * step;
  const std::int64_t last = (static_cast<std::int64_t>(wanted.last) + step - 1) / step * step;
  const double limit = (resized > size ? 4 : 1.15) * wanted.length();
  return static_cast<double>(last - first) <= limit ? Range{first, static_cast<int>(last)} : wanted;
}

// Image.resize(window, filter, box) with the horizontal pass first, over no more rows than the vertical pass reads.
inline Image resize_horizontal_first(const Image& image, Size window, Interpolation filter, const CropBox& box) {
  const double reach = 2 * std::max(1.0, (box.bottom - box.top) / window.height) + 1;
  const int first = std::max(0, static_cast<int>(box.top - reach));
  const int last = std::min(image.height, static_cast<int>(std::ceil(box.bottom + reach)));
  Image rows = crop(image, {0, image.width}, {first, last});
  const double height = rows.height;
  rows = resize(rows, {window.width, rows.height}, filter, {box.left, 0, box.right, height});
  return resize(rows, window, filter, {0, box.top - first, static_cast<double>(window.width), box.bottom - first});
}

}  // namespace detail

// Where the network's picture lies on an upright photo: an overlay of a heat map is placed with it.
inline CropBox placement(int width, int height, const ImageSpec& spec) {
  const Size whole = detail::resized_size({width, height}, spec);
  const int x = detail::half_to_even(whole.width - spec.width), y = detail::half_to_even(whole.height - spec.height);
  return detail::on_photo({x, x + spec.width}, {y, y + spec.height}, {width, height}, whole);
}

// Resize and crop a photo to what the network sees: RGB at the spec's width and height. Throws Error for an image that is none.
//
// The photo must be upright (EXIF orientation applied) 8-bit sRGB; reading files is the caller's.
inline Image resize_and_crop(const Image& photo, const ImageSpec& spec) {
  check_image(photo);
  const Size size{photo.width, photo.height}, whole = detail::resized_size(size, spec);
  const int x = detail::half_to_even(whole.width - spec.width), y = detail::half_to_even(whole.height - spec.height);
  if (whole.width == size.width && whole.height == size.height)
    return detail::crop(photo, {x, x + spec.width}, {y, y + spec.height});
  detail::Range columns = detail::exact_span(size.width, whole.width, {x, x + spec.width});
  detail::Range rows = detail::exact_span(size.height, whole.height, {y, y + spec.height});
  const Size window{columns.length(), rows.length()};
  const CropBox box = detail::on_photo(columns, rows, size, whole);
  const bool is_vertical_first = detail::is_vertical_first(size, whole);
  Image result;
  if (is_vertical_first == detail::is_vertical_first(size, window)) {
    result = detail::resize(photo, window, spec.interpolation, box);
  } else if (is_vertical_first) {
    columns = {0, whole.width};
    rows = {0, whole.height};
    result =
        detail::resize(photo, whole, spec.interpolation, {0, 0, static_cast<double>(size.width), static_cast<double>(size.height)});
  } else {
    result = detail::resize_horizontal_first(photo, window, spec.interpolation, box);
  }
  const int top = y - rows.first, left = x - columns.first;
  return detail::crop(result, {left, left + spec.width}, {top, top + spec.height});
}

// The input of a graph that does not normalize by itself (Model::pixel_input is false): float32 [N, 3, H, W] of pixels uint8 [N, H,
// W, 3].
inline std::vector<float> normalize(const std::uint8_t* pixels, std::size_t count, const ImageSpec& spec) {
  const std::size_t plane = static_cast<std::size_t>(spec.height) * static_cast<std::size_t>(spec.width);
  std::vector<float> result(count * 3 * plane);
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const std::size_t source = spec.colour_order == ColourOrder::rgb ? channel : 2 - channel;
    const auto scale = static_cast<float>(1 / (255 * spec.std[source]));
    const auto shift = static_cast<float>(-spec.mean[source] / spec.std[source]);
    for (std::size_t row = 0; row < count; ++row) {
      float* to = result.data() + (row * 3 + channel) * plane;
      const std::uint8_t* from = pixels + row * 3 * plane + source;
      for (std::size_t i = 0; i < plane; ++i) to[i] = static_cast<float>(from[3 * i]) * scale + shift;
    }
  }
  return result;
}

}  // namespace deploykit

#endif

// ResizeNormalize on the CPU, from the same arithmetic, geometry and workspace as the kernels: the way to test them without a
// GPU.
//
// The C interface is for the tests; nothing that serves pictures calls it.
#include <algorithm>
#include <cstring>
#include <vector>

#include "resize_geometry.h"

namespace deploykit {
namespace {

struct Table {
  const Span* spans;
  const std::int32_t* weights;
};

void make_weights(const Axis& axis, Filter filter, Span* spans, std::int32_t* weights) {
  for (std::int32_t index = 0; index < axis.count; ++index) {
    const Span span = tap_span(axis, filter, index);
    const double centre = output_centre(axis, index), inverse = 1.0 / filter_stretch(axis);
    double sum = 0.0;
    for (std::int32_t tap = 0; tap < span.count; ++tap) sum += tap_weight(filter, span, tap, centre, inverse);
    for (std::int32_t tap = 0; tap < span.count; ++tap) {
      weights[std::size_t(tap) * axis.count + index] = fixed_weight(tap_weight(filter, span, tap, centre, inverse), sum);
    }
    spans[index] = span;
  }
}

// A pass over a picture of `rows` x `columns` results; see filter_at in resize_kernels.cu.
template <class Store>
void run_pass(bool is_vertical, const std::uint8_t* source, std::int32_t source_columns, Span shown, std::int32_t origin,
              const Table& table, std::int32_t outputs, std::int32_t rows, std::int32_t columns, Store store) {
  const std::ptrdiff_t row_bytes = std::ptrdiff_t{3} * source_columns, step = is_vertical ? row_bytes : 3;
  for (std::int32_t row = 0; row < rows; ++row) {
    for (std::int32_t column = 0; column < columns; ++column) {
      const std::int32_t index = is_vertical ? row : column;
      const std::ptrdiff_t across = is_vertical ? std::ptrdiff_t{3} * (column + shown.first) : (row + shown.first) * row_bytes;
      const Span span = table.spans[index];
      std::uint8_t levels[3];
      filter_pixel(source + across + (span.first - origin) * step, step, table.weights + index, outputs, span.count, levels);
      store(row, column, levels);
    }
  }
}

void run(const std::uint8_t* photo, std::int32_t width, const ResizeSpec& spec, const Geometry& geometry, std::uint8_t* base,
         float* normalized) {
  const Workspace offsets = make_workspace(geometry, spec.filter);
  Span *x_spans = reinterpret_cast<Span*>(base + offsets.x_spans), *y_spans = reinterpret_cast<Span*>(base + offsets.y_spans);
  std::int32_t* x_weights = reinterpret_cast<std::int32_t*>(base + offsets.x_weights);
  std::int32_t* y_weights = reinterpret_cast<std::int32_t*>(base + offsets.y_weights);
  std::uint8_t* between = base + offsets.between;
  make_weights(geometry.x, spec.filter, x_spans, x_weights);
  make_weights(geometry.y, spec.filter, y_spans, y_weights);
  const Table x{x_spans, x_weights}, y{y_spans, y_weights};
  const bool is_vertical = geometry.is_vertical_first;
  const std::int32_t rows = is_vertical ? geometry.y.count : geometry.between.count;
  const std::int32_t columns = is_vertical ? geometry.between.count : geometry.x.count;
  run_pass(is_vertical, photo, width, geometry.between, 0, is_vertical ? y : x, is_vertical ? rows : columns, rows, columns,
           [&](std::int32_t row, std::int32_t column, const std::uint8_t (&levels)[3]) {
             std::memcpy(between + (std::size_t(row) * columns + column) * 3, levels, 3);
           });
  const std::size_t plane = std::size_t(spec.height) * spec.width;
  run_pass(!is_vertical, between, columns, {0, 0}, geometry.between.first, is_vertical ? x : y,
           is_vertical ? spec.width : spec.height, spec.height, spec.width,
           [&](std::int32_t row, std::int32_t column, const std::uint8_t (&levels)[3]) {
             float* value = normalized + std::size_t(row) * spec.width + column;
             for (int i = 0; i < 3; ++i) {
               value[plane * i] = normalize_level(levels[spec.channels[i]], spec.scale[i], spec.bias[i]);
             }
           });
}

}  // namespace
}  // namespace deploykit

using deploykit::ResizeSpec;

extern "C" {
#pragma GCC visibility push(default)

// nullptr when done, otherwise what is wrong. The spec is passed as it lies in memory: see test_plugins_resize.py.
const char* deploykit_host_resize_normalize(const std::uint8_t* pixels, std::int32_t height, std::int32_t width,
                                            const ResizeSpec* spec, float* normalized) {
  if (const char* error = deploykit::spec_error(*spec)) return error;
  if (const char* error = deploykit::photo_error(height, width, *spec)) return error;
  const deploykit::Geometry geometry = deploykit::make_geometry(height, width, *spec);
  std::vector<std::uint8_t> workspace(deploykit::make_workspace(geometry, spec->filter).bytes);
  deploykit::run(pixels, width, *spec, geometry, workspace.data(), normalized);
  return nullptr;
}

// How many bytes of workspace a photo needs.
std::uint64_t deploykit_host_resize_workspace(std::int32_t height, std::int32_t width, const ResizeSpec* spec) {
  return deploykit::make_workspace(deploykit::make_geometry(height, width, *spec), spec->filter).bytes;
}
#pragma GCC visibility pop
}

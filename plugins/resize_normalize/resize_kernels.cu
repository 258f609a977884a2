// ResizeNormalize on the GPU: weights, first pass, second pass with normalization. Three launches, no atomics, no host memory.
//
// Why so, and not one kernel with the rows in shared memory: how many rows a tile of the result reads depends on the photo. At
// the 8.4 : 1 of a 4K frame for a 256-pixel side, 32 rows of result read about 290 rows of photo; a tile that fits shared
// memory at every scale would be so small that neighbouring tiles filter most rows twice. With the picture between the passes
// in the workspace each row is filtered once. It is small (2160 x 224 pixels: 1.5 MB) and stays in the L2 cache (40 MB on A100,
// 50 MB on H100).
//
// The weights are made on the device, because their number depends on H and W, which arrive with the launch: a table made on
// the host would need pinned memory and a copy per call, and that buffer would be shared by calls in flight. A kernel works the
// same inside a captured CUDA graph and keeps the plugin free of state. One warp makes the weights of one output pixel: doubles
// run at 1/64 of the speed of floats on GPUs of compute capability 8.6, 8.9 and 12.0, so the lanes share the divisions; the sum
// is taken in Pillow's order.
//
// Reads of the horizontal pass are spread (neighbouring threads read pixels `scale` apart) and served by the L1 cache, since
// neighbouring spans overlap. A copy of 25 MB of 4K pixels over PCIe 5.0 x16 (64 GB/s) takes 390 us, far more than those reads
// cost.
#include "resize_kernels.h"

#include "../launch.h"

namespace deploykit {
namespace {

constexpr int kWarp = 32;
constexpr int kWarpsPerBlock = 4;
constexpr dim3 kTile(32, 8);  // 32 columns: stores of a warp are contiguous

struct Table {
  const Span* spans;
  const std::int32_t* weights;
};

__device__ void make_weights(const Axis& axis, Filter filter, std::int32_t index, Span* spans, std::int32_t* weights) {
  const int lane = threadIdx.x;
  const Span span = tap_span(axis, filter, index);
  const double centre = output_centre(axis, index), inverse = 1.0 / filter_stretch(axis);
  double sum = 0.0;
  for (std::int32_t base = 0; base < span.count; base += kWarp) {
    const double weight = tap_weight(filter, span, base + lane, centre, inverse);
    for (int other = 0; other < min(kWarp, span.count - base); ++other) sum += __shfl_sync(0xffffffffu, weight, other);
  }
  for (std::int32_t tap = lane; tap < span.count; tap += kWarp) {
    weights[static_cast<std::size_t>(tap) * axis.count + index] = fixed_weight(tap_weight(filter, span, tap, centre, inverse), sum);
  }
  if (lane == 0) spans[index] = span;
}

__global__ void __launch_bounds__(kWarp* kWarpsPerBlock)
    resize_weights_kernel(Axis x, Axis y, Filter filter, Span* x_spans, std::int32_t* x_weights, Span* y_spans,
                          std::int32_t* y_weights) {
  const std::int32_t index = blockIdx.x * kWarpsPerBlock + threadIdx.y;  // the same for a whole warp
  if (index < x.count) {
    make_weights(x, filter, index, x_spans, x_weights);
  } else if (index < x.count + y.count) {
    make_weights(y, filter, index - x.count, y_spans, y_weights);
  }
}

// One pixel of one pass. A horizontal pass works along the columns of `source`, a vertical one along its rows.
// source: uint8 [?, source_columns, 3]; `origin` is the photo's row or column that it begins with along the axis of the pass.
template <bool kIsVertical>
__device__ void filter_at(const std::uint8_t* source, std::int32_t source_columns, std::int32_t origin, const Table& table,
                          std::int32_t outputs, std::int32_t row, std::int32_t column, std::uint8_t (&levels)[3]) {
  const std::int32_t index = kIsVertical ? row : column;
  const Span span = table.spans[index];
  const std::ptrdiff_t row_bytes = std::ptrdiff_t{3} * source_columns;
  const std::ptrdiff_t step = kIsVertical ? row_bytes : 3;
  const std::uint8_t* pixels = source + (kIsVertical ? std::ptrdiff_t{3} * column : row * row_bytes) + (span.first - origin) * step;
  filter_pixel(pixels, step, table.weights + index, outputs, span.count, levels);
}

// The first pass: rows `first` and on of the photo (columns, if vertical) into the picture between the passes.
template <bool kIsVertical>
__global__ void __launch_bounds__(kTile.x* kTile.y)
    resize_first_kernel(const std::uint8_t* __restrict__ photo, std::int32_t photo_columns, std::int32_t first, Table table,
                        std::int32_t outputs, std::int32_t rows, std::int32_t columns, std::uint8_t* __restrict__ between) {
  const std::int32_t column = blockIdx.x * kTile.x + threadIdx.x;
  const std::int32_t row = blockIdx.y * kTile.y + threadIdx.y;
  if (column >= columns || row >= rows) return;
  std::uint8_t levels[3];
  filter_at<kIsVertical>(photo, photo_columns, 0, table, outputs, row + (kIsVertical ? 0 : first),
                         column + (kIsVertical ? first : 0), levels);
  std::uint8_t* pixel = between + (static_cast<std::size_t>(row) * columns + column) * 3;
  for (int i = 0; i < 3; ++i) pixel[i] = levels[i];
}

struct Normalization {
  std::int32_t channels[3];
  float scale[3], bias[3];
};

// The second pass and the normalization: from the picture between the passes into three planes.
template <bool kIsVertical>
__global__ void __launch_bounds__(kTile.x* kTile.y)
    resize_second_kernel(const std::uint8_t* __restrict__ between, std::int32_t between_columns, std::int32_t first, Table table,
                         std::int32_t outputs, std::int32_t rows, std::int32_t columns, Normalization normalization,
                         float* __restrict__ normalized) {
  const std::int32_t column = blockIdx.x * kTile.x + threadIdx.x;
  const std::int32_t row = blockIdx.y * kTile.y + threadIdx.y;
  if (column >= columns || row >= rows) return;
  std::uint8_t levels[3];
  filter_at<kIsVertical>(between, between_columns, first, table, outputs, row, column, levels);
  const std::size_t plane = static_cast<std::size_t>(rows) * columns;
  float* value = normalized + static_cast<std::size_t>(row) * columns + column;
  for (int i = 0; i < 3; ++i) {
    const int channel = normalization.channels[i];  // chosen, not indexed: an index would put the levels into local memory
    const std::uint8_t level = channel == 0 ? levels[0] : channel == 1 ? levels[1] : levels[2];
    value[plane * i] = normalize_level(level, normalization.scale[i], normalization.bias[i]);
  }
}

dim3 tiles(std::int32_t rows, std::int32_t columns) {
  return dim3((columns + kTile.x - 1) / kTile.x, (rows + kTile.y - 1) / kTile.y);
}

template <bool kIsVerticalFirst>
void launch_passes(const std::uint8_t* photo, std::int32_t photo_columns, const Geometry& geometry, const Table& x, const Table& y,
                   const Normalization& normalization, std::uint8_t* between, float* normalized, cudaStream_t stream) {
  const Span& part = geometry.between;
  const Axis &first = kIsVerticalFirst ? geometry.y : geometry.x, &second = kIsVerticalFirst ? geometry.x : geometry.y;
  const std::int32_t rows = kIsVerticalFirst ? first.count : part.count, columns = kIsVerticalFirst ? part.count : first.count;
  launch(resize_first_kernel<kIsVerticalFirst>, tiles(rows, columns), kTile, stream, photo, photo_columns, part.first,
         kIsVerticalFirst ? y : x, first.count, rows, columns, between);
  launch(resize_second_kernel<!kIsVerticalFirst>, tiles(geometry.y.count, geometry.x.count), kTile, stream, between, columns,
         part.first, kIsVerticalFirst ? x : y, second.count, geometry.y.count, geometry.x.count, normalization, normalized);
}

}  // namespace

cudaError_t launch_resize_normalize(const std::uint8_t* pixels, std::int32_t height, std::int32_t width, const ResizeSpec& spec,
                                    void* workspace, float* normalized, cudaStream_t stream) {
  const Geometry geometry = make_geometry(height, width, spec);
  const Workspace offsets = make_workspace(geometry, spec.filter);
  std::uint8_t* base = static_cast<std::uint8_t*>(workspace);
  Span *x_spans = reinterpret_cast<Span*>(base + offsets.x_spans), *y_spans = reinterpret_cast<Span*>(base + offsets.y_spans);
  std::int32_t* x_weights = reinterpret_cast<std::int32_t*>(base + offsets.x_weights);
  std::int32_t* y_weights = reinterpret_cast<std::int32_t*>(base + offsets.y_weights);
  const int pixels_of_tables = geometry.x.count + geometry.y.count;
  const int blocks = (pixels_of_tables + kWarpsPerBlock - 1) / kWarpsPerBlock;
  launch(resize_weights_kernel, blocks, dim3(kWarp, kWarpsPerBlock), stream, geometry.x, geometry.y, spec.filter, x_spans,
         x_weights, y_spans, y_weights);
  Normalization normalization;
  std::copy(spec.channels, spec.channels + 3, normalization.channels);
  std::copy(spec.scale, spec.scale + 3, normalization.scale);
  std::copy(spec.bias, spec.bias + 3, normalization.bias);
  const Table x{x_spans, x_weights}, y{y_spans, y_weights};
  (geometry.is_vertical_first ? launch_passes<true> : launch_passes<false>)(pixels, width, geometry, x, y, normalization,
                                                                            base + offsets.between, normalized, stream);
  return cudaGetLastError();
}

}  // namespace deploykit

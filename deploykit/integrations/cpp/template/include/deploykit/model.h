// What a generated header says of its model, as constants: tensors, image spec, labels, digests, plans.
//
// Every value is constexpr and points at constants of the generated header, so copies are cheap and nothing is ever freed.
#ifndef DEPLOYKIT_MODEL_H
#define DEPLOYKIT_MODEL_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace deploykit {

// Read-only view of constants; std::span is C++20.
template <class T>
class Span {
 public:
  constexpr Span() noexcept = default;
  template <std::size_t N>
  constexpr Span(const std::array<T, N>& values) noexcept : data_(values.data()), size_(N) {}

  constexpr const T* begin() const noexcept { return data_; }
  constexpr const T* end() const noexcept { return data_ + size_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr const T& operator[](std::size_t index) const noexcept { return data_[index]; }

 private:
  const T* data_ = nullptr;
  std::size_t size_ = 0;
};

enum class DataType : std::uint8_t { uint8, int64, float32 };

constexpr std::size_t size_of(DataType type) noexcept {
  return type == DataType::uint8 ? 1 : type == DataType::float32 ? 4 : 8;
}

constexpr std::string_view name_of(DataType type) noexcept {
  return type == DataType::uint8 ? "uint8" : type == DataType::float32 ? "float32" : "int64";
}

// One input or output. shape[0] is -1, the batch; only the first `rank` numbers count.
struct Tensor {
  std::string_view name;
  DataType type;
  int rank;
  std::array<std::int64_t, 4> shape;

  // Elements of one image.
  constexpr std::size_t row_size() const noexcept {
    std::size_t size = 1;
    for (int axis = 1; axis < rank; ++axis) size *= static_cast<std::size_t>(shape[static_cast<std::size_t>(axis)]);
    return size;
  }
};

enum class ResizeRule : std::uint8_t { shorter, exact };
enum class Interpolation : std::uint8_t { bilinear, bicubic };
enum class ColourOrder : std::uint8_t { rgb, bgr };

// How a photo becomes the network's input. normalized = (pixel / 255 - mean) / std, per channel in RGB order.
struct ImageSpec {
  int height;
  int width;
  ResizeRule resize_rule;
  int resize_size;  // of the shorter side, before the centre crop; 0 under the exact rule
  Interpolation interpolation;
  std::array<double, 3> mean;
  std::array<double, 3> std;
  ColourOrder colour_order;  // in which the network takes its channels; pixels given to these headers are always RGB
};

// A layer that the explain graph shows, and the names of its outputs.
struct Layer {
  std::string_view name;
  Tensor activations;
  Tensor gradients;
  Tensor cam;
};

struct Graph {
  std::string_view file;    // in the bundle; empty where the bundle has no such graph
  std::string_view sha256;  // of the graph and its weights
  Span<Tensor> inputs;
  Span<Tensor> outputs;

  constexpr bool exists() const noexcept { return !file.empty(); }
};

struct BatchRange {
  int min;
  int opt;
  int max;
};

struct PlanFile {
  std::string_view name;  // predict.plan, explain.plan
  std::string_view sha256;
  std::uint64_t size_bytes;
  std::string_view graph;
  std::string_view graph_sha256;
};

// What a folder of plans was built for; plan.json says the same.
struct PlanFacts {
  std::string_view folder;
  std::string_view backend;  // tensorrt, tensorrt-rtx
  std::string_view version;
  std::string_view sm;        // sm86
  std::string_view gpu_name;  // that it was built on; empty where the target was only named
  std::string_view precision;
  BatchRange batch;
  std::string_view compat;  // none, same-cc, ampere+
  bool version_compatible;
  bool stripped;
  Span<std::string_view> plugins;
  Span<PlanFile> files;
};

// Largest differences that the self-test lets pass; see "Self-test" in README.md.
struct Tolerances {
  double logits;     // relative to the largest golden logit
  double map;        // of maps scaled to a maximum of 1, of the median picture
  double worst_map;  // and of the worst
};

struct Model {
  std::string_view name;
  std::string_view weights;
  bool trained;
  std::string_view precision;
  ImageSpec image;
  bool pixel_input;  // uint8 [N, H, W, 3], normalized inside the graph; else float32 [N, 3, H, W], normalized by image.h
  int num_classes;
  Span<std::string_view> labels;  // in class order; empty where the classes have no names
  Graph predict;
  Graph explain;
  Span<Layer> layers;
  Span<PlanFacts> plans;
  std::string_view manifest_sha256;
  std::string_view golden_sha256;  // of golden.bin; empty where the bundle has no golden vectors
  Tolerances tolerances;
};

}  // namespace deploykit

#endif

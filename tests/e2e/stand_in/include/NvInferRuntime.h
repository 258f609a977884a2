// A stand-in for TensorRT-RTX 1.7 in tests of the C++ runner: an "engine" that knows the golden pictures and gives their golden
// answers. It has the names that deploykit's headers use, and nothing else. It reads golden.bin through STAND_IN_GOLDEN and the
// tensors through the generated header.
#ifndef DEPLOYKIT_STAND_IN_TENSORRT_H
#define DEPLOYKIT_STAND_IN_TENSORRT_H

#define TRT_MAJOR_RTX 1
#define NV_TENSORRT_MAJOR 1
#define NV_TENSORRT_MINOR 7

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "deploykit/golden.h"
#include "deploykit/image.h"
#include "model_header.h"

inline std::int32_t getInferLibMajorVersion() {
  return 1;
}
inline std::int32_t getInferLibMinorVersion() {
  return 7;
}
inline std::int32_t getInferLibPatchVersion() {
  return 1;
}
inline std::int32_t getInferLibBuildVersion() {
  return 116;
}

namespace nvinfer1 {

enum class DataType : std::int32_t { kFLOAT = 0, kUINT8 = 5, kINT64 = 8 };
enum class TensorIOMode : std::int32_t { kNONE, kINPUT, kOUTPUT };
enum class OptProfileSelector : std::int32_t { kMIN, kOPT, kMAX };
enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC, kON_PROFILE_CHANGE, kUSER_MANAGED };
struct Dims {
  std::int32_t nbDims;
  std::int64_t d[8];
};

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, const char* message) noexcept = 0;

 protected:
  virtual ~ILogger() = default;
};

struct Golden {
  const deploykit::ArrayFile file{std::getenv("STAND_IN_GOLDEN")};
  const std::vector<std::uint8_t> image = file.bytes("image");
  const std::vector<float> logits = file.floats("logits"), cam = file.floats("cam");
  const std::vector<std::int64_t> own = file.integers("explained_class");
  const std::vector<float> floats = deploykit::normalize(image.data(), own.size(), deploykit_programs::model.image);
};

class IExecutionContext {
 public:
  explicit IExecutionContext(const deploykit::Graph& graph) : graph_(graph) { ++stand_in::live; }
  ~IExecutionContext() { --stand_in::live; }
  void setDeviceMemoryV2(void* memory, std::int64_t) noexcept { scratch_ = memory; }
  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t) noexcept { return profile == 0; }
  bool setTensorAddress(const char* name, void* address) noexcept { return addresses_[name] = address, true; }
  bool setInputShape(const char*, const Dims& shape) noexcept { return count_ = static_cast<std::size_t>(shape.d[0]), true; }
  bool enqueueV3(cudaStream_t stream) noexcept {
    if (scratch_ == nullptr || addresses_.size() != graph_.inputs.size() + graph_.outputs.size()) return false;
    stream->run([this, count = count_] { answer(count); });
    return true;
  }

 private:
  void answer(std::size_t count) {
    using deploykit_programs::model;
    static const Golden golden;  // read once: a run is a comparison of a few pictures
    const std::size_t rows = golden.own.size(), bytes = graph_.inputs[0].row_size() * size_of(graph_.inputs[0].type);
    const char* known = model.pixel_input ? reinterpret_cast<const char*>(golden.image.data())
                                          : reinterpret_cast<const char*>(golden.floats.data());
    *static_cast<char*>(scratch_) = 1;  // two runs that share a context are a race that the thread sanitizer sees
    for (std::size_t row = 0; row < count; ++row) {
      std::size_t found = 0;
      while (found < rows && std::memcmp(known + found * bytes, at("image") + row * bytes, bytes) != 0) ++found;
      found %= rows;  // the zeros of a first run are no golden picture
      copy("logits", golden.logits, rows, found, row);
      if (!addresses_.count("cam")) continue;
      copy("cam", golden.cam, rows, found, row);
      auto* classes = reinterpret_cast<std::int64_t*>(at("class_index"));
      reinterpret_cast<std::int64_t*>(at("explained_class"))[row] = classes[row] < 0 ? golden.own[found] : classes[row];
    }
  }
  char* at(const char* name) { return static_cast<char*>(addresses_.at(name)); }
  void copy(const char* name, const std::vector<float>& values, std::size_t rows, std::size_t from, std::size_t to) {
    const std::size_t size = values.size() / rows;
    std::memcpy(at(name) + to * size * sizeof(float), values.data() + from * size, size * sizeof(float));
  }

  const deploykit::Graph graph_;
  void* scratch_ = nullptr;
  std::size_t count_ = 0;
  std::map<std::string, void*> addresses_;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(const deploykit::Graph& graph) : graph_(graph) { ++stand_in::live; }
  ~ICudaEngine() { --stand_in::live; }
  TensorIOMode getTensorIOMode(const char* name) const noexcept {
    for (const auto& tensor : graph_.inputs) {
      if (tensor.name == name) return TensorIOMode::kINPUT;
    }
    return find(name) == nullptr ? TensorIOMode::kNONE : TensorIOMode::kOUTPUT;
  }
  DataType getTensorDataType(const char* name) const noexcept {
    const deploykit::DataType type = find(name)->type;
    return type == deploykit::DataType::uint8   ? DataType::kUINT8
           : type == deploykit::DataType::int64 ? DataType::kINT64
                                                : DataType::kFLOAT;
  }
  Dims getTensorShape(const char* name) const noexcept {
    const deploykit::Tensor* tensor = find(name);
    Dims shape{tensor->rank, {}};
    for (std::size_t axis = 0; axis < 4; ++axis) shape.d[axis] = tensor->shape[axis];
    if (std::getenv("STAND_IN_OTHER_SHAPE") != nullptr && tensor->name == "logits") ++shape.d[1];
    return shape;
  }
  std::int32_t getNbIOTensors() const noexcept { return static_cast<std::int32_t>(graph_.inputs.size() + graph_.outputs.size()); }
  Dims getProfileShape(const char*, std::int32_t, OptProfileSelector end) const noexcept {
    const auto& batch = deploykit_programs::model.plans[0].batch;
    return {1, {end == OptProfileSelector::kMIN ? batch.min : end == OptProfileSelector::kOPT ? batch.opt : batch.max}};
  }
  std::int64_t getDeviceMemorySizeV2() const noexcept { return 256; }
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept { return new IExecutionContext(graph_); }

 private:
  const deploykit::Tensor* find(const char* name) const noexcept {
    for (const auto& tensors : {graph_.inputs, graph_.outputs}) {
      for (const auto& tensor : tensors) {
        if (tensor.name == name) return &tensor;
      }
    }
    return nullptr;
  }
  const deploykit::Graph graph_;
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& logger) : logger_(logger) {}
  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) noexcept {
    using deploykit_programs::model;
    if (std::getenv("STAND_IN_REFUSES") != nullptr) {
      return logger_.log(ILogger::Severity::kERROR, "the stand-in does not like it"), nullptr;
    }
    const std::string digest = deploykit::sha256_of({static_cast<const char*>(data), size});
    for (const auto& file : model.plans[0].files) {
      if (file.sha256 == digest) return new ICudaEngine(file.name == "explain.plan" ? model.explain : model.predict);
    }
    return nullptr;
  }

 private:
  ILogger& logger_;
};

inline IRuntime* createInferRuntime(ILogger& logger) noexcept {
  return new IRuntime(logger);
}

}  // namespace nvinfer1

#endif

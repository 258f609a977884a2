// One plan, loaded: an engine of TensorRT (10.12 to 11) or TensorRT-RTX, and a pool of what a run needs.
//
// Memory: everything is allocated in the constructor, on the GPU and pinned, for the plan's largest batch; run() allocates nothing.
// One Slot is a stream, one scratch memory, one buffer on the GPU and one pinned for each tensor, an execution context for any
// batch size and one more for each captured size. Contexts of a slot share its scratch memory, since they never run at once.
//
// Threads: any number may call run() together; as many run as there are slots, the others wait in turn. The destructor must be the
// last call.
#ifndef DEPLOYKIT_ENGINE_H
#define DEPLOYKIT_ENGINE_H

#include <NvInferRuntime.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "deploykit/cuda.h"
#include "deploykit/error.h"
#include "deploykit/manifest.h"
#include "deploykit/model.h"

#if !defined(TRT_MAJOR_RTX) && (NV_TENSORRT_MAJOR < 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR < 12))
#error "deploykit needs TensorRT 10.12 or later"
#endif

namespace deploykit {

#if defined(TRT_MAJOR_RTX)
inline constexpr std::string_view tensorrt_backend = "tensorrt-rtx";
#else
inline constexpr std::string_view tensorrt_backend = "tensorrt";
#endif

// The version of the library that was loaded, which may be another than that of the headers.
inline std::string tensorrt_version() {
  return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
         std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
}

struct EngineOptions {
  int device = 0;
  int contexts = 2;                       // runs at once
  bool capture = true;                    // CUDA graphs of the profile's least, best and largest batch
  std::vector<std::string> plugins = {};  // names of the plugin libraries that the caller has loaded
};

// Keeps what TensorRT says of errors, for the exception that follows.
class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      last_ = message;
    } catch (...) {  // out of memory while an error is told: the exception that follows lacks the reason
    }
  }
  std::string take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(last_, {});
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

class Engine {
 public:
  struct Input {
    std::string_view name;
    const void* data;  // count rows in the tensor's type
  };
  struct Output {
    std::string_view name;
    void* data;  // room for count rows
  };

  // `plan` comes from read_plan(), `record` says what it was built for. Throws Error: TensorRT refuses it, its tensors are not
  // those of `graph`, or the GPU is full.
  Engine(const std::string& path, std::string_view plan, const PlanRecord& record, const Graph& graph, const EngineOptions& options)
      : path_(path), graph_(graph), batch_(record.batch), device_(options.device) {
    if (options.contexts < 1) throw Error("contexts is " + std::to_string(options.contexts) + ", expected 1 or more");
    check_cuda(cudaSetDevice(device_), "select GPU " + std::to_string(device_));
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    if (!runtime_) fail("TensorRT gives no runtime");
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine_) fail("TensorRT refuses " + path_);
    check_tensors();
    for (int i = 0; i < options.contexts; ++i) {
      slots_.push_back(make_slot(options.capture));
      free_.push_back(slots_.back().get());
    }
  }
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const BatchRange& batch() const noexcept { return batch_; }

  // Run `count` rows and copy back the outputs asked for, no others. Blocks until they are there.
  void run(std::size_t count, const std::vector<Input>& inputs, const std::vector<Output>& outputs) {
    if (count < static_cast<std::size_t>(batch_.min) || count > static_cast<std::size_t>(batch_.max)) {
      throw Error("batch is " + std::to_string(count) + ", the plan takes " + std::to_string(batch_.min) + " to " +
                      std::to_string(batch_.max),
                  "split it, or build a plan with another --batch");
    }
    check_cuda(cudaSetDevice(device_), "select GPU " + std::to_string(device_));  // the current device is each thread's own
    const Lease lease(*this);
    Slot& slot = *lease.slot;
    for (const Input& input : inputs) {
      const Buffer& buffer = slot.buffer(input.name);
      std::memcpy(buffer.pinned.get(), input.data, count * buffer.row_bytes);
    }
    if (const auto captured = slot.captured.find(count); captured != slot.captured.end()) {
      check_cuda(cudaGraphLaunch(captured->second.graph.get(), slot.stream.get()), "launch a graph");
    } else {
      set_batch(*slot.context, count);
      enqueue(slot, *slot.context, count);
    }
    for (const Output& output : outputs) {
      const Buffer& buffer = slot.buffer(output.name);
      check_cuda(cudaMemcpyAsync(buffer.pinned.get(), buffer.device.get(), count * buffer.row_bytes, cudaMemcpyDeviceToHost,
                                 slot.stream.get()),
                 "copy from the GPU");
    }
    check_cuda(cudaStreamSynchronize(slot.stream.get()), "finish a run of " + path_);
    for (const Output& output : outputs) {
      const Buffer& buffer = slot.buffer(output.name);
      std::memcpy(output.data, buffer.pinned.get(), count * buffer.row_bytes);
    }
  }

 private:
  using Context = std::unique_ptr<nvinfer1::IExecutionContext>;

  struct Buffer {
    const Tensor* tensor;
    bool is_input;
    std::size_t row_bytes;
    DeviceMemory device;
    PinnedMemory pinned;
  };
  // A graph is bound to the state of its context, so each captured batch size has one of its own (TensorRT developer guide, "CUDA
  // Graphs").
  struct Captured {
    Context context;
    CudaGraphExec graph;
  };
  struct Slot {
    // In the order in which they must outlive each other: the stream goes last.
    Stream stream;
    DeviceMemory scratch;
    std::vector<Buffer> buffers;
    Context context;
    std::map<std::size_t, Captured> captured;

    const Buffer& buffer(std::string_view name) const {
      for (const Buffer& one : buffers) {
        if (one.tensor->name == name) return one;
      }
      throw Error("the graph has no tensor " + std::string(name));
    }
  };
  // A slot for as long as a run takes.
  struct Lease {
    explicit Lease(Engine& from) : engine(from) {
      std::unique_lock<std::mutex> lock(engine.mutex_);
      engine.is_free_.wait(lock, [&] { return !engine.free_.empty(); });
      slot = engine.free_.back();
      engine.free_.pop_back();
    }
    ~Lease() {
      // Nothing of a run that failed halfway may still read or write the buffers when the next one begins.
      cudaStreamSynchronize(slot->stream.get());
      {
        const std::lock_guard<std::mutex> lock(engine.mutex_);
        engine.free_.push_back(slot);  // its capacity is that of all slots: this cannot throw
      }
      engine.is_free_.notify_one();
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    Engine& engine;
    Slot* slot = nullptr;
  };

  [[noreturn]] void fail(const std::string& what, const std::string& hint = {}) {
    const std::string reason = logger_.take();
    throw Error(what + (reason.empty() ? "" : ": " + reason), hint);
  }

  static nvinfer1::DataType type_of(DataType type) noexcept {
    return type == DataType::uint8     ? nvinfer1::DataType::kUINT8
           : type == DataType::float32 ? nvinfer1::DataType::kFLOAT
                                       : nvinfer1::DataType::kINT64;
  }

  void check_tensors() {
    const std::string hint = "write the header again with: deploykit cpp BUNDLE, or build the plan from its bundle";
    const auto check = [&](const Tensor& tensor, nvinfer1::TensorIOMode mode) {
      const std::string name(tensor.name);
      if (engine_->getTensorIOMode(name.c_str()) != mode)
        fail(path_ + " has no " + (mode == nvinfer1::TensorIOMode::kINPUT ? "input " : "output ") + name, hint);
      if (engine_->getTensorDataType(name.c_str()) != type_of(tensor.type))
        fail(path_ + ": " + name + " is not " + std::string(name_of(tensor.type)), hint);
      const nvinfer1::Dims shape = engine_->getTensorShape(name.c_str());
      bool is_same = shape.nbDims == tensor.rank;
      for (int axis = 1; is_same && axis < tensor.rank; ++axis) {
        is_same = shape.d[axis] == tensor.shape[static_cast<std::size_t>(axis)];
      }
      if (!is_same) fail(path_ + ": " + name + " has another shape than the header says", hint);
    };
    for (const Tensor& tensor : graph_.inputs) check(tensor, nvinfer1::TensorIOMode::kINPUT);
    for (const Tensor& tensor : graph_.outputs) check(tensor, nvinfer1::TensorIOMode::kOUTPUT);
    const auto count = static_cast<std::size_t>(engine_->getNbIOTensors());
    if (count != graph_.inputs.size() + graph_.outputs.size())
      fail(path_ + " has " + std::to_string(count) + " tensors, the header others", hint);
    const std::string image(graph_.inputs[0].name);
    const auto limit = [&](nvinfer1::OptProfileSelector end) { return engine_->getProfileShape(image.c_str(), 0, end).d[0]; };
    if (limit(nvinfer1::OptProfileSelector::kMIN) != batch_.min || limit(nvinfer1::OptProfileSelector::kMAX) != batch_.max) {
      fail(path_ + " takes other batches than its plan.json says", "build the plan again with: deploykit build");
    }
  }

  std::unique_ptr<Slot> make_slot(bool capture_graphs) {
    auto slot = std::make_unique<Slot>();
    slot->stream = make_stream();
    slot->scratch = make_device_memory(static_cast<std::size_t>(engine_->getDeviceMemorySizeV2()));
    const auto add = [&](const Tensor& tensor, bool is_input) {
      const std::size_t row_bytes = tensor.row_size() * size_of(tensor.type),
                        bytes = row_bytes * static_cast<std::size_t>(batch_.max);
      slot->buffers.push_back({&tensor, is_input, row_bytes, make_device_memory(bytes), make_pinned_memory(bytes)});
      std::memset(slot->buffers.back().pinned.get(), 0, bytes);
    };
    for (const Tensor& tensor : graph_.inputs) add(tensor, true);
    for (const Tensor& tensor : graph_.outputs) add(tensor, false);
    slot->context = make_context(*slot);
    if (capture_graphs) {
      for (const int size : {batch_.min, batch_.opt, batch_.max}) capture(*slot, static_cast<std::size_t>(size));
    }
    return slot;
  }

  Context make_context(Slot& slot) {
    Context context(engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
    if (!context) fail("TensorRT gives no execution context of " + path_);
    context->setDeviceMemoryV2(slot.scratch.get(), engine_->getDeviceMemorySizeV2());
    if (!context->setOptimizationProfileAsync(0, slot.stream.get())) fail("TensorRT does not take the profile of " + path_);
    check_cuda(cudaStreamSynchronize(slot.stream.get()), "select a profile");
    for (const Buffer& buffer : slot.buffers) {
      if (!context->setTensorAddress(std::string(buffer.tensor->name).c_str(), buffer.device.get())) {
        fail("TensorRT does not take the address of " + std::string(buffer.tensor->name));
      }
    }
    return context;
  }

  void set_batch(nvinfer1::IExecutionContext& context, std::size_t count) {
    for (const Tensor& tensor : graph_.inputs) {
      nvinfer1::Dims shape{};
      shape.nbDims = tensor.rank;
      for (int axis = 0; axis < tensor.rank; ++axis) shape.d[axis] = tensor.shape[static_cast<std::size_t>(axis)];
      shape.d[0] = static_cast<std::int64_t>(count);
      if (!context.setInputShape(std::string(tensor.name).c_str(), shape))
        fail("TensorRT does not take a batch of " + std::to_string(count));
    }
  }

  // Inputs to the GPU, then the network.
  void enqueue(const Slot& slot, nvinfer1::IExecutionContext& context, std::size_t count) {
    for (const Buffer& buffer : slot.buffers) {
      if (!buffer.is_input) continue;
      check_cuda(cudaMemcpyAsync(buffer.device.get(), buffer.pinned.get(), count * buffer.row_bytes, cudaMemcpyHostToDevice,
                                 slot.stream.get()),
                 "copy to the GPU");
    }
    if (!context.enqueueV3(slot.stream.get())) fail("TensorRT does not run " + path_);
  }

  // Some plans cannot be captured (a layer that waits for the GPU); those run without a graph, as every other batch size does.
  void capture(Slot& slot, std::size_t count) {
    if (slot.captured.count(count) > 0) return;
    Captured made{make_context(slot), nullptr};
    set_batch(*made.context, count);
    enqueue(slot, *made.context, count);  // once before, for what TensorRT does lazily
    check_cuda(cudaStreamSynchronize(slot.stream.get()), "finish a first run of " + path_);
    check_cuda(cudaStreamBeginCapture(slot.stream.get(), cudaStreamCaptureModeThreadLocal), "begin a graph");
    bool is_enqueued = true;
    try {
      enqueue(slot, *made.context, count);
    } catch (const Error&) {
      is_enqueued = false;
    }
    cudaGraph_t recorded = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(slot.stream.get(), &recorded);
    const CudaGraph graph(recorded);
    cudaGraphExec_t exec = nullptr;
    if (!is_enqueued || ended != cudaSuccess || cudaGraphInstantiate(&exec, recorded, 0) != cudaSuccess) {
      cudaGetLastError();
      logger_.take();
      return;
    }
    made.graph.reset(exec);
    slot.captured.emplace(count, std::move(made));
  }

  std::string path_;
  const Graph graph_;
  BatchRange batch_;
  int device_;
  Logger logger_;  // outlives what logs to it
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::mutex mutex_;
  std::condition_variable is_free_;
  std::vector<Slot*> free_;
};

}  // namespace deploykit

#endif

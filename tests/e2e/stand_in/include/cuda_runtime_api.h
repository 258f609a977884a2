// A stand-in for the CUDA runtime in tests of the C++ runner: memory of the host, streams that run at once, graphs that are lists
// of calls. It has the names that deploykit's headers use, and nothing else.
#ifndef DEPLOYKIT_STAND_IN_CUDA_H
#define DEPLOYKIT_STAND_IN_CUDA_H

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorStreamCaptureUnsupported };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
constexpr unsigned cudaStreamNonBlocking = 1, cudaHostAllocDefault = 0;

struct CUgraph_st {
  std::vector<std::function<void()>> calls;
};
struct CUstream_st {
  CUgraph_st* capturing = nullptr;
  void run(std::function<void()> call) {
    if (capturing != nullptr) {
      capturing->calls.push_back(std::move(call));
    } else {
      call();
    }
  }
};
using cudaStream_t = CUstream_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraph_st*;
struct cudaDeviceProp {
  char name[256] = "NVIDIA A10";
  int major = 8, minor = 6;
};

namespace stand_in {
inline std::atomic<int> live{0};      // what was allocated or made and not freed
inline std::atomic<int> launches{0};  // of graphs
inline cudaError_t made() {
  ++live;
  return cudaSuccess;
}
}  // namespace stand_in

inline const char* cudaGetErrorName(cudaError_t code) {
  return code == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}
inline const char* cudaGetErrorString(cudaError_t) {
  return "of the stand-in";
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  return *count = std::getenv("STAND_IN_NO_GPU") == nullptr ? 1 : 0, cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  return *properties = {}, cudaSuccess;
}
inline cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  if (std::getenv("STAND_IN_FULL") != nullptr) return cudaErrorMemoryAllocation;
  return *memory = std::malloc(bytes), stand_in::made();
}
inline cudaError_t cudaFree(void* memory) {
  return std::free(memory), --stand_in::live, cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return *memory = std::malloc(bytes), stand_in::made();
}
inline cudaError_t cudaFreeHost(void* memory) {
  return cudaFree(memory);
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return *stream = new CUstream_st, stand_in::made();
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return delete stream, --stand_in::live, cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return stream->run([=] { std::memcpy(to, from, bytes); }), cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  return stream->capturing = new CUgraph_st, stand_in::made();
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return *graph = stream->capturing, stream->capturing = nullptr, cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  return *exec = new CUgraph_st(*graph), stand_in::made();
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return delete graph, --stand_in::live, cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return delete exec, --stand_in::live, cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  ++stand_in::launches;
  for (const auto& call : exec->calls) stream->run(call);
  return cudaSuccess;
}

#endif

// Owners of what the CUDA runtime hands out: stream, device memory, pinned memory, graph. Each has one owner and frees itself.
#ifndef DEPLOYKIT_CUDA_H
#define DEPLOYKIT_CUDA_H

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "deploykit/error.h"
#include "deploykit/manifest.h"

namespace deploykit {

// Throw Error where a call of the CUDA runtime failed; `what` was to be done.
inline void check_cuda(cudaError_t code, const std::string& what) {
  if (code == cudaSuccess) return;
  const std::string reason = std::string(cudaGetErrorName(code)) + ", " + cudaGetErrorString(code);
  throw Error("CUDA cannot " + what + ": " + reason,
              code == cudaErrorMemoryAllocation ? "use a smaller batch, fewer contexts, or no captured batches" : "");
}

template <class Handle, auto free>
struct CudaFree {
  void operator()(Handle handle) const noexcept { free(handle); }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, CudaFree<cudaStream_t, cudaStreamDestroy>>;
using CudaGraph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, CudaFree<cudaGraph_t, cudaGraphDestroy>>;
using CudaGraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, CudaFree<cudaGraphExec_t, cudaGraphExecDestroy>>;
using DeviceMemory = std::unique_ptr<void, CudaFree<void*, cudaFree>>;
using PinnedMemory = std::unique_ptr<void, CudaFree<void*, cudaFreeHost>>;

inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a stream");
  return Stream(stream);
}

inline DeviceMemory make_device_memory(std::size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, std::max<std::size_t>(bytes, 1)), "allocate " + std::to_string(bytes) + " bytes on the GPU");
  return DeviceMemory(memory);
}

inline PinnedMemory make_pinned_memory(std::size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, std::max<std::size_t>(bytes, 1), cudaHostAllocDefault),
             "pin " + std::to_string(bytes) + " bytes");
  return PinnedMemory(memory);
}

// A GPU as CUDA counts them (CUDA_VISIBLE_DEVICES decides which is 0); nothing without a driver or without that GPU.
inline std::optional<Gpu> find_gpu(int device) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || device < 0 || device >= count) {
    cudaGetLastError();  // forget it: the next call would report it again
    return std::nullopt;
  }
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "describe GPU " + std::to_string(device));
  return Gpu{properties.name, "sm" + std::to_string(properties.major) + std::to_string(properties.minor)};
}

}  // namespace deploykit

#endif

// Stands in for CUDA's header where the kernels are compiled as plain C++: their own code, run thread by thread on the CPU.
//
// It finds what the host library cannot: wrong indices, a tile that is not covered, a barrier in the wrong place. Each thread
// of a block is a fiber; at a barrier or a shuffle it gives way to the next until all have come. What it does not show: speed,
// races between blocks, and what threads see of each other's memory without a barrier.
#ifndef DEPLOYKIT_ON_CPU_CUDA_H
#define DEPLOYKIT_ON_CPU_CUDA_H

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned columns = 1, unsigned rows = 1, unsigned layers = 1) : x(columns), y(rows), z(layers) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace on_cpu {

// Of the thread that runs now.
extern dim3 block_index, thread_index;

void run_grid(dim3 grid, dim3 block, const std::function<void()>& kernel);

// Returns when every thread of the block that has not ended has come.
void wait_for_block();

// Hands over eight bytes to the warp's other threads, waits for theirs, and returns those of lane `source`; a lane that does
// not exist or has ended is a mistake of the kernel and ends the process.
void exchange(const void* mine, void* theirs, std::size_t bytes, int source);

}  // namespace on_cpu

#define blockIdx on_cpu::block_index
#define threadIdx on_cpu::thread_index

inline void __syncthreads() { on_cpu::wait_for_block(); }

template <class Value>
Value __shfl_sync(unsigned, Value value, int source) {
  Value result;
  on_cpu::exchange(&value, &result, sizeof(Value), source);
  return result;
}

// A lane without such a neighbour keeps its own value.
template <class Value>
Value __shfl_down_sync(unsigned, Value value, int distance) {
  Value result;
  on_cpu::exchange(&value, &result, sizeof(Value), -distance - 1);
  return result;
}

using std::min;

#endif

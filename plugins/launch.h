// One way to start a kernel, so that tests can run the very same kernels without a GPU: see tests/on_cpu.
#ifndef DEPLOYKIT_LAUNCH_H
#define DEPLOYKIT_LAUNCH_H

#include <cuda_runtime_api.h>

namespace deploykit {

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t stream, Arguments... arguments) {
#ifdef __CUDACC__
  kernel<<<grid, block, 0, stream>>>(arguments...);
#else
  (void)stream;
  on_cpu::run_grid(grid, block, [=] { kernel(arguments...); });
#endif
}

}  // namespace deploykit

#endif

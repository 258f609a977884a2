// Launches ResizeNormalize on a stream.
#ifndef DEPLOYKIT_RESIZE_KERNELS_H
#define DEPLOYKIT_RESIZE_KERNELS_H

#include <cuda_runtime_api.h>

#include "resize_geometry.h"

namespace deploykit {

// pixels: uint8 [height, width, 3] RGB on the device. normalized: float32 [3, spec.height, spec.width] on the device.
// workspace: make_workspace(...).bytes or more on the device, aligned to 16 bytes, used by no other launch at the same time.
// Nothing waits for the device. Returns the first error of the launches; the spec and the size have no error.
cudaError_t launch_resize_normalize(const std::uint8_t* pixels, std::int32_t height, std::int32_t width, const ResizeSpec& spec,
                                    void* workspace, float* normalized, cudaStream_t stream);

}  // namespace deploykit

#endif

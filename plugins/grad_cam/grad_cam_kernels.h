// Launches GradCam on a stream.
#ifndef DEPLOYKIT_GRAD_CAM_KERNELS_H
#define DEPLOYKIT_GRAD_CAM_KERNELS_H

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace deploykit {

// Sizes of activations and gradients [count, channels, height, width] in row-major order; area is height * width.
struct CamShape {
  std::int32_t count, channels, area;
};

// The means of all channels stand in the workspace between the two launches.
inline std::size_t grad_cam_workspace(const CamShape& shape) { return std::size_t(shape.count) * shape.channels * sizeof(float); }

// All on the device, float32; workspace: grad_cam_workspace(shape) bytes or more, used by no other launch at the same time.
// Nothing waits for the device. Returns the first error of the launches.
cudaError_t launch_grad_cam(const float* activations, const float* gradients, const CamShape& shape, void* workspace, float* cam,
                            cudaStream_t stream);

}  // namespace deploykit

#endif

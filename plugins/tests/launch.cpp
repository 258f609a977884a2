// The launches with a C interface, for tests/gpu: device pointers and a stream in, a cudaError_t out.
#include <cuda_runtime_api.h>

#include "../grad_cam/grad_cam_kernels.h"
#include "../resize_normalize/resize_kernels.h"

#pragma GCC visibility push(default)
extern "C" {

int deploykit_launch_grad_cam(const float* activations, const float* gradients, std::int32_t count, std::int32_t channels,
                              std::int32_t area, void* workspace, float* cam, void* stream) {
  return deploykit::launch_grad_cam(activations, gradients, {count, channels, area}, workspace, cam,
                                    static_cast<cudaStream_t>(stream));
}

int deploykit_launch_resize_normalize(const std::uint8_t* pixels, std::int32_t height, std::int32_t width,
                                      const deploykit::ResizeSpec* spec, void* workspace, float* normalized, void* stream) {
  return deploykit::launch_resize_normalize(pixels, height, width, *spec, workspace, normalized, static_cast<cudaStream_t>(stream));
}
}
#pragma GCC visibility pop

// GradCam on the GPU: the means of the gradients, then the weighted sum of the activations with its ReLU. Two launches, no
// atomics.
//
// Why two and not one: every pixel needs the means of all channels. One kernel would have each tile of pixels average all
// gradients anew: 128 times the reads for a 64 x 64 map, and for one picture of 7 x 7 x 2048 a block reads 800 kB by itself,
// where one multiprocessor is fed some 64 bytes per clock: 7 us at 1.7 GHz. Apart, the averages spread over the whole GPU (a
// warp per channel), everything is read once, and between the two lie 4 bytes per channel. (Blocks that wait for each other
// would do it in one launch, with atomics or a cooperative launch, whose grid must fit the GPU at once.)
#include "grad_cam_kernels.h"

#include "../launch.h"
#include "grad_cam_math.h"

namespace deploykit {
namespace {

constexpr int kChannelsPerBlock = 8;

struct LoadScalars {
  __device__ void operator()(const float* source, float (&values)[4]) const {
    for (int i = 0; i < 4; ++i) values[i] = source[i];
  }
};

struct LoadVector {
  __device__ void operator()(const float* source, float (&values)[4]) const {
    const float4 quad = *reinterpret_cast<const float4*>(source);
    values[0] = quad.x, values[1] = quad.y, values[2] = quad.z, values[3] = quad.w;
  }
};

// One warp per channel; lanes put their sums together by halving, in the order that the host library repeats.
template <class LoadFour>
__global__ void __launch_bounds__(kLanes* kChannelsPerBlock)
    grad_cam_means_kernel(const float* __restrict__ gradients, std::int64_t channels, std::int32_t area,
                          float* __restrict__ means) {
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x) * kChannelsPerBlock + threadIdx.y;
  if (channel >= channels) return;  // the whole warp
  float sum = lane_sum(gradients + channel * area, area, threadIdx.x, LoadFour{});
  for (int distance = kLanes / 2; distance > 0; distance /= 2) sum += __shfl_down_sync(0xffffffffu, sum, distance);
  if (threadIdx.x == 0) means[channel] = channel_mean(sum, area);
}

// One block per picture and tile of kPixels pixels; its threads are kPixels x groups of channels.
template <int kPixels>
__global__ void __launch_bounds__(kThreadsOfTile)
    grad_cam_evidence_kernel(const float* __restrict__ activations, const float* __restrict__ means, std::int32_t channels,
                             std::int32_t area, float* __restrict__ cam) {
  constexpr int kGroups = kThreadsOfTile / kPixels;
  __shared__ float evidence[kGroups][kPixels];
  const int lane = threadIdx.x, group = threadIdx.y;
  const std::int32_t pixel = blockIdx.x * kPixels + lane;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * channels;  // the picture's first channel
  evidence[group][lane] =
      pixel < area ? group_evidence(activations + first * area + pixel, means + first, channels, area, group, kGroups) : 0.0f;
  for (int distance = kGroups / 2; distance > 0; distance /= 2) {
    __syncthreads();
    if (group < distance) evidence[group][lane] += evidence[group + distance][lane];
  }
  if (group == 0 && pixel < area) cam[static_cast<std::int64_t>(blockIdx.y) * area + pixel] = rectify(evidence[0][lane]);
}

template <int kPixels>
void launch_evidence(const float* activations, const float* means, const CamShape& shape, float* cam, cudaStream_t stream) {
  const dim3 grid((shape.area + kPixels - 1) / kPixels, shape.count), block(kPixels, kThreadsOfTile / kPixels);
  launch(grad_cam_evidence_kernel<kPixels>, grid, block, stream, activations, means, shape.channels, shape.area, cam);
}

}  // namespace

cudaError_t launch_grad_cam(const float* activations, const float* gradients, const CamShape& shape, void* workspace, float* cam,
                            cudaStream_t stream) {
  float* means = static_cast<float*>(workspace);
  const std::int64_t channels = static_cast<std::int64_t>(shape.count) * shape.channels;
  const unsigned blocks = static_cast<unsigned>((channels + kChannelsPerBlock - 1) / kChannelsPerBlock);
  const dim3 block(kLanes, kChannelsPerBlock);
  if (reinterpret_cast<std::uintptr_t>(gradients) % sizeof(float4) == 0) {
    launch(grad_cam_means_kernel<LoadVector>, blocks, block, stream, gradients, channels, shape.area, means);
  } else {
    launch(grad_cam_means_kernel<LoadScalars>, blocks, block, stream, gradients, channels, shape.area, means);
  }
  if (pixels_of_tile(shape.area) == kPixelsOfSmallTile) {
    launch_evidence<kPixelsOfSmallTile>(activations, means, shape, cam, stream);
  } else {
    launch_evidence<kPixelsOfLargeTile>(activations, means, shape, cam, stream);
  }
  return cudaGetLastError();
}

}  // namespace deploykit

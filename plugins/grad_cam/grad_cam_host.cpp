// GradCam on the CPU, in the order of the kernels: the way to test their numbers without a GPU.
//
// The halvings repeat what shuffles and shared memory do in grad_cam_kernels.cu; all other numbers are grad_cam_math.h's. The C
// interface is for the tests.
#include <vector>

#include "grad_cam_math.h"

namespace deploykit {
namespace {

struct LoadFour {
  void operator()(const float* source, float (&values)[4]) const {
    for (int i = 0; i < 4; ++i) values[i] = source[i];
  }
};

template <class Value>
Value halve(Value* values, std::int32_t count) {
  for (std::int32_t distance = count / 2; distance > 0; distance /= 2) {
    for (std::int32_t i = 0; i < distance; ++i) values[i] += values[i + distance];
  }
  return values[0];
}

float mean_of(const float* channel, std::int32_t area) {
  float sums[kLanes];
  for (std::int32_t lane = 0; lane < kLanes; ++lane) sums[lane] = lane_sum(channel, area, lane, LoadFour{});
  return channel_mean(halve(sums, kLanes), area);
}

}  // namespace
}  // namespace deploykit

extern "C" {
#pragma GCC visibility push(default)

// activations, gradients: float32 [count, channels, area]; cam: float32 [count, area].
void deploykit_host_grad_cam(const float* activations, const float* gradients, std::int32_t count, std::int32_t channels,
                             std::int32_t area, float* cam) {
  const std::int32_t groups = deploykit::groups_of_tile(area);
  std::vector<float> means(channels), evidence(groups);
  for (std::int32_t picture = 0; picture < count; ++picture) {
    const std::size_t first = std::size_t(picture) * channels * area;
    for (std::int32_t channel = 0; channel < channels; ++channel) {
      means[channel] = deploykit::mean_of(gradients + first + std::size_t(channel) * area, area);
    }
    for (std::int32_t pixel = 0; pixel < area; ++pixel) {
      for (std::int32_t group = 0; group < groups; ++group) {
        evidence[group] = deploykit::group_evidence(activations + first + pixel, means.data(), channels, area, group, groups);
      }
      cam[std::size_t(picture) * area + pixel] = deploykit::rectify(deploykit::halve(evidence.data(), groups));
    }
  }
}

std::int32_t deploykit_host_grad_cam_error_units(std::int32_t channels, std::int32_t area) {
  return deploykit::error_units(channels, area);
}
#pragma GCC visibility pop
}

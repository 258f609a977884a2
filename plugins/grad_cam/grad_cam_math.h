// The numbers of GradCam: cam = relu(sum over channels of mean(gradients of the channel) * activations), in float32, in a fixed
// order.
//
// Selvaraju et al. 2017 (arXiv 1610.02391), equations 1 and 2. Sums are split over lanes and groups and put together by
// halving, which keeps rounding errors small without a second word per sum: see error_units. The order depends on the shape
// alone, so equal inputs give equal bits, whatever else the GPU does.
#ifndef DEPLOYKIT_GRAD_CAM_MATH_H
#define DEPLOYKIT_GRAD_CAM_MATH_H

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "../hostdevice.h"

namespace deploykit {

constexpr std::int32_t kLanes = 32;            // a warp averages one channel
constexpr std::int32_t kAccumulators = 4;      // of a lane, independent so that additions need not wait for each other
constexpr std::int32_t kThreadsOfTile = 1024;  // pixels of a tile times groups of channels

// Small maps get small tiles with many groups of channels, or a 7 x 7 map would keep two multiprocessors busy and leave the
// rest idle.
constexpr std::int32_t kSmallMap = 1024, kPixelsOfSmallTile = 8, kPixelsOfLargeTile = 32;

DEPLOYKIT_HD std::int32_t pixels_of_tile(std::int32_t area) { return area <= kSmallMap ? kPixelsOfSmallTile : kPixelsOfLargeTile; }
DEPLOYKIT_HD std::int32_t groups_of_tile(std::int32_t area) { return kThreadsOfTile / pixels_of_tile(area); }

// One lane's part of a channel's sum. Areas that are a multiple of four are read four by four (one load of 16 bytes where the
// channel lies on such a border, as it then does in every tensor of TensorRT); others one by one.
template <class LoadFour>
DEPLOYKIT_HD float lane_sum(const float* channel, std::int32_t area, std::int32_t lane, LoadFour load_four) {
  float sums[kAccumulators] = {0.0f, 0.0f, 0.0f, 0.0f};
  if (area % 4 == 0) {
    for (std::int32_t quad = lane; quad < area / 4; quad += kLanes) {
      float values[4];
      load_four(channel + 4 * quad, values);
      for (int i = 0; i < 4; ++i) sums[i] += values[i];
    }
  } else {
    for (std::int32_t base = lane; base < area; base += kLanes * kAccumulators) {
      for (int i = 0; i < kAccumulators; ++i) {
        const std::int32_t pixel = base + i * kLanes;
        if (pixel < area) sums[i] += channel[pixel];
      }
    }
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

DEPLOYKIT_HD float channel_mean(float sum, std::int32_t area) { return sum / static_cast<float>(area); }

// One group's part of a pixel's evidence: channels group, group + groups, ... Neighbouring pixels lie side by side in
// `activations`.
DEPLOYKIT_HD float group_evidence(const float* activations, const float* means, std::int32_t channels, std::int32_t area,
                                  std::int32_t group, std::int32_t groups) {
  float evidence = 0.0f;
#ifdef __CUDA_ARCH__
#pragma unroll 8
#endif
  for (std::int32_t channel = group; channel < channels; channel += groups) {
    evidence = fmaf(means[channel], activations[static_cast<std::ptrdiff_t>(channel) * area], evidence);
  }
  return evidence;
}

// NaN stays NaN: a map of a network that overflowed must not look like one without evidence.
DEPLOYKIT_HD float rectify(float evidence) { return evidence < 0.0f ? 0.0f : evidence; }

// How many roundings, at most, one addend goes through on its way into the cam. With u = 2^-24 the error of a pixel is at most
// about error_units * u * sum over channels of mean|gradients| * |activation| (Higham, Accuracy and Stability, section 4.2).
inline std::int32_t error_units(std::int32_t channels, std::int32_t area) {
  const auto share = [](std::int32_t total, std::int32_t parts) { return (total + parts - 1) / parts; };
  std::int32_t halvings = 0;
  for (std::int32_t groups = groups_of_tile(area); groups > 1; groups /= 2) ++halvings;
  const std::int32_t mean = share(share(area, kLanes), kAccumulators) + 2 /* accumulators */ + 5 /* lanes */ + 1 /* division */;
  return mean + share(channels, groups_of_tile(area)) + halvings;
}

}  // namespace deploykit

#endif

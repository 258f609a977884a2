// A map over its photo: each pixel takes the map's colour as far as the map is strong; what the network did not see is darkened.
//
// The colours and their strength are those of deploykit's own overlays; the fine line round the strongest part is left out.
#ifndef DEPLOYKIT_OVERLAY_H
#define DEPLOYKIT_OVERLAY_H

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "deploykit/colours.h"
#include "deploykit/error.h"
#include "deploykit/image.h"
#include "deploykit/maps.h"

namespace deploykit {

// `photo_map` is at the photo's size (place_map), `box` what the network saw of it (placement). Throws Error where the sizes
// differ.
inline Image overlay(const Image& photo, const Map& photo_map, const CropBox& box) {
  check_image(photo);
  if (photo_map.width != photo.width || photo_map.height != photo.height || photo_map.values.size() != photo.pixels.size() / 3) {
    throw Error("map is " + std::to_string(photo_map.width) + " x " + std::to_string(photo_map.height) + ", expected the photo's " +
                std::to_string(photo.width) + " x " + std::to_string(photo.height));
  }
  constexpr float most_opacity = 0.72F, unseen_light = 0.5F;
  Image picture = photo;
  const auto to_byte = [](float level) { return static_cast<std::uint8_t>(std::clamp(std::nearbyint(level), 0.0F, 255.0F)); };
  for (std::size_t i = 0; i < photo_map.values.size(); ++i) {
    const std::size_t width = static_cast<std::size_t>(photo.width);
    const double x = static_cast<double>(i % width) + 0.5, y = static_cast<double>(i / width) + 0.5;
    std::uint8_t* pixel = picture.pixels.data() + 3 * i;
    if (x <= box.left || x >= box.right || y <= box.top || y >= box.bottom) {
      const float grey = static_cast<float>(pixel[0] + pixel[1] + pixel[2]) / 3;
      for (std::size_t channel = 0; channel < 3; ++channel)
        pixel[channel] = to_byte(unseen_light * (0.5F * grey + 0.5F * static_cast<float>(pixel[channel])));
      continue;
    }
    const float value = std::clamp(photo_map.values[i], 0.0F, 1.0F), opacity = most_opacity * std::pow(value, 1.25F);
    const std::uint8_t* colour = colour_table[static_cast<std::size_t>(std::lround(255 * value))];
    for (std::size_t channel = 0; channel < 3; ++channel) {
      const auto level = static_cast<float>(pixel[channel]);
      pixel[channel] = to_byte(level + opacity * (static_cast<float>(colour[channel]) - level));
    }
  }
  return picture;
}

}  // namespace deploykit

#endif

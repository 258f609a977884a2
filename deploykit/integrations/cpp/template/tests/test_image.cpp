// The preprocessing equals deploykit's own, bit for bit: fixtures.bin has photos and what Pillow made of them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "check.h"
#include "deploykit/golden.h"
#include "deploykit/image.h"
#include "deploykit/netpbm.h"
#include "model_header.h"

namespace {

using namespace deploykit;
using deploykit_programs::model;

Image image_of(const ArrayFile& file, const std::string& name) {
  const Array& array = file.get(name, DataType::uint8);
  return {static_cast<int>(array.shape[1]), static_cast<int>(array.shape[0]), file.bytes(name)};
}

void test_resize(const ArrayFile& fixtures) {
  int photos = 0;
  for (; fixtures.has("photo_" + std::to_string(photos)); ++photos) {
    const std::string number = std::to_string(photos);
    const Image photo = image_of(fixtures, "photo_" + number);
    const Image made = resize_and_crop(photo, model.image), expected = image_of(fixtures, "input_" + number);
    CHECK(made.width == model.image.width && made.height == model.image.height);
    std::size_t differing = 0;
    for (std::size_t i = 0; i < expected.pixels.size(); ++i) {
      if (made.pixels[i] != expected.pixels[i]) ++differing;
    }
    if (differing > 0)
      std::fprintf(stderr, "photo %s, %d x %d: %zu of %zu values differ\n", number.c_str(), photo.width, photo.height, differing,
                   expected.pixels.size());
    CHECK(made.pixels == expected.pixels);
    const CropBox box = placement(photo.width, photo.height, model.image);
    const std::vector<float> places = fixtures.floats("box_" + number);
    CHECK(static_cast<float>(box.left) == places[0] && static_cast<float>(box.top) == places[1]);
    CHECK(static_cast<float>(box.right) == places[2] && static_cast<float>(box.bottom) == places[3]);
  }
  CHECK(photos >= 4);
}

void test_normalize(const ArrayFile& fixtures) {
  const std::vector<std::uint8_t> input = fixtures.bytes("input_0");
  const std::vector<float> made = normalize(input.data(), 1, model.image), expected = fixtures.floats("normalized_0");
  CHECK(made.size() == expected.size());
  float difference = 0, largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference = std::max(difference, std::fabs(made[i] - expected[i]));
    largest = std::max(largest, std::fabs(expected[i]));
  }
  // The same two operations; a compiler that fuses them rounds once instead of twice.
  CHECK(difference <= 2e-7F * std::max(largest, 1.0F));
}

void test_refusals() {
  const auto crop = [](const Image& image) { resize_and_crop(image, model.image); };
  REFUSED(crop({0, 5, {}}), "photo is 0 x 5, expected at least 1 x 1");
  REFUSED(crop({4, 4, std::vector<std::uint8_t>(47)}), "photo of 4 x 4 has 47 bytes, expected 48");
  REFUSED(crop({70000, 70000, {}}), "expected at most");
  crop({1, 1, {10, 20, 30}});
  if (model.image.resize_rule == ResizeRule::exact) return;
  crop({1, 40, std::vector<std::uint8_t>(120)});
  REFUSED(crop({1, 100, std::vector<std::uint8_t>(300)}), "photo is 1 x 100, too long for its shorter side");
}

void test_ppm() {
  const Image image = parse_ppm("P6 # made by hand\n2 1\n255\nabcdef", "a.ppm");
  CHECK(image.width == 2 && image.height == 1 && image.pixels[5] == 'f');
  for (const char* wrong :
       {"", "P5\n2 1\n255\nab", "P6", "P6\n#", "P6\n2 1\n255\nabcde", "P6\n2 1\n255\nabcdefg", "P6\n2 1\n65535\nabcdefabcdef",
        "P6\n0 1\n255\n", "P6\n-2 1\n255\nabcdef", "P6\n99999999999999 1\n255\nabcdef", "P6\n2 1\n255"}) {
    REFUSED(parse_ppm(wrong, "a.ppm"), "a.ppm ");
  }
  write_ppm("test_image.ppm", image);
  CHECK(read_ppm("test_image.ppm").pixels == image.pixels);
  REFUSED(read_raw("test_image.ppm", 2, 1), "test_image.ppm: photo of 2 x 1 has 17 bytes, expected 6");
  std::remove("test_image.ppm");
}

}  // namespace

int main() {
  return check::run([] {
    const ArrayFile fixtures(DEPLOYKIT_DATA "/fixtures.bin");
    test_resize(fixtures);
    test_normalize(fixtures);
    test_refusals();
    test_ppm();
  });
}

// Map arithmetic, softmax and ranking equal Python's: fixtures.bin has raw maps and logits, and what deploykit's runtime made of
// them.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "check.h"
#include "deploykit/classes.h"
#include "deploykit/golden.h"
#include "deploykit/maps.h"
#include "deploykit/overlay.h"
#include "model_header.h"

namespace {

using namespace deploykit;
using deploykit_programs::model;

// Python adds four float32 products per value in an order of its own, and the division by the greatest enlarges their rounding; see
// maps.h.
constexpr float map_bound = 2e-6F;

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  float difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference = std::max(difference, std::fabs(a[i] - b[i]));
  return difference;
}

void test_maps(const ArrayFile& fixtures) {
  int maps = 0;
  for (; fixtures.has("cam_" + std::to_string(maps)); ++maps) {
    const std::string number = std::to_string(maps);
    const Array& array = fixtures.get("cam_" + number, DataType::float32);
    const std::vector<float> cam = fixtures.floats("cam_" + number);
    const Map map = normalize_map(cam.data(), static_cast<int>(array.shape[0]), static_cast<int>(array.shape[1]),
                                  model.image.height, model.image.width);
    CHECK(largest_difference(map.values, fixtures.floats("map_" + number)) <= map_bound);
    const Array& photo = fixtures.get("placed_" + number, DataType::float32);
    const int height = static_cast<int>(photo.shape[0]), width = static_cast<int>(photo.shape[1]);
    const Map placed = place_map(map, placement(width, height, model.image), width, height);
    CHECK(largest_difference(placed.values, fixtures.floats("placed_" + number)) <= 2 * map_bound);
    CHECK(has_evidence(cam.data(), cam.size()) == (*std::max_element(cam.begin(), cam.end()) > 0));
  }
  CHECK(maps >= 3);
}

void test_map_refusals() {
  const auto scaled = [](const std::vector<float>& cam) { return normalize_map(cam.data(), 2, 2, 4, 4); };
  REFUSED(scaled({0, 1, NAN, 0}), "cam holds NaN or infinity");
  REFUSED(scaled({0, 1, INFINITY, 0}), "cam holds NaN or infinity");
  REFUSED(scaled({0, 1, -0.5F, 0}), "cam has values down to -0.5");
  REFUSED(normalize_map(nullptr, 0, 2, 4, 4), "a map has no pixels");
  for (const std::vector<float>& even : {std::vector<float>(4, 0.0F), std::vector<float>(4, 3.0F)}) {
    const Map map = scaled(even);
    CHECK(std::all_of(map.values.begin(), map.values.end(), [](float value) { return value == 0; }));
  }
  const Map map = scaled({0, 1e-12F, 2e-12F, 0});
  CHECK(*std::max_element(map.values.begin(), map.values.end()) == 1 &&
        *std::min_element(map.values.begin(), map.values.end()) == 0);
}

void test_ranking(const ArrayFile& fixtures) {
  const std::vector<float> logits = fixtures.floats("logits");
  const std::vector<std::int64_t> order = fixtures.integers("order");
  const std::vector<Prediction> ranked = rank(model, logits.data(), static_cast<int>(order.size()));
  CHECK(ranked.size() == order.size());
  for (std::size_t i = 0; i < order.size(); ++i) CHECK(ranked[i].class_index == static_cast<int>(order[i]));
  // Two exponentials of float32, each within 2 roundings, and sums of up to thousands of them.
  CHECK(largest_difference(softmax(logits.data(), logits.size()), fixtures.floats("probabilities")) <= 1e-6F);
  CHECK(rank(model, logits.data(), 1).size() == 1);
  CHECK(rank(model, logits.data(), model.num_classes + 5).size() == logits.size());
  REFUSED(rank(model, logits.data(), 0), "top is 0, expected 1 or more");
  for (const float bad : {NAN, INFINITY}) {
    std::vector<float> wrong = logits;
    wrong.back() = bad;
    REFUSED(rank(model, wrong.data()), "the network answers with NaN or infinity");
  }
  const std::vector<float> large(8, std::numeric_limits<float>::max());
  CHECK(softmax(large.data(), large.size())[0] == 0.125F);
}

void test_overlay() {
  const Image photo{2, 2, {10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120}};
  const Map map{2, 2, {0, 1, 0, 1}};
  const Image drawn = overlay(photo, map, {0, 0, 2, 1});
  CHECK(drawn.pixels[0] == 10 && drawn.pixels[2] == 30);  // seen, no evidence: as it was
  const std::uint8_t* strongest = colour_table[255];
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const float level = photo.pixels[3 + channel];
    CHECK(std::fabs(static_cast<float>(drawn.pixels[3 + channel]) -
                    (level + 0.72F * (static_cast<float>(strongest[channel]) - level))) <= 0.5F);
  }
  CHECK(drawn.pixels[6] == 38 && drawn.pixels[7] == 40 && drawn.pixels[8] == 42);  // not seen: half as bright and half as colourful
  REFUSED(overlay(photo, Map{1, 2, {0, 1}}, {0, 0, 2, 2}), "map is 2 x 1, expected the photo's 2 x 2");
}

}  // namespace

int main() {
  return check::run([] {
    const ArrayFile fixtures(DEPLOYKIT_DATA "/fixtures.bin");
    test_maps(fixtures);
    test_map_refusals();
    test_ranking(fixtures);
    test_overlay();
  });
}

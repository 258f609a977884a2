// A runner whose plans are refused halfway, and one that answers: both free everything they made.
#include <cstdio>
#include <vector>

#include "deploykit/runner.h"

int main(int, char** values) {
  using deploykit_programs::model;
  try {
    deploykit::Runner runner(model, values[1]);
    const std::vector<std::uint8_t> pixels(model.image.height * model.image.width * 3 * 9);
    for (const std::size_t count : {1, 3, 4}) {
      if (runner.explain(pixels.data(), count).cam_height < 1) return 1;
    }
    try {
      runner.predict(pixels.data(), 9);
      return 1;
    } catch (const deploykit::Error& error) {
      std::printf("%s\n", error.what());
    }
    const std::int64_t wrong = 6;
    try {
      runner.explain(pixels.data(), 1, &wrong);
      return 1;
    } catch (const deploykit::Error& error) {
      std::printf("%s\n", error.what());
    }
    std::printf("%d launches\n", stand_in::launches.load());
  } catch (const deploykit::Error& error) {
    std::printf("%s\n", error.what());
  }
  std::printf("%d left\n", stand_in::live.load());
}

// Names what is in a photo and shows why: the top classes on stdout; the map (PGM) and the photo with the map over it (PPM) as
// files.
//
// Without TensorRT it goes as far as it can: it shows what the network would see of the photo, and with --golden ROW it takes a
// golden vector's picture and answer in place of a photo and an engine.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "command_line.h"
#include "deploykit/classes.h"
#include "deploykit/golden.h"
#include "deploykit/image.h"
#include "deploykit/maps.h"
#include "deploykit/netpbm.h"
#include "deploykit/overlay.h"
#include "model_header.h"
#ifdef DEPLOYKIT_WITH_TENSORRT
#include "deploykit/runner.h"
#endif

namespace {

using namespace deploykit;
using deploykit_programs::model;

constexpr const char* usage =
    "usage: classify PHOTO.ppm | --golden ROW [--plans FOLDER] [--class INDEX] [--raw WIDTHxHEIGHT] [--top N] [--output PREFIX]";

struct Answer {
  std::vector<float> logits;
  std::vector<float> cam;  // empty where nothing explains
  int cam_height = 0;
  int cam_width = 0;
};

void show(const Image& photo, const CropBox& box, const Answer& answer, int top, const std::string& prefix) {
  for (const Prediction& one : rank(model, answer.logits.data(), top)) {
    std::printf("%6.4f  %5d  %s\n", static_cast<double>(one.probability), one.class_index, one.label.c_str());
  }
  if (answer.cam.empty()) return;
  if (!has_evidence(answer.cam.data(), answer.cam.size()))
    std::printf("nothing in the photo speaks for the class: the map is zero everywhere\n");
  const Map map = normalize_map(answer.cam.data(), answer.cam_height, answer.cam_width, model.image.height, model.image.width);
  const Map on_photo = place_map(map, box, photo.width, photo.height);
  write_pgm(prefix + ".map.pgm", on_photo);
  write_ppm(prefix + ".overlay.ppm", overlay(photo, on_photo, box));
  std::printf("%s.map.pgm\n%s.overlay.ppm\n", prefix.c_str(), prefix.c_str());
}

int show_golden(int row, int top, const std::string& prefix) {
  const ArrayFile golden(DEPLOYKIT_DATA "/golden.bin", model.golden_sha256);
  const Array& image = golden.get("image", DataType::uint8);
  if (static_cast<std::size_t>(row) >= image.shape[0])
    throw Misuse("--golden is " + std::to_string(row) + ", there are " + std::to_string(image.shape[0]));
  const auto at = static_cast<std::size_t>(row);
  const auto part = [at](const auto& values, std::size_t rows) {
    const std::size_t size = values.size() / rows;
    return std::vector(values.begin() + static_cast<std::ptrdiff_t>(at * size),
                       values.begin() + static_cast<std::ptrdiff_t>((at + 1) * size));
  };
  const std::size_t rows = image.shape[0];
  const Image picture{model.image.width, model.image.height, part(golden.bytes("image"), rows)};
  Answer answer{part(golden.floats("logits"), rows), {}};
  if (golden.has("cam")) {
    const Array& cam = golden.get("cam", DataType::float32);
    answer.cam = part(golden.floats("cam"), rows);
    answer.cam_height = static_cast<int>(cam.shape[1]);
    answer.cam_width = static_cast<int>(cam.shape[2]);
  }
  show(picture, {0, 0, static_cast<double>(picture.width), static_cast<double>(picture.height)}, answer, top, prefix);
  return 0;
}

Answer answer_to([[maybe_unused]] const Image& input, [[maybe_unused]] const std::string& plans, [[maybe_unused]] int class_index) {
#ifdef DEPLOYKIT_WITH_TENSORRT
  RunnerOptions options;
  options.engine.contexts = 1;
  options.engine.capture = false;  // for one call a graph does not pay
  Runner runner(model, plans, options);
  if (!runner.explains()) return {runner.predict(input.pixels.data(), 1), {}};
  const std::int64_t wanted = class_index;
  Explanation explanation = runner.explain(input.pixels.data(), 1, &wanted);
  return {std::move(explanation.logits), std::move(explanation.cam), explanation.cam_height, explanation.cam_width};
#else
  throw Error("this program was built without TensorRT, so no engine answers",
              "configure with -DTensorRT_ROOT=FOLDER, or try --golden 0");
#endif
}

Image read_photo(const std::string& path, const std::string& raw) {
  if (raw.empty()) return read_ppm(path);
  const std::size_t cross = raw.find('x');
  if (cross == std::string::npos) throw Misuse("--raw is " + raw + ", expected WIDTHxHEIGHT");
  return read_raw(path, number_of(raw.substr(0, cross), "--raw's width", 1, most_length),
                  number_of(raw.substr(cross + 1), "--raw's height", 1, most_length));
}

int run(Arguments& arguments) {
  if (arguments.flag("--help")) {
    std::printf("%s\n", usage);
    return 0;
  }
  const std::string first_plans = model.plans.empty() ? "" : DEPLOYKIT_DATA "/../plans/" + std::string(model.plans[0].folder);
  const std::string plans = arguments.option("--plans", first_plans), raw = arguments.option("--raw", "");
  const int class_index = number_of(arguments.option("--class", "-1"), "--class", -1, model.num_classes - 1);
  const int top = number_of(arguments.option("--top", "5"), "--top", 1, model.num_classes);
  const std::string prefix = arguments.option("--output", "photo"), golden = arguments.option("--golden", "");
  if (!model.trained) std::fprintf(stderr, "warning: %s is untrained: its answers mean nothing\n", std::string(model.name).c_str());
  if (!golden.empty()) {
    arguments.plain(0, 0, usage);
    return show_golden(number_of(golden, "--golden", 0, 999), top, prefix);
  }
  const Image photo = read_photo(arguments.plain(1, 1, usage)[0], raw);
  const Image input = resize_and_crop(photo, model.image);
  write_ppm(prefix + ".input.ppm", input);
  std::printf("%s.input.ppm\n", prefix.c_str());
  show(photo, placement(photo.width, photo.height, model.image), answer_to(input, plans, class_index), top, prefix);
  return 0;
}

}  // namespace

int main(int count, char** values) {
  return deploykit::run_program(count, values, run);
}

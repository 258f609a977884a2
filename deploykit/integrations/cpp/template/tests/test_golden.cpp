// golden.bin: whole, of the header's digest and shapes; a damaged one is refused, wherever it is damaged.
#include <cstddef>
#include <string>

#include "check.h"
#include "deploykit/classes.h"
#include "deploykit/file.h"
#include "deploykit/golden.h"
#include "deploykit/maps.h"
#include "model_header.h"

namespace {

using namespace deploykit;
using deploykit_programs::model;

void test_content() {
  const ArrayFile golden(DEPLOYKIT_DATA "/golden.bin", model.golden_sha256);
  const Array& image = golden.get("image", DataType::uint8);
  const std::size_t rows = image.shape[0];
  CHECK(rows >= 1 && image.size() == rows * model.predict.inputs[0].row_size());
  CHECK(image.shape[1] == static_cast<std::size_t>(model.image.height) &&
        image.shape[2] == static_cast<std::size_t>(model.image.width));
  const std::vector<float> logits = golden.floats("logits");
  CHECK(logits.size() == rows * static_cast<std::size_t>(model.num_classes));
  CHECK(golden.has("cam") == model.explain.exists());
  REFUSED(golden.floats("cams"), "has no array cams");
  REFUSED(golden.floats("image"), "has image as uint8, expected float32");
  if (!golden.has("cam")) return;
  const std::vector<std::int64_t> classes = golden.integers("explained_class");
  const std::vector<float> cam = golden.floats("cam");
  const Tensor& tensor = model.layers[0].cam;
  CHECK(classes.size() == rows && cam.size() == rows * tensor.row_size());
  for (std::size_t row = 0; row < rows; ++row) {
    const float* own = logits.data() + row * static_cast<std::size_t>(model.num_classes);
    CHECK(rank(model, own, 1)[0].class_index == static_cast<int>(classes[row]));
    const Map map = normalize_map(cam.data() + row * tensor.row_size(), static_cast<int>(tensor.shape[1]),
                                  static_cast<int>(tensor.shape[2]), model.image.height, model.image.width);
    CHECK(map.values.size() == static_cast<std::size_t>(model.image.height) * static_cast<std::size_t>(model.image.width));
  }
}

void test_damage() {
  const std::string whole = read_file(DEPLOYKIT_DATA "/golden.bin");
  const auto opened = [&](const std::string& data, std::string_view sha256) {
    const ArrayFile file("golden.bin", data, sha256);
    CHECK(file.arrays().size() >= 2);
  };
  opened(whole, model.golden_sha256);
  std::string changed = whole;
  changed.back() = static_cast<char>(changed.back() ^ 1);
  REFUSED(opened(changed, model.golden_sha256), "the header says " + std::string(model.golden_sha256.substr(0, 12)));
  REFUSED(opened("", {}), "is not a file of arrays");
  REFUSED(opened("\x89\x44\x4b\x41\n\x1a\n" + whole.substr(8), {}), "was copied in text mode");
  REFUSED(opened(whole.substr(0, 10), {}), "is cut short");
  REFUSED(opened(whole.substr(0, 100), {}), "is cut short");
  REFUSED(opened(whole.substr(0, whole.size() - 1), {}), "is cut short");
  REFUSED(opened(whole + " ", {}), "has something behind its arrays");
  // No byte of the header, however wrong, makes the reader look beyond the file (the sanitizers watch).
  for (std::size_t at = 8; at < 144; ++at) {
    for (const int value : {0x00, 0x7f, 0x80, 0xff}) {
      changed = whole;
      changed[at] = static_cast<char>(value);
      try {
        const ArrayFile file("golden.bin", changed, {});
        for (const Array& array : file.arrays())
          CHECK(array.data.empty() || array.data.back() == array.data[array.data.size() - 1]);
      } catch (const Error&) {
        continue;
      }
    }
  }
}

}  // namespace

int main() {
  return check::run([] {
    test_content();
    test_damage();
  });
}

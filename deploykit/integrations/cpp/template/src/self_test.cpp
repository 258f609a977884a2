// The golden vectors through the engines: predict and explain at every batch size that is captured, on several threads, within the
// tolerances that deploykit verify allows. Needs TensorRT, a GPU, and plans for it.
//
//     self_test [FOLDER OF PLANS]
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "command_line.h"
#include "deploykit/golden.h"
#include "deploykit/runner.h"
#include "model_header.h"

namespace {

using namespace deploykit;
using deploykit_programs::model;

struct Golden {
  std::size_t rows;
  std::vector<std::uint8_t> image;
  std::vector<float> logits;
  std::vector<std::int64_t> explained_class;
  std::vector<float> cam;
};

Golden read_golden() {
  const ArrayFile file(DEPLOYKIT_DATA "/golden.bin", model.golden_sha256);
  Golden golden{file.get("image", DataType::uint8).shape[0], file.bytes("image"), file.floats("logits"), {}, {}};
  if (file.has("cam")) {
    golden.explained_class = file.integers("explained_class");
    golden.cam = file.floats("cam");
  }
  return golden;
}

// Rows `first`, `first + 1`, ... of values, starting again at the first where they end.
template <class T>
std::vector<T> rows_of(const std::vector<T>& values, std::size_t rows, std::size_t first, std::size_t count) {
  const std::size_t size = values.size() / rows;
  std::vector<T> taken;
  for (std::size_t i = 0; i < count; ++i) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>((first + i) % rows * size);
    taken.insert(taken.end(), begin, begin + static_cast<std::ptrdiff_t>(size));
  }
  return taken;
}

void check_logits(const std::vector<float>& expected, const std::vector<float>& seen, const std::string& what) {
  float largest = 0, difference = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::fabs(expected[i]));
    difference = std::isfinite(seen[i]) ? std::max(difference, std::fabs(expected[i] - seen[i])) : INFINITY;
  }
  const double relative = static_cast<double>(difference / largest);
  const std::string found = what + ": logits differ by " + std::to_string(relative) + " of the largest, " +
                            std::to_string(model.tolerances.logits) + " allowed";
  std::printf("%s\n", found.c_str());
  if (!(relative <= model.tolerances.logits)) throw Error(found);
}

// Maps divided by their own maximum: the largest difference within a map, of the median picture and of the worst.
void check_maps(const std::vector<float>& expected, const std::vector<float>& seen, std::size_t count, const std::string& what) {
  const std::size_t size = expected.size() / count;
  std::vector<double> differences;
  for (std::size_t row = 0; row < count; ++row) {
    const float *a = expected.data() + row * size, *b = seen.data() + row * size;
    const float most_a = std::max(*std::max_element(a, a + size), 1e-38F),
                most_b = std::max(*std::max_element(b, b + size), 1e-38F);
    double most = 0;
    for (std::size_t i = 0; i < size; ++i)
      most = std::max(most, std::fabs(static_cast<double>(a[i] / most_a) - static_cast<double>(b[i] / most_b)));
    differences.push_back(most);
  }
  std::sort(differences.begin(), differences.end());
  const double median = (differences[(count - 1) / 2] + differences[count / 2]) / 2, worst = differences.back();
  const std::string found = what + ": maps differ by " + std::to_string(median) + " (worst picture " + std::to_string(worst) + ")";
  std::printf("%s\n", found.c_str());
  if (!(median <= model.tolerances.map && worst <= model.tolerances.worst_map)) throw Error(found);
}

void check_batch(Runner& runner, const Golden& golden, std::size_t count) {
  const std::string what = "batch " + std::to_string(count);
  const std::vector<std::uint8_t> image = rows_of(golden.image, golden.rows, 0, count);
  const std::vector<float> logits = rows_of(golden.logits, golden.rows, 0, count);
  check_logits(logits, runner.predict(image.data(), count), what + ", predict");
  if (!runner.explains() || golden.cam.empty()) return;
  const Explanation answer = runner.explain(image.data(), count);
  check_logits(logits, answer.logits, what + ", explain");
  const std::vector<std::int64_t> classes = rows_of(golden.explained_class, golden.rows, 0, count);
  const Explanation asked = runner.explain(image.data(), count, classes.data());
  if (asked.explained_class != classes) throw Error(what + ": the explained classes are not those that were asked for");
  check_maps(rows_of(golden.cam, golden.rows, 0, count), asked.cam, count, what + ", explain");
}

// Callers that share one runner get their own rows' answers, to the bit what one caller gets.
void check_threads(Runner& runner, const Golden& golden) {
  const auto count = static_cast<std::size_t>(runner.batch().min);
  std::vector<std::vector<float>> alone;
  for (std::size_t row = 0; row < golden.rows; ++row)
    alone.push_back(runner.predict(rows_of(golden.image, golden.rows, row, count).data(), count));
  std::exception_ptr failure;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (std::size_t first = 0; first < 4; ++first) {
    threads.emplace_back([&, first] {
      try {
        for (std::size_t i = 0; i < 20; ++i) {
          const std::size_t row = (first + i) % golden.rows;
          if (runner.predict(rows_of(golden.image, golden.rows, row, count).data(), count) != alone[row])
            throw Error("threads get other answers than one caller");
        }
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        failure = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
  std::printf("4 threads: every answer as one caller gets it\n");
}

int run(Arguments& arguments) {
  const std::vector<std::string> given = arguments.plain(0, 1, "usage: self_test [FOLDER OF PLANS]");
  if (given.empty() && model.plans.empty())
    throw Error("there are no plans", "build some with: deploykit build BUNDLE, then deploykit cpp BUNDLE --force");
  const std::string folder = given.empty() ? DEPLOYKIT_DATA "/../plans/" + std::string(model.plans[0].folder) : given[0];
  const Golden golden = read_golden();
  Runner runner(model, folder);
  for (const int size : {runner.batch().min, runner.batch().opt, runner.batch().max})
    check_batch(runner, golden, static_cast<std::size_t>(size));
  check_threads(runner, golden);
  return 0;
}

}  // namespace

int main(int count, char** values) {
  return deploykit::run_program(count, values, run);
}

// Photos' pixels in; logits, and the map that explains them, out: a model's plans run by TensorRT.
//
//     deploykit::Runner runner(model, "plans/tensorrt-11.4.0.106-sm86-fp16-b1-8-32");
//     const std::vector<float> logits = runner.predict(pixels.data(), 1);
//
// Threads: any number may share one Runner. Memory and waiting: see engine.h. Pixels are the caller's and are copied before a call
// returns.
#ifndef DEPLOYKIT_RUNNER_H
#define DEPLOYKIT_RUNNER_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "deploykit/cuda.h"
#include "deploykit/engine.h"
#include "deploykit/error.h"
#include "deploykit/image.h"
#include "deploykit/manifest.h"
#include "deploykit/model.h"

namespace deploykit {

struct RunnerOptions {
  EngineOptions engine = {};
  bool explain = true;  // load explain.plan, where the model has explain graphs
  // Believe plan.json of a folder that the header knows too: for plans that were rebuilt where they run.
  bool trust_plan_json = false;
};

// Answers for a batch of `count` pictures and why.
struct Explanation {
  std::vector<float> logits;                  // [N, K]
  std::vector<std::int64_t> explained_class;  // [N]; -1 where class_index was no class
  std::vector<float> cam;                     // [N, h, w], Grad-CAM after its ReLU, not scaled: normalize_map() of maps.h scales it
  int cam_height = 0;
  int cam_width = 0;
};

class Runner {
 public:
  // Load the plans of a folder. Before TensorRT sees them they are held against the facts compiled into the model's header, or, of
  // a folder that the header does not know, against its plan.json; and against this machine. Throws Error with what was seen,
  // allowed and to do.
  Runner(const Model& model, const std::string& folder, const RunnerOptions& options = {}) : model_(model) {
    const Here here{std::string(tensorrt_backend), tensorrt_version(), find_gpu(options.engine.device), options.engine.plugins};
    const PlanRecord record = facts_of(folder, options.trust_plan_json);
    predict_ = load(detail::inside(folder, "predict.plan"), record, here, model_.predict, options.engine);
    if (options.explain && model_.explain.exists())
      explain_ = load(detail::inside(folder, "explain.plan"), record, here, model_.explain, options.engine);
  }

  const Model& model() const noexcept { return model_; }
  bool explains() const noexcept { return explain_ != nullptr; }
  const BatchRange& batch() const noexcept { return predict_->batch(); }

  // Logits [N, K] of pixels uint8 [N, H, W, 3], RGB at the network's size, not normalized. N is within batch().
  std::vector<float> predict(const std::uint8_t* pixels, std::size_t count) {
    std::vector<float> logits(count * static_cast<std::size_t>(model_.num_classes));
    const Feed feed(model_, pixels, count);
    predict_->run(count, {{"image", feed.data}}, {{"logits", logits.data()}});
    return logits;
  }

  // The same, with the map of one class per picture at a layer of the model (0 is the first). class_index [N]: -1, or nullptr for
  // all, takes the picture's own likeliest class.
  Explanation explain(const std::uint8_t* pixels, std::size_t count, const std::int64_t* class_index = nullptr,
                      std::size_t layer = 0) {
    if (!explain_)
      throw Error(std::string(model_.name) + " was loaded without explain.plan", "export the model with its explain graphs");
    if (layer >= model_.layers.size()) {
      throw Error("layer is " + std::to_string(layer) + ", expected 0 to " + std::to_string(model_.layers.size() - 1));
    }
    const std::vector<std::int64_t> classes =
        class_index == nullptr ? std::vector<std::int64_t>(count, -1) : std::vector<std::int64_t>(class_index, class_index + count);
    for (const std::int64_t one : classes) {
      if (one < -1 || one >= model_.num_classes)
        throw Error("class_index is " + std::to_string(one) + ", expected -1 to " + std::to_string(model_.num_classes - 1));
    }
    const Tensor& cam = model_.layers[layer].cam;
    Explanation answer;
    answer.cam_height = static_cast<int>(cam.shape[1]);
    answer.cam_width = static_cast<int>(cam.shape[2]);
    answer.logits.resize(count * static_cast<std::size_t>(model_.num_classes));
    answer.explained_class.resize(count);
    answer.cam.resize(count * cam.row_size());
    const Feed feed(model_, pixels, count);
    explain_->run(
        count, {{"image", feed.data}, {"class_index", classes.data()}},
        {{"logits", answer.logits.data()}, {"explained_class", answer.explained_class.data()}, {cam.name, answer.cam.data()}});
    return answer;
  }

 private:
  // What the input `image` takes for pixels: themselves, or normalized.
  struct Feed {
    Feed(const Model& model, const std::uint8_t* pixels, std::size_t count)
        : normalized(model.pixel_input ? std::vector<float>() : normalize(pixels, count, model.image)),
          data(model.pixel_input ? static_cast<const void*>(pixels) : normalized.data()) {}
    std::vector<float> normalized;
    const void* data;
  };

  PlanRecord facts_of(const std::string& folder, bool trust_plan_json) const {
    const std::string name = detail::file_name(folder.substr(0, folder.find_last_not_of('/') + 1));
    for (const PlanFacts& facts : model_.plans) {
      if (!trust_plan_json && facts.folder == name) return record_of(facts);
    }
    std::optional<PlanRecord> record = read_plan_record(folder);
    if (!record)
      throw Error(folder + " has no plan.json, and the header knows no plans of this name", "copy the whole folder of plans");
    return *std::move(record);
  }

  static std::unique_ptr<Engine> load(const std::string& path, const PlanRecord& record, const Here& here, const Graph& graph,
                                      const EngineOptions& options) {
    const std::string plan = read_plan(path, here, &record);
    check_graph(path, record, graph);
    return std::make_unique<Engine>(path, plan, record, graph, options);
  }

  Model model_;
  std::unique_ptr<Engine> predict_;
  std::unique_ptr<Engine> explain_;
};

}  // namespace deploykit

#endif

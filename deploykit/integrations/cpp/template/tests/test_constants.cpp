// The generated header: its constants agree with each other, at compile time where that is possible.
#include <set>
#include <string>

#include "check.h"
#include "deploykit/classes.h"
#include "deploykit/manifest.h"
#include "model_header.h"

namespace {

using namespace deploykit;
using deploykit_programs::model;

static_assert(model.num_classes >= 1);
static_assert(model.labels.empty() || model.labels.size() == static_cast<std::size_t>(model.num_classes));
static_assert(model.image.height >= 1 && model.image.width >= 1);
static_assert((model.image.resize_rule == ResizeRule::exact) == (model.image.resize_size == 0));
static_assert(model.image.std[0] > 0 && model.image.std[1] > 0 && model.image.std[2] > 0);
static_assert(model.predict.exists() && model.predict.inputs.size() == 1 && model.predict.outputs.size() == 1);
static_assert(model.predict.inputs[0].name == "image" && model.predict.outputs[0].name == "logits");
static_assert(model.predict.inputs[0].type == (model.pixel_input ? DataType::uint8 : DataType::float32));
static_assert(model.predict.inputs[0].row_size() == static_cast<std::size_t>(3 * model.image.height * model.image.width));
static_assert(model.predict.outputs[0].row_size() == static_cast<std::size_t>(model.num_classes));
static_assert(model.explain.exists() == !model.layers.empty());
static_assert(model.explain.outputs.size() == (model.explain.exists() ? 2 + 3 * model.layers.size() : 0));

void test() {
  for (const Graph& graph : {model.predict, model.explain}) {
    if (!graph.exists()) continue;
    CHECK(detail::is_sha256(graph.sha256));
    CHECK(graph.file.substr(0, graph.file.find('/')) == model.precision);
    for (const Tensor& tensor : graph.inputs) CHECK(tensor.shape[0] == -1 && tensor.row_size() > 0);
    for (const Tensor& tensor : graph.outputs) CHECK(tensor.shape[0] == -1 && tensor.row_size() > 0);
  }
  for (const Layer& layer : model.layers) {
    CHECK(layer.activations.shape == layer.gradients.shape);
    CHECK(layer.cam.rank == 3 && layer.cam.shape[1] == layer.activations.shape[2] &&
          layer.cam.shape[2] == layer.activations.shape[3]);
  }
  std::set<std::string_view> folders;
  for (const PlanFacts& plans : model.plans) {
    CHECK(folders.insert(plans.folder).second);
    CHECK(plans.precision == model.precision);
    const PlanRecord beside = *read_plan_record(DEPLOYKIT_DATA "/../plans/" + std::string(plans.folder));
    const PlanRecord compiled = record_of(plans);
    CHECK(beside.version == compiled.version && beside.sm == compiled.sm && beside.gpu_name == compiled.gpu_name);
    CHECK(beside.files.size() == compiled.files.size());
    for (const PlanEntry& file : compiled.files) {
      const PlanEntry* same = beside.find(file.name);
      CHECK(same != nullptr && same->sha256 == file.sha256 && same->size_bytes == file.size_bytes &&
            same->graph_sha256 == file.graph_sha256);
    }
  }
  CHECK(label_of(model, 0) == (model.labels.empty() ? "class 0" : std::string(model.labels[0])));
  check_manifest(DEPLOYKIT_DATA "/manifest.json", model);
}

}  // namespace

int main() {
  return check::run(test);
}

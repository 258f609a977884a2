// Says whether a plan would be loaded: every check that runs before TensorRT sees the file, for a machine that is described, not
// asked.
//
//     check_plan predict.plan --backend tensorrt --version 11.4.0.106 --gpu "NVIDIA A10" --sm sm86
//
// The facts are those of the plan.json beside the file; with --compiled-in those of the generated header. Without --gpu no GPU is
// there.
#include <cstdio>
#include <optional>
#include <string>

#include "command_line.h"
#include "deploykit/manifest.h"
#include "model_header.h"

namespace {

using namespace deploykit;
using deploykit_programs::model;

constexpr const char* usage =
    "usage: check_plan PLAN --backend tensorrt|tensorrt-rtx --version VERSION [--gpu NAME --sm SM] [--compiled-in] [--any-graph]";

const PlanFacts& facts_of(const std::string& folder) {
  for (const PlanFacts& facts : model.plans) {
    if (facts.folder == folder) return facts;
  }
  throw Error("the header knows no plans in a folder of the name " + folder,
              "write it again with: deploykit cpp BUNDLE --plan FOLDER");
}

int run(Arguments& arguments) {
  if (arguments.flag("--help")) {
    std::printf("%s\n", usage);
    return 0;
  }
  Here here{arguments.option("--backend", "tensorrt"), arguments.option("--version", ""), std::nullopt};
  const std::string gpu = arguments.option("--gpu", ""), sm = arguments.option("--sm", "");
  const bool is_compiled_in = arguments.flag("--compiled-in"), takes_any_graph = arguments.flag("--any-graph");
  const std::string path = arguments.plain(1, 1, usage)[0];
  if (here.version.empty()) throw Misuse("--version is missing", usage);
  if (!gpu.empty()) here.gpu = Gpu{gpu, sm};
  const std::string folder = detail::folder_of(path);
  std::optional<PlanRecord> record;
  if (is_compiled_in) record = record_of(facts_of(detail::file_name(folder)));
  const std::string data = read_plan(path, here, record ? &*record : nullptr);
  if (!record) record = read_plan_record(folder);
  if (record && !takes_any_graph)
    check_graph(path, *record, detail::file_name(path) == "explain.plan" ? model.explain : model.predict);
  std::printf("%s: %zu bytes, as written, for here\n", path.c_str(), data.size());
  return 0;
}

}  // namespace

int main(int count, char** values) {
  return deploykit::run_program(count, values, run);
}

// Every refusal of a plan before TensorRT would see it, and of a manifest that the header was not made from.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>

#include "check.h"
#include "deploykit/file.h"
#include "deploykit/manifest.h"
#include "model_header.h"

namespace {

using namespace deploykit;
using deploykit_programs::model;

const std::string path = "predict.plan";
const std::string content = "ftrt" + std::string(1000, '\7') + "\nlast line\n";

PlanRecord a10_record() {
  PlanRecord record{"tensorrt", "10.13.3.9", "sm86", "NVIDIA A10", "fp16", {1, 8, 32}, "none", false, false, {}, {}};
  record.files.push_back({path, sha256_of(content), content.size(), "fp16/predict.onnx", std::string(64, '0')});
  return record;
}

const Here a10{"tensorrt", "10.13.3.9", Gpu{"NVIDIA A10", "sm86"}};

// 100 bytes that begin as a plan of version 10.13.3.9 does.
std::string bare(const std::string& mark, std::size_t length) {
  std::string plan = mark + std::string(12, '\0');
  for (int shift = 0; shift < 64; shift += 8) plan += static_cast<char>(static_cast<std::uint64_t>(length) >> shift & 0xff);
  plan += "\x0a\x0d\x03\x09";
  return plan + std::string(100 - plan.size(), 'x');
}

void test_header() {
  const auto loaded = [](const std::string& backend, const std::string& version) {
    detail::check_header(path, bare("ftrt", 0), backend, version);
  };
  loaded("tensorrt", "10.13.3.9");
  loaded("tensorrt", "10.14.0.1");
  REFUSED(loaded("tensorrt", "10.12.0.36"), "predict.plan was built with tensorrt 10.13.3.9; here is 10.12.0.36");
  REFUSED(loaded("tensorrt", "11.0.0.1"), "here is 11.0.0.1");
  REFUSED(loaded("tensorrt-rtx", "1.7.1.116"),
          "predict.plan was built by tensorrt 10.13.3.9; tensorrt-rtx 1.7.1.116 is to load it");
}

void test_content() {
  const PlanRecord record = a10_record();
  const PlanEntry* file = &record.files[0];
  const auto content_of = [&](const std::string& data, const PlanEntry* entry) { check_content(path, data, entry); };
  content_of(content, file);
  // Without a record a plan's own header is looked at; TensorRT-RTX's has the length too.
  content_of(bare("ftrt", 0), nullptr);
  content_of(bare("vtrt", 100), nullptr);
  REFUSED(content_of(bare("vtrt", 1200), nullptr), "predict.plan has 100 bytes, its header says 1,200: it is cut short");
  REFUSED(content_of(bare("vtrt", 50), nullptr), "predict.plan has 100 bytes, its header says 50: something was added to it");
  REFUSED(content_of("ftrt", nullptr), "is not a plan: it begins with 66 74 72 74");
  REFUSED(content_of("", file), "predict.plan is empty (0 bytes), expected a plan");
  REFUSED(content_of("version https://git-lfs.github.com/spec/v1\n", file), "is a Git LFS pointer, not the plan itself");
  REFUSED(content_of("\x1f\x8b\x08", file), "is a gzip archive");
  REFUSED(content_of("PK\x03\x04", file), "is a zip archive");
  REFUSED(content_of("\x28\xb5\x2f\xfd", file), "is a zstd archive");
  REFUSED(content_of("<!DOCTYPE html>", file), "is a web page, perhaps of a failed download");
  REFUSED(content_of("\x08\x08\x12\x07pytorch", file), "is an ONNX graph, expected a plan");
  REFUSED(content_of("MZ", nullptr), "is not a plan: it begins with 4d 5a, plans begin with 'ftrt' or 'vtrt'");
  REFUSED(content_of(content.substr(0, 500), file), "predict.plan has 500 bytes, plan.json says 1,015: it is cut short");
  REFUSED(content_of(detail::in_text_mode(content), file), "it was copied in text mode, which changed its line feeds");
  REFUSED(content_of(content + "more", file), "has 1,019 bytes, plan.json says 1,015: it is another file");
  std::string changed = content;
  changed[500] = 'x';
  REFUSED(content_of(changed, file), "predict.plan does not match its plan.json: sha256 " + sha256_of(changed).substr(0, 12));
}

void test_fit() {
  const auto refused = [](const std::function<void(PlanRecord&, Here&)>& change, const std::string& words) {
    PlanRecord record = a10_record();
    Here here = a10;
    change(record, here);
    REFUSED(check_fit(path, record, here), words);
  };
  const auto fits = [](const std::function<void(PlanRecord&, Here&)>& change) {
    PlanRecord record = a10_record();
    Here here = a10;
    change(record, here);
    check_fit(path, record, here);
  };
  fits([](PlanRecord&, Here&) {});
  fits([](PlanRecord&, Here& here) { here.version = "10.13.0.1"; });
  fits([](PlanRecord& record, Here& here) { record.version_compatible = true, here.version = "10.14.1.2"; });
  fits([](PlanRecord& record, Here& here) { record.compat = "same-cc", here.gpu->name = "NVIDIA A40"; });
  fits([](PlanRecord& record, Here& here) { record.compat = "ampere+", here.gpu = Gpu{"NVIDIA H100", "sm90"}; });
  fits([](PlanRecord& record, Here& here) { record.backend = here.backend = "tensorrt-rtx", here.gpu->name = "NVIDIA A40"; });
  refused([](PlanRecord&, Here& here) { here.backend = "tensorrt-rtx"; },
          "was built by tensorrt 10.13.3.9; tensorrt-rtx 10.13.3.9 is to load it");
  refused([](PlanRecord&, Here& here) { here.version = "10.14.1.2"; }, "was built with tensorrt 10.13.3.9; here is 10.14.1.2");
  refused([](PlanRecord& record, Here& here) { record.version_compatible = true, here.version = "11.0.0.1"; }, "here is 11.0.0.1");
  refused([](PlanRecord& record, Here& here) { record.version_compatible = true, here.version = "10.12.0.36"; },
          "here is 10.12.0.36");
  refused([](PlanRecord&, Here& here) { here.gpu.reset(); }, "was built for sm86; this machine has no NVIDIA GPU");
  refused([](PlanRecord&, Here& here) { here.gpu = Gpu{"NVIDIA H100", "sm90"}; },
          "was built for sm86 (NVIDIA A10); the selected GPU is NVIDIA H100, sm90");
  refused([](PlanRecord&, Here& here) { here.gpu->name = "NVIDIA A40"; }, "the selected GPU is NVIDIA A40, sm86");
  refused([](PlanRecord& record, Here& here) { record.compat = "ampere+", here.gpu = Gpu{"Tesla T4", "sm75"}; },
          "sm86 (NVIDIA A10), --compat ampere+");
  refused([](PlanRecord& record, Here&) { record.plugins = {"libcam.so"}; }, "needs the plugin library libcam.so; none loaded");
}

void test_record() {
  const std::string entry = "{\"sha256\": \"" + std::string(64, 'a') +
                            "\", \"size_bytes\": 5, \"graph\": \"g\", \"graph_sha256\": \"" + std::string(64, 'b') +
                            "\", \"build_s\": 1.5}";
  const auto text = [&](const std::string& version, const std::string& batch, const std::string& more) {
    return "{\"schema_version\": " + version +
           ", \"backend\": \"tensorrt\", \"version\": \"11.4.0.106\", \"sm\": \"sm86\", \"gpu\": null, \"precision\": \"fp32\", "
           "\"batch\": " +
           batch + ", \"files\": {\"predict.plan\": " + entry +
           "}, \"compat\": \"none\", \"version_compatible\": false, \"stripped\": false, \"plugins\": [\"a.so\"]" + more + "}";
  };
  const std::string batch = "{\"min\": 1, \"opt\": 8, \"max\": 32}";
  const PlanRecord record = parse_plan_record(text("1", batch, ""), "plan.json");
  CHECK(record.batch.opt == 8 && !record.gpu_name && record.plugins.size() == 1);
  CHECK(record.find("predict.plan")->size_bytes == 5 && record.find("explain.plan") == nullptr);
  const auto parse = [](const std::string& json) { parse_plan_record(json, "plan.json"); };
  REFUSED(parse("{"), "plan.json is not JSON");
  REFUSED(parse("[]"), "plan.json has schema version None, this deploykit reads 1");
  REFUSED(parse(text("2", batch, "")), "plan.json has schema version 2, this deploykit reads 1");
  REFUSED(parse(text("1", "{\"min\": 8, \"opt\": 4, \"max\": 1}", "")), "has a batch that is not 1 <= min <= opt <= max");
  REFUSED(parse(text("1", "{\"min\": 1, \"opt\": 2, \"max\": 99999999999999999999}", "")), "expected a whole number");
  REFUSED(parse(text("1", batch, ", \"only_on_mondays\": true")), "has an unknown field, only_on_mondays");
  REFUSED(parse(text("1", "[1, 8, 32]", "")), "has a batch of another type");
}

// A folder of files as deploykit build leaves it, without a plan of a real GPU.
void test_files() {
  const std::string plan = "test_manifest.plan";
  write_file(plan, content);
  PlanRecord record = a10_record();
  record.files[0].name = plan;
  CHECK(read_plan(plan, a10, &record) == content);
  Here h100 = a10;
  h100.gpu = Gpu{"NVIDIA H100", "sm90"};
  REFUSED(read_plan(plan, h100, &record), "the selected GPU is NVIDIA H100");
  record.stripped = true;
  REFUSED(read_plan(plan, a10, &record), "was built without its weights (--strip)");
  record.files[0].name = "explain.plan";
  REFUSED(read_plan(plan, a10, &record), "says nothing of test_manifest.plan; it describes explain.plan");
  write_file(plan, content.substr(0, 10));
  record = a10_record();
  record.files[0].name = plan;
  REFUSED(read_plan(plan, a10, &record), "it is cut short");
  std::remove(plan.c_str());
  REFUSED(read_plan(plan, a10, &record), "test_manifest.plan cannot be read: No such file or directory");

  record = a10_record();
  REFUSED(check_graph(path, record, model.predict), "was built from a graph of sha256 000000000000");
  record.files[0].graph_sha256 = std::string(model.predict.sha256);
  check_graph(path, record, model.predict);

  const std::string manifest = "test_manifest.json";
  write_file(manifest, read_file(DEPLOYKIT_DATA "/manifest.json"));
  check_manifest(manifest, model);
  write_file(manifest, read_file(DEPLOYKIT_DATA "/manifest.json") + " ");
  REFUSED(check_manifest(manifest, model), "the header was made from " + std::string(model.manifest_sha256.substr(0, 12)));
  std::remove(manifest.c_str());
}

}  // namespace

int main() {
  return check::run([] {
    test_header();
    test_content();
    test_fit();
    test_record();
    test_files();
  });
}

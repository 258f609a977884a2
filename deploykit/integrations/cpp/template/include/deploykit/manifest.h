// What a plan is for, and refusing it where it does not belong, before TensorRT sees it; and whether a manifest is the one that the
// generated header was made from. The refusals are deploykit's own, in the same words.
//
// plan.json is read as it is instead of from a flat twin: a plan that was rebuilt on the machine it runs on (deploykit build) comes with
// a new plan.json, and a service takes both without being compiled again. Fields that this reader does not know are refused, because one
// of them may say where the plan must not run; what a plan turned out to be (layers, seconds) is left unread.
#ifndef DEPLOYKIT_MANIFEST_H
#define DEPLOYKIT_MANIFEST_H

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "deploykit/error.h"
#include "deploykit/file.h"
#include "deploykit/json.h"
#include "deploykit/model.h"
#include "deploykit/sha256.h"

namespace deploykit {

inline constexpr std::string_view plan_record_name = "plan.json";
inline constexpr int plan_schema_version = 1;

// A GPU as the driver describes it: "NVIDIA A10", "sm86".
struct Gpu {
  std::string name;
  std::string sm;
};

// One plan of a folder.
struct PlanEntry {
  std::string name;
  std::string sha256;
  std::uint64_t size_bytes = 0;
  std::string graph;
  std::string graph_sha256;
};

// plan.json: what the plans of a folder were built for, and with what.
struct PlanRecord {
  std::string backend;
  std::string version;
  std::string sm;
  std::optional<std::string> gpu_name;  // that they were built on; nothing where the target was only named
  std::string precision;
  BatchRange batch{1, 1, 1};
  std::string compat = "none";
  bool version_compatible = false;
  bool stripped = false;
  std::vector<std::string> plugins;
  std::vector<PlanEntry> files;

  const PlanEntry* find(std::string_view name) const noexcept {
    const auto found = std::find_if(files.begin(), files.end(), [&](const PlanEntry& file) { return file.name == name; });
    return found == files.end() ? nullptr : &*found;
  }
};

// What is about to load a plan. gpu is the selected device; nothing where the CUDA driver finds none.
struct Here {
  std::string backend;
  std::string version;
  std::optional<Gpu> gpu;
  std::vector<std::string> plugins{};
};

namespace detail {

inline std::string with_commas(std::uint64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
  return digits;
}

inline std::string joined(const std::vector<std::string>& names, const std::string& if_none) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? if_none : text;
}

inline bool starts_with(std::string_view text, std::string_view start) noexcept {
  return text.substr(0, start.size()) == start;
}

inline std::string file_name(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

// The folder of a file, "." for a bare name.
inline std::string folder_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

inline std::string inside(const std::string& folder, std::string_view name) {
  if (folder == ".") return std::string(name);
  return folder + (folder.back() == '/' ? "" : "/") + std::string(name);
}

// A text of letters for "12.0.1": numbers with dots between them, two at least.
inline bool is_version(std::string_view text) noexcept {
  std::size_t parts = 0;
  for (std::size_t start = 0; start <= text.size();) {
    const std::string_view part = text.substr(start, std::min(text.find('.', start), text.size()) - start);
    const auto is_allowed = [&](char c) { return parts == 0 ? std::isdigit(static_cast<unsigned char>(c)) : std::isalnum(static_cast<unsigned char>(c)); };
    if (part.empty() || !std::all_of(part.begin(), part.end(), is_allowed)) return false;
    start += part.size() + 1;
    ++parts;
  }
  return parts >= 2;
}

inline bool is_sm(std::string_view text) noexcept {
  const std::string_view digits = text.substr(std::min<std::size_t>(2, text.size()));
  return starts_with(text, "sm") && (digits.size() == 2 || digits.size() == 3) &&
         std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
}

inline bool is_sha256(std::string_view text) noexcept {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// Reads typed fields of plan.json; every error names the field.
class Fields {
 public:
  Fields(const Json& json, std::string place) : json_(json), place_(std::move(place)) {
    if (json.kind != Json::Kind::object) fail("is not an object");
  }

  [[noreturn]] void fail(const std::string& what) const { throw Error(place_ + " " + what); }

  const Json& get(std::string_view name, Json::Kind kind) const {
    const Json* found = json_.find(name);
    if (found == nullptr) fail("has no " + std::string(name));
    if (found->kind != kind) fail("has a " + std::string(name) + " of another type");
    return *found;
  }
  const std::string& text(std::string_view name) const { return get(name, Json::Kind::text).text; }
  bool flag(std::string_view name) const { return get(name, Json::Kind::boolean).boolean; }
  std::uint64_t number(std::string_view name) const {
    const std::string& digits = get(name, Json::Kind::number).text;
    const bool is_whole = digits.size() < 19 && digits.find_first_not_of("0123456789") == std::string::npos;
    if (!is_whole) fail("has a " + std::string(name) + " of " + digits + ", expected a whole number");
    return std::stoull(digits);
  }
  int small_number(std::string_view name) const {
    const std::uint64_t value = number(name);
    if (value > 999999) fail("has a " + std::string(name) + " of " + std::to_string(value) + ", expected at most 999999");
    return static_cast<int>(value);
  }
  void allow_only(const std::vector<std::string_view>& names) const {
    for (const auto& field : json_.fields) {
      if (std::find(names.begin(), names.end(), field.first) == names.end()) fail("has an unknown field, " + field.first);
    }
  }

 private:
  const Json& json_;
  std::string place_;
};

inline PlanEntry entry_of(const std::string& name, const Json& json) {
  const Fields fields(json, "its " + name);
  PlanEntry entry{name, fields.text("sha256"), fields.number("size_bytes"), fields.text("graph"), fields.text("graph_sha256")};
  if (!is_sha256(entry.sha256) || !is_sha256(entry.graph_sha256)) fields.fail("has a digest that is no sha256");
  return entry;
}

inline PlanRecord record_of(const Json& json) {
  const Fields fields(json, "it");
  fields.allow_only({"schema_version", "backend", "version", "sm", "gpu", "precision", "batch", "files", "compat", "version_compatible",
                     "stripped", "workspace_bytes", "optimization_level", "tf32", "plugins"});
  PlanRecord record;
  record.backend = fields.text("backend");
  record.version = fields.text("version");
  record.sm = fields.text("sm");
  if (const Json* gpu = json.find("gpu"); gpu == nullptr || gpu->kind != Json::Kind::null) {
    record.gpu_name = Fields(fields.get("gpu", Json::Kind::object), "its gpu").text("name");
  }
  record.precision = fields.text("precision");
  const Fields batch(fields.get("batch", Json::Kind::object), "its batch");
  record.batch = {batch.small_number("min"), batch.small_number("opt"), batch.small_number("max")};
  record.compat = fields.text("compat");
  record.version_compatible = fields.flag("version_compatible");
  record.stripped = fields.flag("stripped");
  for (const Json& plugin : fields.get("plugins", Json::Kind::list).items) {
    if (plugin.kind != Json::Kind::text) fields.fail("has plugins that are no names");
    record.plugins.push_back(plugin.text);
  }
  for (const auto& [name, file] : fields.get("files", Json::Kind::object).fields) record.files.push_back(entry_of(name, file));
  const auto& [min, opt, max] = record.batch;
  if (!(1 <= min && min <= opt && opt <= max)) fields.fail("has a batch that is not 1 <= min <= opt <= max");
  if (record.precision != "fp32" && record.precision != "fp16" && record.precision != "int8") fields.fail("has precision " + record.precision);
  if (!is_sm(record.sm)) fields.fail("has sm " + record.sm + ", expected such as sm86");
  if (!is_version(record.version)) fields.fail("has version " + record.version + ", expected such as 11.4.0.106");
  if (record.compat != "none" && record.compat != "same-cc" && record.compat != "ampere+") fields.fail("has compat " + record.compat);
  return record;
}

// The first two numbers of a version. A part that is no number, such as the rc1 of 11.0rc1, fits nothing.
inline std::pair<int, int> major_minor(std::string_view version) {
  int numbers[2] = {-1, -1};
  for (int& number : numbers) {
    const std::string_view part = version.substr(0, version.find('.'));
    if (part.empty() || part.size() > 6 || part.find_first_not_of("0123456789") != std::string_view::npos) break;
    number = std::stoi(std::string(part));
    version.remove_prefix(std::min(part.size() + 1, version.size()));
  }
  return {numbers[0], numbers[1]};
}

// The same major and minor; a version-compatible plan also loads in a later minor of its major.
// https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html#version-compatibility
inline bool version_fits(const PlanRecord& record, std::string_view version) {
  const auto built = major_minor(record.version), here = major_minor(version);
  if (built.second < 0 || here.second < 0) return record.version == version;
  return built == here || (record.version_compatible && built.first == here.first && built.second <= here.second);
}

inline bool gpu_fits(const PlanRecord& record, const Gpu& gpu) {
  constexpr int ampere = 80;
  if (record.compat == "ampere+") return is_sm(gpu.sm) && std::stoi(gpu.sm.substr(2)) >= ampere;
  if (record.sm != gpu.sm) return false;
  // TensorRT times its kernels on the GPU at hand; TensorRT-RTX builds for a compute capability.
  return !record.gpu_name || record.compat == "same-cc" || record.backend == "tensorrt-rtx" || *record.gpu_name == gpu.name;
}

inline std::string in_text_mode(std::string_view data) {
  std::string text;
  text.reserve(data.size() + data.size() / 128);
  for (const char c : data) {
    if (c == '\n') text += '\r';
    text += c;
  }
  return text;
}

inline std::string difference(const std::string& path, std::string_view data, const PlanEntry& file) {
  const std::string size = path + " has " + with_commas(data.size()) + " bytes, " + std::string(plan_record_name) + " says " + with_commas(file.size_bytes);
  const std::string as_text = ": it was copied in text mode, which changed its line feeds";
  if (sha256_of(in_text_mode(data)) == file.sha256) return size + as_text;
  if (data.size() < file.size_bytes) return size + ": it is cut short";
  if (data.size() > file.size_bytes) {
    // A "\r\n" of the plan itself becomes "\r\r\n", so undoing it does not always give the plan back; counting does.
    const std::uint64_t grown = data.size() - file.size_bytes;
    std::uint64_t feeds = 0, returned = 0;
    for (std::size_t i = 0; i < data.size(); ++i) {
      if (data[i] != '\n') continue;
      ++feeds;
      if (i > 0 && data[i - 1] == '\r') ++returned;
    }
    return size + (feeds == returned && feeds == grown ? as_text : ": it is another file");
  }
  const std::string ellipsis = "\xe2\x80\xa6";
  return path + " does not match its " + std::string(plan_record_name) + ": sha256 " + sha256_of(data).substr(0, 12) + ellipsis + ", expected " +
         file.sha256.substr(0, 12) + ellipsis;
}

}  // namespace detail

// Read plan.json; `path` is for the messages. Throws Error: not JSON, of another schema version, or with fields missing, unknown or wrong.
inline PlanRecord parse_plan_record(std::string_view text, const std::string& path) {
  const std::string again = "build the plan again with: deploykit build";
  Json json;
  try {
    json = read_json(text);
  } catch (const Error& error) {
    throw Error(path + " is not JSON: " + error.what(), again);
  }
  const Json* version = json.find("schema_version");
  if (version == nullptr || version->text != std::to_string(plan_schema_version) || version->kind != Json::Kind::number) {
    const std::string seen = version == nullptr || version->text.empty() ? "None" : version->text;
    throw Error(path + " has schema version " + seen + ", this deploykit reads " + std::to_string(plan_schema_version), again);
  }
  try {
    return detail::record_of(json);
  } catch (const Error& error) {
    throw Error(path + " does not follow schema version " + std::to_string(plan_schema_version) + ": " + error.what(), again);
  }
}

// The plan.json of a folder of plans; nothing where there is none. Throws Error as parse_plan_record does.
inline std::optional<PlanRecord> read_plan_record(const std::string& folder) {
  const std::string path = detail::inside(folder, plan_record_name);
  if (!is_file(path)) return std::nullopt;
  return parse_plan_record(read_file(path, "build the plan again with: deploykit build"), path);
}

// The same facts from a generated header, where a service would rather trust what was compiled in.
inline PlanRecord record_of(const PlanFacts& facts) {
  PlanRecord record{std::string(facts.backend), std::string(facts.version), std::string(facts.sm), std::nullopt, std::string(facts.precision),
                    facts.batch, std::string(facts.compat), facts.version_compatible, facts.stripped, {}, {}};
  if (!facts.gpu_name.empty()) record.gpu_name = std::string(facts.gpu_name);
  for (const std::string_view plugin : facts.plugins) record.plugins.emplace_back(plugin);
  for (const PlanFile& file : facts.files) {
    record.files.push_back({std::string(file.name), std::string(file.sha256), file.size_bytes, std::string(file.graph), std::string(file.graph_sha256)});
  }
  return record;
}

// Refuse what is no plan, and a plan that is not the one that was written. `file` may be nullptr: then the content alone is looked at.
inline void check_content(const std::string& path, std::string_view data, const PlanEntry* file) {
  using namespace std::string_view_literals;
  struct Signature {
    std::string_view start, what, hint;
  };
  static constexpr Signature signatures[] = {
      {"version https://git-lfs"sv, "is a Git LFS pointer, not the plan itself"sv, "run: git lfs pull"sv},
      {"\x1f\x8b"sv, "is a gzip archive"sv, "unpack it first"sv},
      {"PK\x03\x04"sv, "is a zip archive"sv, "unpack it first"sv},
      {"\x28\xb5\x2f\xfd"sv, "is a zstd archive"sv, "unpack it first"sv},
      {"<!DOCTYPE"sv, "is a web page, perhaps of a failed download"sv, "download the plan again"sv},
      {"<html"sv, "is a web page, perhaps of a failed download"sv, "download the plan again"sv},
  };
  const std::string copy = "copy it again, in binary mode";
  if (data.empty()) throw Error(path + " is empty (0 bytes), expected a plan", copy);
  for (const Signature& known : signatures) {
    if (detail::starts_with(data, known.start)) throw Error(path + " " + std::string(known.what), std::string(known.hint));
  }
  // ModelProto begins with ir_version (field 1, varint), then a producer name, a domain, opset or graph (length-delimited fields).
  if (data.size() >= 3 && data[0] == '\x08' && data[1] >= 1 && data[1] <= 0x20 && "\x12\x1a\x22\x3a\x42"sv.find(data[2]) != std::string_view::npos) {
    throw Error(path + " is an ONNX graph, expected a plan", "build a plan from it with: deploykit build BUNDLE");
  }
  if (file != nullptr) {
    if (data.size() != file->size_bytes || sha256_of(data) != file->sha256) throw Error(detail::difference(path, data, *file), copy);
  } else if (!detail::starts_with(data, "ftrt"sv) && !detail::starts_with(data, "vtrt"sv)) {  // TensorRT's and TensorRT-RTX's
    std::string seen;
    for (const char c : data.substr(0, 4)) {
      const auto byte = static_cast<unsigned char>(c);
      seen += seen.empty() ? "" : " ";
      seen += "0123456789abcdef"[byte >> 4];
      seen += "0123456789abcdef"[byte & 15];
    }
    throw Error(path + " is not a plan: it begins with " + seen + ", plans begin with 'ftrt' or 'vtrt'", copy);
  }
}

// Refuse a plan that was made for something else than what is here. Throws Error with both sides.
inline void check_fit(const std::string& path, const PlanRecord& record, const Here& here) {
  const auto& [min, opt, max] = record.batch;
  const std::string batch = std::to_string(min) + ":" + std::to_string(opt) + ":" + std::to_string(max);
  const std::string rebuild = "rebuild here: deploykit build BUNDLE --backend " + here.backend + " --precision " + record.precision + " --batch " + batch;
  if (record.backend != here.backend) {
    throw Error(path + " was built by " + record.backend + " " + record.version + "; " + here.backend + " " + here.version + " is to load it", rebuild);
  }
  if (!detail::version_fits(record, here.version)) {
    throw Error(path + " was built with " + here.backend + " " + record.version + "; here is " + here.version, rebuild);
  }
  if (!here.gpu) {
    throw Error(path + " was built for " + record.sm + "; this machine has no NVIDIA GPU that the CUDA driver can use",
                "run the graph on the CPU instead: deploykit predict BUNDLE --provider cpu");
  }
  if (!detail::gpu_fits(record, *here.gpu)) {
    const std::string made = record.sm + (record.gpu_name ? " (" + *record.gpu_name + ")" : "");
    const std::string compat = record.compat == "none" ? "" : ", --compat " + record.compat;
    throw Error(path + " was built for " + made + compat + "; the selected GPU is " + here.gpu->name + ", " + here.gpu->sm, rebuild);
  }
  std::vector<std::string> missing;
  for (const std::string& name : record.plugins) {
    if (std::find(here.plugins.begin(), here.plugins.end(), name) == here.plugins.end()) missing.push_back(name);
  }
  if (!missing.empty()) {
    throw Error(path + " needs the plugin " + (missing.size() > 1 ? "libraries " : "library ") + detail::joined(missing, "") + "; " +
                    detail::joined(here.plugins, "none") + " loaded",
                "give it with --plugin");
  }
}

// A plan's bytes, after every check that needs no TensorRT. With `record` those facts are held against the file; otherwise those of the
// plan.json beside it; without one the file itself is looked at, and nothing is known of its GPU.
inline std::string read_plan(const std::string& path, const Here& here, const PlanRecord* record = nullptr) {
  std::string data = read_file(path, "build it with: deploykit build");
  std::optional<PlanRecord> beside;
  if (record == nullptr) {
    beside = read_plan_record(detail::folder_of(path));
    record = beside ? &*beside : nullptr;
  }
  const PlanEntry* entry = record == nullptr ? nullptr : record->find(detail::file_name(path));
  check_content(path, data, entry);
  if (record == nullptr) return data;
  if (entry == nullptr) {
    std::vector<std::string> names;
    for (const PlanEntry& file : record->files) names.push_back(file.name);
    throw Error(detail::inside(detail::folder_of(path), plan_record_name) + " says nothing of " + detail::file_name(path) + "; it describes " +
                detail::joined(names, "no plan"));
  }
  check_fit(path, *record, here);
  if (record->stripped) {
    throw Error(path + " was built without its weights (--strip)", "put them in first: deploykit refit BUNDLE");
  }
  return data;
}

// Refuse a plan of another graph than the one the header was made for.
inline void check_graph(const std::string& path, const PlanRecord& record, const Graph& graph) {
  const PlanEntry* entry = record.find(detail::file_name(path));
  if (entry != nullptr && entry->graph_sha256 != graph.sha256) {
    const std::string ellipsis = "\xe2\x80\xa6";
    throw Error(path + " was built from a graph of sha256 " + entry->graph_sha256.substr(0, 12) + ellipsis + ", the header was made for " +
                    std::string(graph.sha256.substr(0, 12)) + ellipsis,
                "write the header again with: deploykit cpp BUNDLE, or build the plan from its bundle");
  }
}

// Refuse a manifest that is not the one the header was made from: tensors, image spec or labels may be others.
inline void check_manifest(const std::string& path, const Model& model) {
  const std::string digest = sha256_of(read_file(path, "copy the whole folder again"));
  if (digest != model.manifest_sha256) {
    const std::string ellipsis = "\xe2\x80\xa6";
    throw Error(path + " has sha256 " + digest.substr(0, 12) + ellipsis + ", the header was made from " +
                    std::string(model.manifest_sha256.substr(0, 12)) + ellipsis,
                "write the header again with: deploykit cpp BUNDLE --force");
  }
}

}  // namespace deploykit

#endif

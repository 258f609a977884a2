// plan.json: what the plans of a folder were built for.
//
// It is read as it is instead of from a flat twin: a plan that was rebuilt on the machine it runs on (deploykit build) comes with a
// new plan.json, and a service takes both without being compiled again. Fields that this reader does not know are refused, because
// one of them may say where the plan must not run; what a plan turned out to be (layers, seconds) is left unread.
#ifndef DEPLOYKIT_PLAN_RECORD_H
#define DEPLOYKIT_PLAN_RECORD_H

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "deploykit/error.h"
#include "deploykit/file.h"
#include "deploykit/json.h"
#include "deploykit/model.h"

namespace deploykit {

inline constexpr std::string_view plan_record_name = "plan.json";
inline constexpr int plan_schema_version = 1;

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

namespace detail {

inline bool starts_with(std::string_view text, std::string_view start) noexcept {
  return text.substr(0, start.size()) == start;
}

inline std::string file_name(const std::string& path) {
  return path.substr(path.find_last_of('/') + 1);
}

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
    const auto is_allowed = [&](char c) {
      return parts == 0 ? std::isdigit(static_cast<unsigned char>(c)) : std::isalnum(static_cast<unsigned char>(c));
    };
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
  fields.allow_only({"schema_version", "backend", "version", "sm", "gpu", "precision", "batch", "files", "compat",
                     "version_compatible", "stripped", "workspace_bytes", "optimization_level", "tf32", "plugins", "sides"});
  if (const Json* sides = json.find("sides"); sides != nullptr && sides->kind != Json::Kind::null) {
    fields.fail("is of graphs that resize photos themselves, which the runner does not feed");
  }
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
  if (record.precision != "fp32" && record.precision != "fp16" && record.precision != "int8")
    fields.fail("has precision " + record.precision);
  if (!is_sm(record.sm)) fields.fail("has sm " + record.sm + ", expected such as sm86");
  if (!is_version(record.version)) fields.fail("has version " + record.version + ", expected such as 11.4.0.106");
  if (record.compat != "none" && record.compat != "same-cc" && record.compat != "ampere+")
    fields.fail("has compat " + record.compat);
  return record;
}

}  // namespace detail

// Read plan.json; `path` is for the messages. Throws Error: not JSON, of another schema version, or with fields missing, unknown or
// wrong.
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
  PlanRecord record{std::string(facts.backend),
                    std::string(facts.version),
                    std::string(facts.sm),
                    std::nullopt,
                    std::string(facts.precision),
                    facts.batch,
                    std::string(facts.compat),
                    facts.version_compatible,
                    facts.stripped,
                    {},
                    {}};
  if (!facts.gpu_name.empty()) record.gpu_name = std::string(facts.gpu_name);
  for (const std::string_view plugin : facts.plugins) record.plugins.emplace_back(plugin);
  for (const PlanFile& file : facts.files) {
    record.files.push_back({std::string(file.name), std::string(file.sha256), file.size_bytes, std::string(file.graph),
                            std::string(file.graph_sha256)});
  }
  return record;
}

}  // namespace deploykit

#endif

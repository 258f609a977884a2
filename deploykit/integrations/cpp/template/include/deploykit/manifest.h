// Refusing a plan where it does not belong, before TensorRT sees it; and a manifest that the generated header was not made from.
// The refusals are deploykit's own, in the same words.
#ifndef DEPLOYKIT_MANIFEST_H
#define DEPLOYKIT_MANIFEST_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "deploykit/error.h"
#include "deploykit/file.h"
#include "deploykit/model.h"
#include "deploykit/plan_record.h"
#include "deploykit/sha256.h"

namespace deploykit {

// A GPU as the driver describes it: "NVIDIA A10", "sm86".
struct Gpu {
  std::string name;
  std::string sm;
};

// What is about to load a plan. gpu is the selected device; nothing where the CUDA driver finds none.
struct Here {
  std::string backend;
  std::string version;
  std::optional<Gpu> gpu;
  std::vector<std::string> plugins{};
};

namespace detail {

inline constexpr const char* ellipsis = "\xe2\x80\xa6";

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
  const std::string size = path + " has " + with_commas(data.size()) + " bytes, " + std::string(plan_record_name) + " says " +
                           with_commas(file.size_bytes);
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
  return path + " does not match its " + std::string(plan_record_name) + ": sha256 " + sha256_of(data).substr(0, 12) +
         detail::ellipsis + ", expected " + file.sha256.substr(0, 12) + detail::ellipsis;
}

// What a plan's first 28 bytes tell: the product, its version at 24, and, of TensorRT-RTX's plans, their length at 16.
// https://github.com/NVIDIA/TensorRT/issues/3073#issuecomment-1599934548; the length was found by trying, with TensorRT-RTX 1.7.
struct PlanHeader {
  std::string backend;
  std::string version;
  std::optional<std::uint64_t> size_bytes;
};

// Nothing where the bytes do not begin as a plan does, or end before the header.
inline std::optional<PlanHeader> read_plan_header(std::string_view data) {
  constexpr std::size_t length_at = 16, version_at = 24, end = 28;
  const bool is_rtx = starts_with(data, "vtrt");
  if ((!is_rtx && !starts_with(data, "ftrt")) || data.size() < end) return std::nullopt;
  PlanHeader header{is_rtx ? "tensorrt-rtx" : "tensorrt", {}, std::nullopt};
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(data[at]); };
  for (std::size_t at = version_at; at < end; ++at) header.version += (at > version_at ? "." : "") + std::to_string(byte(at));
  std::uint64_t length = 0;
  for (std::size_t at = length_at + 8; at-- > length_at;) length = length << 8 | byte(at);
  if (is_rtx) header.size_bytes = length;
  return header;
}

// A plan without a record: its header's product and version; a later minor may load it, if it was built to be compatible.
inline void check_header(const std::string& path, std::string_view data, const std::string& backend, const std::string& version) {
  const std::string again = "build it again with: deploykit build";
  const std::optional<PlanHeader> header = read_plan_header(data);
  if (!header || header->backend != backend) {
    const std::string made = header ? header->backend + " " + header->version : "something else";
    throw Error(path + " was built by " + made + "; " + backend + " " + version + " is to load it", again);
  }
  const auto built = major_minor(header->version), here = major_minor(version);
  if (built.first != here.first || built.second > here.second) {
    throw Error(path + " was built with " + backend + " " + header->version + "; here is " + version, again);
  }
}

}  // namespace detail

// Refuse what is no plan, and a plan that is not the one that was written. `file` may be nullptr: then the content alone is looked
// at.
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
  if (data.size() >= 3 && data[0] == '\x08' && data[1] >= 1 && data[1] <= 0x20 &&
      "\x12\x1a\x22\x3a\x42"sv.find(data[2]) != std::string_view::npos) {
    throw Error(path + " is an ONNX graph, expected a plan", "build a plan from it with: deploykit build BUNDLE");
  }
  if (file != nullptr) {
    if (data.size() != file->size_bytes || sha256_of(data) != file->sha256)
      throw Error(detail::difference(path, data, *file), copy);
    return;
  }
  const std::optional<detail::PlanHeader> header = detail::read_plan_header(data);
  if (!header) {
    std::string seen;
    for (const char c : data.substr(0, 4)) {
      const auto byte = static_cast<unsigned char>(c);
      seen += seen.empty() ? "" : " ";
      seen += "0123456789abcdef"[byte >> 4];
      seen += "0123456789abcdef"[byte & 15];
    }
    throw Error(path + " is not a plan: it begins with " + seen + ", plans begin with 'ftrt' or 'vtrt'", copy);
  }
  if (header->size_bytes && *header->size_bytes != data.size()) {
    const std::string what = data.size() < *header->size_bytes ? "it is cut short" : "something was added to it";
    throw Error(path + " has " + detail::with_commas(data.size()) + " bytes, its header says " +
                    detail::with_commas(*header->size_bytes) + ": " + what,
                copy);
  }
}

// Refuse a plan that was made for something else than what is here. Throws Error with both sides.
inline void check_fit(const std::string& path, const PlanRecord& record, const Here& here) {
  const auto& [min, opt, max] = record.batch;
  const std::string batch = std::to_string(min) + ":" + std::to_string(opt) + ":" + std::to_string(max);
  const std::string rebuild =
      "rebuild here: deploykit build BUNDLE --backend " + here.backend + " --precision " + record.precision + " --batch " + batch;
  if (record.backend != here.backend) {
    throw Error(path + " was built by " + record.backend + " " + record.version + "; " + here.backend + " " + here.version +
                    " is to load it",
                rebuild);
  }
  if (!detail::version_fits(record, here.version)) {
    throw Error(path + " was built with " + here.backend + " " + record.version + "; here is " + here.version, rebuild);
  }
  if (!here.gpu) {
    throw Error(path + " was built for " + record.sm + "; this machine has no NVIDIA GPU that the CUDA driver can use",
                "run the graph on the CPU instead: --backend onnxruntime --provider cpu");
  }
  if (!detail::gpu_fits(record, *here.gpu)) {
    const std::string made = record.sm + (record.gpu_name ? " (" + *record.gpu_name + ")" : "");
    const std::string compat = record.compat == "none" ? "" : ", --compat " + record.compat;
    throw Error(path + " was built for " + made + compat + "; the selected GPU is " + here.gpu->name + ", " + here.gpu->sm,
                rebuild);
  }
  std::vector<std::string> missing;
  for (const std::string& name : record.plugins) {
    if (std::find(here.plugins.begin(), here.plugins.end(), name) == here.plugins.end()) missing.push_back(name);
  }
  if (!missing.empty()) {
    throw Error(path + " needs the plugin " + (missing.size() > 1 ? "libraries " : "library ") + detail::joined(missing, "") +
                    "; " + detail::joined(here.plugins, "none") + " loaded",
                "give it with --plugin");
  }
}

// A plan's bytes, after every check that needs no TensorRT. With `record` those facts are held against the file; otherwise those of
// the plan.json beside it; without one its own header is looked at, and nothing is known of its GPU.
inline std::string read_plan(const std::string& path, const Here& here, const PlanRecord* record = nullptr) {
  std::string data = read_file(path, "build it with: deploykit build");
  std::optional<PlanRecord> beside;
  if (record == nullptr) {
    beside = read_plan_record(detail::folder_of(path));
    record = beside ? &*beside : nullptr;
  }
  const PlanEntry* entry = record == nullptr ? nullptr : record->find(detail::file_name(path));
  check_content(path, data, entry);
  if (record == nullptr) {
    detail::check_header(path, data, here.backend, here.version);
    return data;
  }
  if (entry == nullptr) {
    std::vector<std::string> names;
    for (const PlanEntry& file : record->files) names.push_back(file.name);
    throw Error(detail::inside(detail::folder_of(path), plan_record_name) + " says nothing of " + detail::file_name(path) +
                "; it describes " + detail::joined(names, "no plan"));
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
    throw Error(path + " was built from a graph of sha256 " + entry->graph_sha256.substr(0, 12) + detail::ellipsis +
                    ", the header was made for " + std::string(graph.sha256.substr(0, 12)) + detail::ellipsis,
                "write the header again with: deploykit cpp BUNDLE, or build the plan from its bundle");
  }
}

// Refuse a manifest that is not the one the header was made from: tensors, image spec or labels may be others.
inline void check_manifest(const std::string& path, const Model& model) {
  const std::string digest = sha256_of(read_file(path, "copy the whole folder again"));
  if (digest != model.manifest_sha256) {
    throw Error(path + " has sha256 " + digest.substr(0, 12) + detail::ellipsis + ", the header was made from " +
                    std::string(model.manifest_sha256.substr(0, 12)) + detail::ellipsis,
                "write the header again with: deploykit cpp BUNDLE --force");
  }
}

}  // namespace deploykit

#endif

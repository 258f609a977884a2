#include "resize_fields.h"

#include <cstddef>
#include <cstring>

namespace deploykit {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

ResizeFields make_fields(const ResizeSpec& spec) {
  static_assert(sizeof(Filter) == sizeof(std::int32_t), "the filter is passed as an int32");
  return {PluginField{"height", &spec.height, PluginFieldType::kINT32, 1},
          PluginField{"width", &spec.width, PluginFieldType::kINT32, 1},
          PluginField{"resize_size", &spec.resize_size, PluginFieldType::kINT32, 1},
          PluginField{"cubic", &spec.filter, PluginFieldType::kINT32, 1},
          PluginField{"channels", spec.channels, PluginFieldType::kINT32, 3},
          PluginField{"scale", spec.scale, PluginFieldType::kFLOAT32, 3},
          PluginField{"bias", spec.bias, PluginFieldType::kFLOAT32, 3}};
}

namespace {

const PluginField* find_field(const nvinfer1::PluginFieldCollection& fields, const char* name) {
  for (std::int32_t i = 0; i < fields.nbFields; ++i) {
    if (std::strcmp(fields.fields[i].name, name) == 0) return &fields.fields[i];
  }
  return nullptr;
}

}  // namespace

std::string read_fields(const nvinfer1::PluginFieldCollection* given, ResizeSpec& spec) {
  if (given == nullptr) return "no attributes are given";
  ResizeSpec read;
  const ResizeFields wanted_fields = make_fields(read);
  for (const PluginField& wanted : wanted_fields) {
    const std::string name = wanted.name;
    const PluginField* field = find_field(*given, wanted.name);
    if (field == nullptr || field->data == nullptr) return "attribute " + name + " is missing";
    if (field->type != wanted.type) {
      return "attribute " + name + " is not of type " + (wanted.type == PluginFieldType::kINT32 ? "int" : "float");
    }
    if (field->length != wanted.length) {
      return "attribute " + name + " has " + std::to_string(field->length) + " values, expected " + std::to_string(wanted.length);
    }
    // The fields of `read` point into it, and it is not constant.
    std::memcpy(const_cast<void*>(wanted.data), field->data, sizeof(std::int32_t) * field->length);
  }
  if (const char* error = spec_error(read)) return error;
  spec = read;
  return {};
}

}  // namespace deploykit

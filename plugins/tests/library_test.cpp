// The plugin library as TensorRT sees it: found by its two symbols, asked what it has, given attributes, copied into a plan and
// back.
//
// Runs wherever TensorRT's headers are: neither a GPU nor TensorRT's libraries are needed, since TensorRT's side is played here.
#include <NvInfer.h>
#include <dlfcn.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check.h"

namespace {

using namespace nvinfer1;

struct Logger : ILogger {
  std::string last;
  void log(Severity, AsciiChar const* text) noexcept override { last = text; }
};

struct LoggerFinder : ILoggerFinder {
  ILogger* logger = nullptr;
  ILogger* findLogger() override { return logger; }
};

// A dimension as the parser hands it over; TensorRT's classes are shells round an implementation that is set here.
struct Dimension : IDimensionExpr {
  struct Value : apiv::VDimensionExpr {
    std::int64_t value = 0;
    bool isConstant() const override { return true; }
    std::int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
  };
  explicit Dimension(std::int64_t size) { implementation.value = size, mImpl = &implementation; }
  Value implementation;
};

struct Builder : IExprBuilder {
  struct Maker : apiv::VExprBuilder {
    std::vector<std::unique_ptr<Dimension>> made;
    IDimensionExpr const* constant(std::int64_t value) override {
      made.push_back(std::make_unique<Dimension>(value));
      return made.back().get();
    }
    IDimensionExpr const* operation(DimensionOperation, IDimensionExpr const&, IDimensionExpr const&) override { return nullptr; }
    IDimensionExpr const* declareSizeTensor(std::int32_t, IDimensionExpr const&, IDimensionExpr const&) override { return nullptr; }
  };
  Builder() { mImpl = &maker; }
  Maker maker;
};

IPluginV3OneCore& core_of(IPluginV3& plugin) {
  return *static_cast<IPluginV3OneCore*>(plugin.getCapabilityInterface(PluginCapabilityType::kCORE));
}
IPluginV3OneBuild& build_of(IPluginV3& plugin) {
  return *static_cast<IPluginV3OneBuild*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}
IPluginV3OneRuntime& runtime_of(IPluginV3& plugin) {
  return *static_cast<IPluginV3OneRuntime*>(plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

Dims dims_of(const std::vector<std::int64_t>& sizes) {
  Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) dims.d[i] = sizes[i];
  return dims;
}

PluginTensorDesc tensor_of(DataType type, const std::vector<std::int64_t>& sizes, TensorFormat format = TensorFormat::kLINEAR) {
  PluginTensorDesc tensor{};
  tensor.dims = dims_of(sizes), tensor.type = type, tensor.format = format;
  return tensor;
}

DynamicPluginTensorDesc profile_of(DataType type, const std::vector<std::int64_t>& most,
                                   TensorFormat format = TensorFormat::kLINEAR) {
  DynamicPluginTensorDesc tensor{};
  tensor.desc = tensor_of(type, most, format);
  tensor.min = tensor.max = tensor.opt = tensor.desc.dims;
  return tensor;
}

std::vector<std::int64_t> output_shape(IPluginV3& plugin, const std::vector<std::vector<std::int64_t>>& inputs) {
  std::vector<std::unique_ptr<Dimension>> made;
  std::vector<DimsExprs> shapes;
  for (const auto& sizes : inputs) {
    DimsExprs shape{};
    shape.nbDims = static_cast<std::int32_t>(sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      made.push_back(std::make_unique<Dimension>(sizes[i]));
      shape.d[i] = made.back().get();
    }
    shapes.push_back(shape);
  }
  Builder builder;
  DimsExprs output{};
  const auto count = static_cast<std::int32_t>(shapes.size());
  if (build_of(plugin).getOutputShapes(shapes.data(), count, nullptr, 0, &output, 1, builder) != 0) return {};
  std::vector<std::int64_t> sizes;
  for (std::int32_t i = 0; i < output.nbDims; ++i) sizes.push_back(output.d[i]->getConstantValue());
  return sizes;
}

// The attributes of a node, as the parser makes fields of them.
struct Attributes {
  std::int32_t height = 224, width = 192, resize_size = 256, cubic = 1, channels[3] = {2, 1, 0};
  float scale[3] = {0.5f, 0.25f, 2.0f}, bias[3] = {-1.0f, 0.0f, 3.0f};
  std::vector<PluginField> fields{{"bias", bias, PluginFieldType::kFLOAT32, 3},
                                  {"scale", scale, PluginFieldType::kFLOAT32, 3},
                                  {"channels", channels, PluginFieldType::kINT32, 3},
                                  {"cubic", &cubic, PluginFieldType::kINT32, 1},
                                  {"resize_size", &resize_size, PluginFieldType::kINT32, 1},
                                  {"width", &width, PluginFieldType::kINT32, 1},
                                  {"height", &height, PluginFieldType::kINT32, 1}};
};

std::unique_ptr<IPluginV3> make(IPluginCreatorV3One& creator, const std::vector<PluginField>& fields, TensorRTPhase phase) {
  const PluginFieldCollection collection{static_cast<std::int32_t>(fields.size()), fields.data()};
  return std::unique_ptr<IPluginV3>(creator.createPlugin("node", &collection, phase));
}

void a_creator_answers_to_its_operator(IPluginCreatorV3One& creator, const char* name) {
  CHECK(std::strcmp(creator.getPluginName(), name) == 0);
  CHECK(std::strcmp(creator.getPluginVersion(), "1") == 0);
  CHECK(std::strcmp(creator.getPluginNamespace(), "") == 0);
}

void a_plugin_has_all_three_sides(IPluginV3& plugin, const char* name) {
  CHECK(std::strcmp(core_of(plugin).getPluginName(), name) == 0);
  CHECK(std::strcmp(core_of(plugin).getPluginVersion(), "1") == 0);
  CHECK(build_of(plugin).getNbOutputs() == 1);
  DataType type = DataType::kHALF;
  CHECK(build_of(plugin).getOutputDataTypes(&type, 1, nullptr, 0) == 0 && type == DataType::kFLOAT);
}

void attributes_survive_a_plan_and_a_copy(IPluginCreatorV3One& creator) {
  const Attributes given;
  auto plugin = make(creator, given.fields, TensorRTPhase::kBUILD);
  CHECK(plugin != nullptr);
  if (plugin == nullptr) return;
  a_plugin_has_all_three_sides(*plugin, "ResizeNormalize");
  std::unique_ptr<IPluginV3> copy(plugin->clone());
  plugin.reset();  // the copy's fields may not point into the original
  PluginFieldCollection const* stored = runtime_of(*copy).getFieldsToSerialize();
  CHECK(stored->nbFields == 7);
  for (std::int32_t i = 0; i < stored->nbFields; ++i) {
    bool is_found = false;
    for (const PluginField& field : given.fields) {
      if (std::strcmp(field.name, stored->fields[i].name) != 0) continue;
      is_found = true;
      CHECK(field.type == stored->fields[i].type && field.length == stored->fields[i].length);
      CHECK(std::memcmp(field.data, stored->fields[i].data, 4 * field.length) == 0);
    }
    CHECK(is_found);
  }
  std::unique_ptr<IPluginV3> loaded(creator.createPlugin("node", stored, TensorRTPhase::kRUNTIME));
  CHECK(loaded != nullptr && (output_shape(*loaded, {{1, 480, 640, 3}}) == std::vector<std::int64_t>{1, 3, 224, 192}));
  std::unique_ptr<IPluginV3> attached(runtime_of(*loaded).attachToContext(nullptr));
  CHECK(attached != nullptr && attached != loaded);
}

void a_wrong_attribute_is_named(IPluginCreatorV3One& creator, const Logger& logger) {
  const auto is_refused_for = [&](const std::vector<PluginField>& fields, const char* reason) {
    CHECK(make(creator, fields, TensorRTPhase::kBUILD) == nullptr);
    CHECK(logger.last.find(reason) != std::string::npos);
  };
  Attributes missing;
  missing.fields.pop_back();
  is_refused_for(missing.fields, "attribute height is missing");
  Attributes short_scale;
  short_scale.fields[1].length = 1;
  is_refused_for(short_scale.fields, "attribute scale has 1 values, expected 3");
  Attributes float_width;
  float_width.fields[5].type = PluginFieldType::kFLOAT32;
  is_refused_for(float_width.fields, "attribute width is not of type int");
  Attributes small;
  small.resize_size = 200;
  is_refused_for(small.fields, "resize_size is smaller than the crop");
  CHECK(creator.createPlugin("node", nullptr, TensorRTPhase::kBUILD) == nullptr);
}

void a_resize_takes_pixels_only(IPluginCreatorV3One& creator, const Logger& logger) {
  auto plugin = make(creator, Attributes().fields, TensorRTPhase::kBUILD);
  IPluginV3OneBuild& build = build_of(*plugin);
  const auto result = profile_of(DataType::kFLOAT, {1, 3, 224, 192});
  const auto is_taken = [&](DataType type, TensorFormat format) {
    const DynamicPluginTensorDesc tensors[] = {profile_of(type, {1, 480, 640, 3}, format), result};
    return build.supportsFormatCombination(0, tensors, 1, 1) && build.supportsFormatCombination(1, tensors, 1, 1);
  };
  CHECK(is_taken(DataType::kUINT8, TensorFormat::kLINEAR));
  CHECK(!is_taken(DataType::kFLOAT, TensorFormat::kLINEAR));
  CHECK(!is_taken(DataType::kUINT8, TensorFormat::kHWC));
  CHECK(output_shape(*plugin, {{1, 480, 640, 3, 1}}).empty());
  for (const auto& sizes :
       std::vector<std::vector<std::int64_t>>{{2, 480, 640, 3}, {1, 480, 640, 4}, {1, 480, 70000, 3}, {480, 640, 3}}) {
    const auto profile = profile_of(DataType::kUINT8, sizes);
    CHECK(build.configurePlugin(&profile, 1, &result, 1) != 0);
    CHECK(logger.last.find("ResizeNormalize: the image is [") != std::string::npos);
    CHECK(runtime_of(*plugin).onShapeChange(&profile.desc, 1, &result.desc, 1) != 0);
  }
  const auto profile = profile_of(DataType::kUINT8, {1, 480, 640, 3});
  CHECK(build.configurePlugin(&profile, 1, &result, 1) == 0);
  CHECK(runtime_of(*plugin).onShapeChange(&profile.desc, 1, &result.desc, 1) == 0);
  const auto larger = profile_of(DataType::kUINT8, {1, 4096, 4096, 3});
  CHECK(build.getWorkspaceSize(&larger, 1, &result, 1) > build.getWorkspaceSize(&profile, 1, &result, 1));
}

void a_cam_takes_equal_shapes_only(IPluginCreatorV3One& creator, const Logger& logger) {
  auto plugin = make(creator, {}, TensorRTPhase::kBUILD);
  a_plugin_has_all_three_sides(*plugin, "GradCam");
  CHECK((output_shape(*plugin, {{8, 512, 7, 9}, {8, 512, 7, 9}}) == std::vector<std::int64_t>{8, 7, 9}));
  CHECK(output_shape(*plugin, {{8, 512, 7}, {8, 512, 7}}).empty());
  CHECK(output_shape(*plugin, {{8, 512, 7, 9}}).empty());
  IPluginV3OneBuild& build = build_of(*plugin);
  const auto maps = profile_of(DataType::kFLOAT, {8, 512, 7, 9}), halves = profile_of(DataType::kHALF, {8, 512, 7, 9});
  const auto cam = profile_of(DataType::kFLOAT, {8, 7, 9});
  const DynamicPluginTensorDesc same[] = {maps, maps, cam}, mixed[] = {maps, halves, cam};
  for (std::int32_t i = 0; i < 3; ++i) CHECK(build.supportsFormatCombination(i, same, 2, 1));
  CHECK(!build.supportsFormatCombination(1, mixed, 2, 1));
  CHECK(build.configurePlugin(same, 2, &cam, 1) == 0);
  CHECK(build.getWorkspaceSize(same, 2, &cam, 1) == 8 * 512 * sizeof(float));
  const PluginTensorDesc other[] = {maps.desc, tensor_of(DataType::kFLOAT, {8, 512, 9, 7})};
  CHECK(runtime_of(*plugin).onShapeChange(other, 2, &cam.desc, 1) != 0);
  CHECK(logger.last.find("activations are [8, 512, 7, 9], gradients [8, 512, 9, 7]") != std::string::npos);
  const auto many = profile_of(DataType::kFLOAT, {65536, 1, 1, 1});
  const DynamicPluginTensorDesc too_many[] = {many, many};
  CHECK(build.configurePlugin(too_many, 2, &cam, 1) != 0);
  CHECK(runtime_of(*plugin).getFieldsToSerialize()->nbFields == 0);
}

}  // namespace

int main(int count, char** arguments) {
  void* library = count == 2 ? dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (library == nullptr) {
    std::fprintf(stderr, "usage: library_test PLUGIN_LIBRARY (%s)\n", count == 2 ? dlerror() : "no library is named");
    return 2;
  }
  const auto set_logger_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
  const auto get_creators = reinterpret_cast<IPluginCreatorInterface* const* (*)(std::int32_t&)>(dlsym(library, "getCreators"));
  CHECK(set_logger_finder != nullptr && get_creators != nullptr);
  if (failures > 0) return 1;
  Logger logger;
  LoggerFinder finder;
  finder.logger = &logger;
  set_logger_finder(&finder);
  std::int32_t creators = 0;
  IPluginCreatorInterface* const* all = get_creators(creators);
  CHECK(creators == 2);
  auto &cam = static_cast<IPluginCreatorV3One&>(*all[0]), &resize = static_cast<IPluginCreatorV3One&>(*all[1]);
  a_creator_answers_to_its_operator(cam, "GradCam");
  a_creator_answers_to_its_operator(resize, "ResizeNormalize");
  CHECK(cam.getFieldNames()->nbFields == 0 && resize.getFieldNames()->nbFields == 7);
  attributes_survive_a_plan_and_a_copy(resize);
  a_wrong_attribute_is_named(resize, logger);
  a_resize_takes_pixels_only(resize, logger);
  a_cam_takes_equal_shapes_only(cam, logger);
  set_logger_finder(nullptr);
  return failures == 0 ? 0 : 1;
}

// What our plugins have in common as TensorRT asks for it: version "1", no namespace, one float32 output, dense row-major
// tensors, nothing kept between calls.
//
// The parser finds a plugin by the node's operator type, with version "1" and an empty namespace unless the node's attributes
// plugin_version and plugin_namespace say otherwise; a graph's domain plays no part. Since TensorRT 10.7 it prefers a
// registered plugin to a model-local function of that name (TensorRT, CHANGELOG.md, 10.7.0).
#ifndef DEPLOYKIT_ONE_OUTPUT_PLUGIN_H
#define DEPLOYKIT_ONE_OUTPUT_PLUGIN_H

#include <NvInfer.h>

#include <string>

#include "log.h"

namespace deploykit {

// One instance may belong to several contexts at a time: a subclass has constant members only, and all of a call's memory comes
// from TensorRT.
class OneOutputPlugin : public nvinfer1::IPluginV3,
                        public nvinfer1::IPluginV3OneCore,
                        public nvinfer1::IPluginV3OneBuild,
                        public nvinfer1::IPluginV3OneRuntime {
 public:
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return "1"; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return ""; }
  std::int32_t getNbOutputs() const noexcept override { return 1; }
  std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t, nvinfer1::DataType const*,
                                  std::int32_t) const noexcept override {
    outputs[0] = nvinfer1::DataType::kFLOAT;
    return 0;
  }
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

 protected:
  // Says what is wrong in TensorRT's log and gives the status that TensorRT takes for a failure.
  std::int32_t refuse(const std::string& what) const noexcept {
    log_error(std::string("deploykit.") + getPluginName() + ": " + what);
    return -1;
  }
};

inline bool is_dense(const nvinfer1::DynamicPluginTensorDesc& tensor, nvinfer1::DataType type) {
  return tensor.desc.type == type && tensor.desc.format == nvinfer1::TensorFormat::kLINEAR;
}

inline std::string describe(const nvinfer1::Dims& dims) {
  std::string text = "[";
  for (std::int32_t i = 0; i < dims.nbDims; ++i) text += (i > 0 ? ", " : "") + std::to_string(dims.d[i]);
  return text + "]";
}

}  // namespace deploykit

#endif

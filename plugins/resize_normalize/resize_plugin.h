// The operator deploykit.ResizeNormalize for TensorRT.
//
// In: image uint8 [1, H, W, 3], H and W up to 65535 and dynamic or not. Out: float32 [1, 3, height, width], Pillow's antialiased
// resize to the last bit, cropped and normalized. Attributes: resize_fields.h.
#ifndef DEPLOYKIT_RESIZE_PLUGIN_H
#define DEPLOYKIT_RESIZE_PLUGIN_H

#include "../one_output_plugin.h"
#include "resize_fields.h"

namespace deploykit {

class ResizeNormalizePlugin final : public OneOutputPlugin {
 public:
  explicit ResizeNormalizePlugin(const ResizeSpec& spec) : spec_(spec), fields_(make_fields(spec_)) {}
  // The fields point into the spec beside them, so a copy makes its own.
  ResizeNormalizePlugin(const ResizeNormalizePlugin& other) : ResizeNormalizePlugin(other.spec_) {}

  nvinfer1::IPluginV3* clone() noexcept override;
  nvinfer1::AsciiChar const* getPluginName() const noexcept override { return "ResizeNormalize"; }
  std::int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t input_count,
                               nvinfer1::DynamicPluginTensorDesc const* outputs, std::int32_t output_count) noexcept override;
  std::int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, std::int32_t input_count, nvinfer1::DimsExprs const*,
                               std::int32_t, nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                               nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(std::int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors, std::int32_t input_count,
                                 std::int32_t output_count) noexcept override;
  std::size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t,
                               nvinfer1::DynamicPluginTensorDesc const*, std::int32_t) const noexcept override;
  std::int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, std::int32_t, nvinfer1::PluginTensorDesc const*,
                             std::int32_t) noexcept override;
  std::int32_t enqueue(nvinfer1::PluginTensorDesc const* input_descs, nvinfer1::PluginTensorDesc const*, void const* const* inputs,
                       void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override { return &collection_; }

 private:
  const ResizeSpec spec_;
  const ResizeFields fields_;
  const nvinfer1::PluginFieldCollection collection_{static_cast<std::int32_t>(fields_.size()), fields_.data()};
};

class ResizeNormalizeCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  ResizeNormalizeCreator();
  nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const*, nvinfer1::PluginFieldCollection const* fields,
                                    nvinfer1::TensorRTPhase) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }
  nvinfer1::AsciiChar const* getPluginName() const noexcept override { return "ResizeNormalize"; }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return "1"; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return ""; }

 private:
  ResizeFields names_;  // without data: only names, types and lengths
  const nvinfer1::PluginFieldCollection collection_{static_cast<std::int32_t>(names_.size()), names_.data()};
};

}  // namespace deploykit

#endif

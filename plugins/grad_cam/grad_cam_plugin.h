// The operator deploykit.GradCam for TensorRT.
//
// In: activations and gradients, float32 [N, C, h, w]. Out: cam float32 [N, h, w] = relu(sum over C of mean(gradients) *
// activations). Any of the dimensions may be dynamic. No attributes.
#ifndef DEPLOYKIT_GRAD_CAM_PLUGIN_H
#define DEPLOYKIT_GRAD_CAM_PLUGIN_H

#include "../one_output_plugin.h"

namespace deploykit {

class GradCamPlugin final : public OneOutputPlugin {
 public:
  nvinfer1::IPluginV3* clone() noexcept override;
  nvinfer1::AsciiChar const* getPluginName() const noexcept override { return "GradCam"; }
  std::int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t input_count,
                               nvinfer1::DynamicPluginTensorDesc const* outputs, std::int32_t output_count) noexcept override;
  std::int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, std::int32_t input_count, nvinfer1::DimsExprs const*,
                               std::int32_t, nvinfer1::DimsExprs* outputs, std::int32_t output_count,
                               nvinfer1::IExprBuilder&) noexcept override;
  bool supportsFormatCombination(std::int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors, std::int32_t input_count,
                                 std::int32_t output_count) noexcept override;
  std::size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t,
                               nvinfer1::DynamicPluginTensorDesc const*, std::int32_t) const noexcept override;
  std::int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, std::int32_t, nvinfer1::PluginTensorDesc const*,
                             std::int32_t) noexcept override;
  std::int32_t enqueue(nvinfer1::PluginTensorDesc const* input_descs, nvinfer1::PluginTensorDesc const*, void const* const* inputs,
                       void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;
};

class GradCamCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const*, nvinfer1::PluginFieldCollection const*,
                                    nvinfer1::TensorRTPhase) noexcept override;
  nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
  nvinfer1::AsciiChar const* getPluginName() const noexcept override { return "GradCam"; }
  nvinfer1::AsciiChar const* getPluginVersion() const noexcept override { return "1"; }
  nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override { return ""; }
};

}  // namespace deploykit

#endif

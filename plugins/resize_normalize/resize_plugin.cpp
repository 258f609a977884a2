// TensorRT's questions about ResizeNormalize, answered; the work is resize_kernels.cu's.
#include "resize_plugin.h"

#include <cuda_runtime_api.h>

#include <new>

#include "resize_kernels.h"

namespace deploykit {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3;
using nvinfer1::PluginTensorDesc;

namespace {

// What is wrong with the photo's shape [1, H, W, 3], or an empty string.
std::string shape_error(const Dims& dims, const ResizeSpec& spec) {
  const std::string seen = "the image is " + describe(dims) + ", expected [1, H, W, 3]";
  if (dims.nbDims != 4 || dims.d[0] != 1 || dims.d[3] != 3) return seen;
  if (dims.d[1] > kLongestSide || dims.d[2] > kLongestSide) return seen + " with sides up to 65535";
  const char* error = photo_error(static_cast<std::int32_t>(dims.d[1]), static_cast<std::int32_t>(dims.d[2]), spec);
  return error != nullptr ? seen + ": " + error : std::string();
}

}  // namespace

IPluginV3* ResizeNormalizePlugin::clone() noexcept { return new (std::nothrow) ResizeNormalizePlugin(*this); }

std::int32_t ResizeNormalizePlugin::configurePlugin(DynamicPluginTensorDesc const* inputs, std::int32_t input_count,
                                                    DynamicPluginTensorDesc const*, std::int32_t output_count) noexcept {
  if (input_count != 1 || output_count != 1) return refuse("expected the input image and one output");
  const std::string error = shape_error(inputs[0].max, spec_);
  return error.empty() ? 0 : refuse(error);
}

std::int32_t ResizeNormalizePlugin::getOutputShapes(DimsExprs const* inputs, std::int32_t input_count, DimsExprs const*,
                                                    std::int32_t, DimsExprs* outputs, std::int32_t output_count,
                                                    nvinfer1::IExprBuilder& builder) noexcept {
  if (input_count != 1 || output_count != 1 || inputs[0].nbDims != 4) return refuse("expected one image of shape [1, H, W, 3]");
  outputs[0].nbDims = 4;
  outputs[0].d[0] = builder.constant(1);
  outputs[0].d[1] = builder.constant(3);
  outputs[0].d[2] = builder.constant(spec_.height);
  outputs[0].d[3] = builder.constant(spec_.width);
  return 0;
}

bool ResizeNormalizePlugin::supportsFormatCombination(std::int32_t position, DynamicPluginTensorDesc const* tensors,
                                                      std::int32_t input_count, std::int32_t output_count) noexcept {
  return input_count == 1 && output_count == 1 && is_dense(tensors[position], position == 0 ? DataType::kUINT8 : DataType::kFLOAT);
}

std::size_t ResizeNormalizePlugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, std::int32_t,
                                                    DynamicPluginTensorDesc const*, std::int32_t) const noexcept {
  const Dims& most = inputs[0].max;
  return workspace_bound(static_cast<std::int32_t>(most.d[1]), static_cast<std::int32_t>(most.d[2]), spec_);
}

std::int32_t ResizeNormalizePlugin::onShapeChange(PluginTensorDesc const* inputs, std::int32_t, PluginTensorDesc const*,
                                                  std::int32_t) noexcept {
  const std::string error = shape_error(inputs[0].dims, spec_);
  return error.empty() ? 0 : refuse(error);
}

std::int32_t ResizeNormalizePlugin::enqueue(PluginTensorDesc const* input_descs, PluginTensorDesc const*, void const* const* inputs,
                                            void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  const Dims& image = input_descs[0].dims;
  const cudaError_t status =
      launch_resize_normalize(static_cast<const std::uint8_t*>(inputs[0]), static_cast<std::int32_t>(image.d[1]),
                              static_cast<std::int32_t>(image.d[2]), spec_, workspace, static_cast<float*>(outputs[0]), stream);
  return status == cudaSuccess ? 0 : refuse(std::string("CUDA: ") + cudaGetErrorString(status));
}

ResizeNormalizeCreator::ResizeNormalizeCreator() : names_(make_fields(ResizeSpec{})) {
  for (nvinfer1::PluginField& field : names_) field.data = nullptr;
}

IPluginV3* ResizeNormalizeCreator::createPlugin(nvinfer1::AsciiChar const*, nvinfer1::PluginFieldCollection const* fields,
                                                nvinfer1::TensorRTPhase) noexcept {
  ResizeSpec spec;
  const std::string error = read_fields(fields, spec);
  if (!error.empty()) {
    log_error("deploykit.ResizeNormalize: " + error);
    return nullptr;
  }
  return new (std::nothrow) ResizeNormalizePlugin(spec);
}

}  // namespace deploykit

// TensorRT's questions about GradCam, answered; the work is grad_cam_kernels.cu's.
#include "grad_cam_plugin.h"

#include <cuda_runtime_api.h>

#include <limits>
#include <new>

#include "grad_cam_kernels.h"

namespace deploykit {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginTensorDesc;

namespace {

constexpr PluginFieldCollection kNoFields{0, nullptr};
constexpr std::int32_t kMostPictures = 65535;  // the second dimension of a grid (CUDA C++ Programming Guide)

bool are_equal(const Dims& a, const Dims& b) {
  if (a.nbDims != b.nbDims) return false;
  for (std::int32_t i = 0; i < a.nbDims; ++i) {
    if (a.d[i] != b.d[i]) return false;
  }
  return true;
}

CamShape shape_of(const Dims& dims) {
  return {static_cast<std::int32_t>(dims.d[0]), static_cast<std::int32_t>(dims.d[1]),
          static_cast<std::int32_t>(dims.d[2] * dims.d[3])};
}

bool is_countable(const Dims& dims) {
  constexpr std::int64_t limit = std::numeric_limits<std::int32_t>::max();
  return dims.d[0] <= kMostPictures && dims.d[1] <= limit && dims.d[2] <= limit && dims.d[3] <= limit &&
         dims.d[2] * dims.d[3] <= limit;
}

}  // namespace

IPluginV3* GradCamPlugin::clone() noexcept { return new (std::nothrow) GradCamPlugin(*this); }

std::int32_t GradCamPlugin::configurePlugin(DynamicPluginTensorDesc const* inputs, std::int32_t input_count,
                                            DynamicPluginTensorDesc const*, std::int32_t output_count) noexcept {
  if (input_count != 2 || output_count != 1) return refuse("expected the inputs activations and gradients and one output");
  if (!are_equal(inputs[0].max, inputs[1].max)) {
    return refuse("activations are up to " + describe(inputs[0].max) + ", gradients up to " + describe(inputs[1].max) +
                  "; expected equal shapes");
  }
  return is_countable(inputs[0].max) ? 0 : refuse("activations of up to " + describe(inputs[0].max) + " are too many");
}

std::int32_t GradCamPlugin::getOutputShapes(DimsExprs const* inputs, std::int32_t input_count, DimsExprs const*, std::int32_t,
                                            DimsExprs* outputs, std::int32_t output_count, nvinfer1::IExprBuilder&) noexcept {
  if (input_count != 2 || output_count != 1 || inputs[0].nbDims != 4 || inputs[1].nbDims != 4) {
    return refuse("expected activations and gradients of shape [N, C, h, w] and one output");
  }
  outputs[0].nbDims = 3;
  outputs[0].d[0] = inputs[0].d[0];
  outputs[0].d[1] = inputs[0].d[2];
  outputs[0].d[2] = inputs[0].d[3];
  return 0;
}

bool GradCamPlugin::supportsFormatCombination(std::int32_t position, DynamicPluginTensorDesc const* tensors,
                                              std::int32_t input_count, std::int32_t output_count) noexcept {
  return input_count == 2 && output_count == 1 && is_dense(tensors[position], DataType::kFLOAT);
}

std::size_t GradCamPlugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, std::int32_t, DynamicPluginTensorDesc const*,
                                            std::int32_t) const noexcept {
  return grad_cam_workspace(shape_of(inputs[0].max));
}

std::int32_t GradCamPlugin::onShapeChange(PluginTensorDesc const* inputs, std::int32_t, PluginTensorDesc const*,
                                          std::int32_t) noexcept {
  if (are_equal(inputs[0].dims, inputs[1].dims)) return 0;
  return refuse("activations are " + describe(inputs[0].dims) + ", gradients " + describe(inputs[1].dims) +
                "; expected equal shapes");
}

std::int32_t GradCamPlugin::enqueue(PluginTensorDesc const* input_descs, PluginTensorDesc const*, void const* const* inputs,
                                    void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  const cudaError_t status = launch_grad_cam(static_cast<const float*>(inputs[0]), static_cast<const float*>(inputs[1]),
                                             shape_of(input_descs[0].dims), workspace, static_cast<float*>(outputs[0]), stream);
  return status == cudaSuccess ? 0 : refuse(std::string("CUDA: ") + cudaGetErrorString(status));
}

PluginFieldCollection const* GradCamPlugin::getFieldsToSerialize() noexcept { return &kNoFields; }

IPluginV3* GradCamCreator::createPlugin(nvinfer1::AsciiChar const*, PluginFieldCollection const*,
                                        nvinfer1::TensorRTPhase) noexcept {
  return new (std::nothrow) GradCamPlugin;
}

PluginFieldCollection const* GradCamCreator::getFieldNames() noexcept { return &kNoFields; }

}  // namespace deploykit

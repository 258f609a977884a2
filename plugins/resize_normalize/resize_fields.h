// The attributes of deploykit.ResizeNormalize as TensorRT passes them about: from the graph's node, into a plan, out of a plan.
#ifndef DEPLOYKIT_RESIZE_FIELDS_H
#define DEPLOYKIT_RESIZE_FIELDS_H

#include <NvInfer.h>

#include <array>
#include <string>

#include "resize_geometry.h"

namespace deploykit {

using ResizeFields = std::array<nvinfer1::PluginField, 7>;

// Where each attribute stands in a spec: the one list of them. ONNX's INT and INTS arrive as int32, FLOATS as float32.
ResizeFields make_fields(const ResizeSpec& spec);

// Copies every attribute into the spec. Returns what is wrong, or an empty string.
std::string read_fields(const nvinfer1::PluginFieldCollection* given, ResizeSpec& spec);

}  // namespace deploykit

#endif

// The library's two entry points, which IPluginRegistry::loadLibrary looks up (TensorRT, samples/trtexec/README.md,
// "--dynamicPlugins").
//
// Nothing registers itself when the library is loaded, and nothing here needs TensorRT's own libraries to link: the registry of
// whichever TensorRT loads the library takes the creators from getCreators.
#include <NvInfer.h>

#include <atomic>
#include <cstdio>

#include "grad_cam/grad_cam_plugin.h"
#include "log.h"
#include "resize_normalize/resize_plugin.h"

namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

namespace deploykit {

void log_error(const std::string& message) noexcept {
  nvinfer1::ILoggerFinder* finder = logger_finder.load();
  nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
  if (logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
  } else {
    std::fprintf(stderr, "%s\n", message.c_str());
  }
}

}  // namespace deploykit

#define DEPLOYKIT_EXPORT extern "C" __attribute__((visibility("default")))

DEPLOYKIT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { logger_finder.store(finder); }

DEPLOYKIT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static deploykit::GradCamCreator grad_cam;
  static deploykit::ResizeNormalizeCreator resize_normalize;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&grad_cam, &resize_normalize};
  count = 2;
  return creators;
}

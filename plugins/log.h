// Tells TensorRT's logger what a plugin refuses: TensorRT itself says only that a plugin failed.
#ifndef DEPLOYKIT_LOG_H
#define DEPLOYKIT_LOG_H

#include <string>

namespace deploykit {

// Written to the logger that TensorRT handed to the library; to stderr where there is none.
void log_error(const std::string& message) noexcept;

}  // namespace deploykit

#endif

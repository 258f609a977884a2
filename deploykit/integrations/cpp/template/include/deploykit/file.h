// Whole files in and out of memory, byte for byte.
#ifndef DEPLOYKIT_FILE_H
#define DEPLOYKIT_FILE_H

#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>

#include "deploykit/error.h"

namespace deploykit {

struct CloseFile {
  void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};

// The bytes of a file. Throws Error with the system's own reason; `hint` says what to do then.
inline std::string read_file(const std::string& path, const std::string& hint = {}) {
  const auto fail = [&](int code) { throw Error(path + " cannot be read: " + std::generic_category().message(code), hint); };
  const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
  if (!file) fail(errno);
  std::string data;
  char piece[1 << 16];
  while (const std::size_t count = std::fread(piece, 1, sizeof piece, file.get())) data.append(piece, count);
  if (std::ferror(file.get()) != 0) fail(errno);
  return data;
}

// Write a file, over one of that name. Throws Error.
inline void write_file(const std::string& path, std::string_view data) {
  std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "wb"));
  const bool is_written = file && std::fwrite(data.data(), 1, data.size(), file.get()) == data.size();
  const int code = errno;
  // The last bytes reach the disk, or fail to, when the file is closed.
  if (!is_written || std::fclose(file.release()) != 0) {
    throw Error("cannot write " + path + ": " + std::generic_category().message(is_written ? errno : code));
  }
}

inline bool is_file(const std::string& path) {
  const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rb"));
  return file != nullptr;
}

}  // namespace deploykit

#endif

/* A CUDA driver without a GPU: "device" memory is the process's own, work is done when it is asked for, and what was made and not
 * freed is counted. As much of the driver API as cuda-core and deploykit call; anything else answers with success. A call without a
 * current context is refused as the driver refuses it, which is what a thread that nobody has prepared gets.
 * https://docs.nvidia.com/cuda/cuda-driver-api/
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUT_OF_MEMORY 2
#define INVALID_DEVICE 101
#define INVALID_CONTEXT 201
#define NEEDS_CONTEXT \
  if (!current) return INVALID_CONTEXT

typedef void *handle;
static __thread handle current;
static int alive, primary, captured;
static uintptr_t next = 0x7f0000000000;

static handle make(void) {
  __atomic_add_fetch(&alive, 1, __ATOMIC_SEQ_CST);
  return (handle)__atomic_add_fetch(&next, 256, __ATOMIC_SEQ_CST);
}
static int drop(void) {
  __atomic_sub_fetch(&alive, 1, __ATOMIC_SEQ_CST);
  return 0;
}

int stand_in_alive(void) { return alive; }
int stand_in_captured(void) { return captured; }

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal ? INVALID_DEVICE : 0; }
int cuDeviceGetName(char *name, int size, int device) { return snprintf(name, size, "stand-in"), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  return *value = attribute == 75 ? 8 : attribute == 76 ? 6 : 0, 0;
}
int cuDevicePrimaryCtxRetain(handle *context, int device) { return *context = &primary, 0; }
int cuCtxGetCurrent(handle *context) { return *context = current, 0; }
int cuCtxSetCurrent(handle context) { return current = context, 0; }
int cuCtxPushCurrent_v2(handle context) { return current = context, 0; }
int cuCtxPopCurrent_v2(handle *context) { return *context = current, current = NULL, 0; }
int cuCtxGetDevice(int *device) {
  NEEDS_CONTEXT;
  return *device = 0, 0;
}
int cuCtxGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = -5, 0; }
int cuMemAlloc_v2(handle *memory, size_t size) {
  NEEDS_CONTEXT;
  if (size > (size_t)1 << 30) return OUT_OF_MEMORY;
  make();
  *memory = aligned_alloc(256, (size + 255) / 256 * 256);
  memset(*memory, 0xab, size);
  return 0;
}
int cuMemFree_v2(handle memory) {
  NEEDS_CONTEXT;
  return free(memory), drop();
}
int cuMemHostAlloc(handle *memory, size_t size, unsigned flags) { return cuMemAlloc_v2(memory, size); }
int cuMemFreeHost(handle memory) { return cuMemFree_v2(memory); }
static int copy(handle to, handle from, size_t size) {
  NEEDS_CONTEXT;
  return memcpy(to, from, size), 0;
}
int cuMemcpyHtoDAsync_v2(handle to, handle from, size_t size, handle stream) { return copy(to, from, size); }
int cuMemcpyDtoHAsync_v2(handle to, handle from, size_t size, handle stream) { return copy(to, from, size); }
int cuMemcpyDtoDAsync_v2(handle to, handle from, size_t size, handle stream) { return copy(to, from, size); }
int cuStreamCreate(handle *stream, unsigned flags) {
  NEEDS_CONTEXT;
  return *stream = make(), 0;
}
int cuStreamCreateWithPriority(handle *stream, unsigned flags, int priority) { return cuStreamCreate(stream, flags); }
int cuStreamSynchronize(handle stream) { return 0; }
int cuStreamQuery(handle stream) { return 0; }
int cuStreamDestroy_v2(handle stream) { return drop(); }
int cuStreamGetCtx(handle stream, handle *context) { return *context = &primary, 0; }
int cuStreamBeginCapture_v2(handle stream, int mode) {
  NEEDS_CONTEXT;
  return captured++, 0;
}
int cuStreamEndCapture(handle stream, handle *graph) { return *graph = make(), 0; }
int cuGraphInstantiateWithFlags(handle *executable, handle graph, unsigned long long flags) { return *executable = make(), 0; }
int cuGraphDestroy(handle graph) { return drop(); }
int cuGraphLaunch(handle executable, handle stream) { return 0; }
int cuGraphExecDestroy(handle executable) { return drop(); }
int cuEventCreate(handle *event, unsigned flags) {
  NEEDS_CONTEXT;
  return *event = make(), 0;
}
int cuEventRecord(handle event, handle stream) { return 0; }
int cuStreamWaitEvent(handle stream, handle event, unsigned flags) { return 0; }
int cuEventDestroy_v2(handle event) { return drop(); }
int cuEventElapsedTime(float *milliseconds, handle start, handle end) { return *milliseconds = 1.5f, 0; }
int cuEventElapsedTime_v2(float *milliseconds, handle start, handle end) { return *milliseconds = 1.5f, 0; }
int cuGetErrorName(int code, const char **name) { return *name = "CUDA_ERROR_OF_STAND_IN", 0; }
int cuGetErrorString(int code, const char **text) { return *text = "an error of the stand-in", 0; }

static int success(void) { return 0; }
int cuGetProcAddress_v2(const char *name, handle *function, int version, uint64_t flags, int *status) {
  char newest[256];
  snprintf(newest, sizeof newest, "%s_v2", name);
  Dl_info self;
  dladdr((void *)success, &self);
  handle library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  *function = dlsym(library, newest);
  if (!*function) *function = dlsym(library, name);
  if (!*function) *function = (handle)success;
  if (status) *status = 0;
  return 0;
}

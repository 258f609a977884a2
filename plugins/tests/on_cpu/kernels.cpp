// The kernels as plain C++: the stand-in's folder comes before CUDA's.
#include "../../grad_cam/grad_cam_kernels.cu"
#include "../../resize_normalize/resize_kernels.cu"

// Marks the arithmetic that kernels and the host library compile alike, so that what is tested on a CPU is what a GPU computes.
//
// Both give the same bits: + - * / and fma round as IEEE 754 asks, in float and in double, on every GPU since compute
// capability 2.0 (CUDA C++ Programming Guide, "Floating-Point Standard"), and neither compiler may fuse a product with a sum on
// its own: the build says -ffp-contract=off and -fmad=false, and never --use_fast_math. Where a fused step is wanted the code
// says fmaf.
#ifndef DEPLOYKIT_HOSTDEVICE_H
#define DEPLOYKIT_HOSTDEVICE_H

#ifdef __CUDACC__
#define DEPLOYKIT_HD __host__ __device__ __forceinline__
#else
#define DEPLOYKIT_HD inline
#endif

#endif

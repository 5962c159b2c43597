// What lies between the matrix products of a DiT's blocks on a CPU, and the update of the weights after a step.
//
// Each kernel makes one pass over memory where eager code makes many. Rows of tokens are contiguous, (images x tokens,
// width). A kernel takes one struct of arguments and the number of parts to work in, which is the number of threads.
// The numbers that go in and out of matrix products are of type S: float, or bfloat16; all else is float.
//
// D width, K width of a head, T tokens, H hidden width of the feed-forward.
#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#include "parallel.h"
#include "vector.h"

typedef struct {
  int images, tokens, width, cuts;
  float eps, one;  // one + scale multiplies the norm: 1 for adaptive norms, 0 for affine ones
  const float *h;
  const void *y;  // NULL: no branch before
  const float *bias, *gate;  // gate NULL: 1
  const float *shift, *scale;  // shift NULL: 0
  int64_t gate_stride, stride;
  float *h2;
  void *a;  // NULL: only the residual
  float *mean, *factor;  // of each row, for backward; mean NULL: RMSNorm
} NormForward;

typedef struct {
  int images, tokens, width, cuts;
  float one;
  const float *h, *mean, *factor;
  const void *da;  // NULL: only the branch
  const float *scale;
  int64_t stride;
  const float *dh2;
  float *dh, *d_shift, *d_scale;
  const void *y;
  const float *bias, *gate;
  int64_t gate_stride;
  void *dy;  // NULL: no branch before
  float *d_gate, *d_bias;
} NormBackward;

typedef struct {
  int images, tokens, heads, head_width;
  const void *qkv;  // (rows, 3 D), without its bias
  const float *bias;
  const float *scale;  // (2, K) of queries and keys; NULL: no QK-norm
  const float *cosine, *sine;  // (T, K / 2); NULL: no rotary positions
  void *out;  // (rows, D)
  float *scratch;  // attention_scratch floats for each part
  const void *d_out;  // the rest for backward
  void *d_qkv;
  float *d_bias, *d_scale;  // (parts, 3 D) and (parts, 2, K)
} Attention;

enum { SWIGLU, GELU, GELU_BY_TANH };

typedef struct {
  int64_t rows;
  int hidden, kind;
  const void *u;  // (rows, H), or (rows, 2 H) for SwiGLU, without its bias
  const float *bias;
  void *z;
  const void *dz;  // the rest for backward
  void *du;
  float *d_bias;
} Activation;

#define S float
#define NAME(name) name##_float32
#define LOAD(x) (x)
#define STORE(x) (x)
#include "norm.h"
#include "feed_forward.h"
#include "attention.h"
#undef S
#undef NAME
#undef LOAD
#undef STORE

#define S bfloat16
#define NAME(name) name##_bfloat16
#define LOAD(x) widen(x)
#define STORE(x) narrow(x)
#include "norm.h"
#include "feed_forward.h"
#include "attention.h"

#include "update.h"
#include "sizes.h"

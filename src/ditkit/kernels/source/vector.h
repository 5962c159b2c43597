// Small functions that the loops of the kernels are made of.
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define OUTLINE static __attribute__((noinline))  // compiled once: the compiler takes a third of the time
#define EACH _Pragma("omp simd")
#define EACH_SUM(sum) _Pragma(STRING(omp simd reduction(+ : sum)))
#define STRING(text) #text
#define AT(pointer, offset) ((pointer) ? (pointer) + (offset) : NULL)  // nothing stays nothing

#ifdef __AVX512F__
#define LANES 16
#define TILE 4  // vectors of a tile of the small matrix products: four rows of it fit into the registers
#elif defined(__AVX2__)
#define LANES 8
#define TILE 2
#else
#define LANES 4
#define TILE 4
#endif
#define ROWS 4  // of a tile
typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define ROUND_UP(number, multiple) (((number) + (multiple)-1) / (multiple) * (multiple))

typedef uint16_t bfloat16;

INLINE float widen(bfloat16 x) {
  uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// To the nearest, ties to even; what is not a number stays so.
INLINE bfloat16 narrow(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bfloat16 rounded = (bfloat16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  return x == x ? rounded : 0x7fc0;
}

// e^x to 2 units in the last place: x = n log 2 + f, a polynomial of f, and n added to the exponent.
INLINE float exponential(float x) {
  float limited = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;  // a NaN passes both
  float n = rintf(limited * 1.44269504f);
  float f = limited - n * 0.693359375f + n * 2.12194440e-4f;
  float power = 1.0f + f * (1.0f + f * (0.5f + f * (0.16666667f + f * (0.041665795f + f * (0.0083334110f + f * 0.0013930439f)))));
  uint32_t bits;
  memcpy(&bits, &power, 4);
  bits += (uint32_t)(int32_t)(n == n ? n : 0.0f) << 23;
  memcpy(&power, &bits, 4);
  return power;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// The distribution function of the normal distribution; erfc by Abramowitz & Stegun 1964, 7.1.26, to 1.5e-7.
INLINE float normal_cdf(float x) {
  float z = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
  float tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  float half = 0.5f * tail * exponential(-z * z);
  return x < 0 ? half : 1.0f - half;
}

// A tile of C = A B, or of C + A B: `rows` by `vectors` vectors. A by strides, rows of B and C contiguous.
INLINE void multiply_tile(int rows, int vectors, int depth, const float *a, long a_row, long a_column, const float *b,
                          long b_row, float *c, long c_row, int add) {
  Vector sum[ROWS][TILE];
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vectors; j++) sum[i][j] = add ? *(const Vector *)(c + i * c_row + j * LANES) : (Vector){0};
  for (int k = 0; k < depth; k++) {
    Vector right[TILE];
    for (int j = 0; j < vectors; j++) right[j] = *(const Vector *)(b + k * b_row + j * LANES);
    for (int i = 0; i < rows; i++) {
      float left = a[i * a_row + k * a_column];
      for (int j = 0; j < vectors; j++) sum[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vectors; j++) *(Vector *)(c + i * c_row + j * LANES) = sum[i][j];
}

// C (rows, columns) = A B, or C + A B; rows are a multiple of ROWS, columns of LANES.
OUTLINE void multiply(int rows, int columns, int depth, const float *a, long a_row, long a_column, const float *b,
                     long b_row, float *c, long c_row, int add) {
  int vectors = columns / LANES, whole = vectors / TILE * TILE;
  for (int i = 0; i < rows; i += ROWS) {
    const float *left = a + i * a_row;
    float *out = c + i * c_row;
    for (int j = 0; j < whole; j += TILE)
      multiply_tile(ROWS, TILE, depth, left, a_row, a_column, b + j * LANES, b_row, out + j * LANES, c_row, add);
    int j = whole;
    if (vectors - j >= 2) {
      multiply_tile(ROWS, 2, depth, left, a_row, a_column, b + j * LANES, b_row, out + j * LANES, c_row, add);
      j += 2;
    }
    if (j < vectors)
      multiply_tile(ROWS, 1, depth, left, a_row, a_column, b + j * LANES, b_row, out + j * LANES, c_row, add);
  }
}

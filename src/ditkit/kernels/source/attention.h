// Self-attention of one head of one image after the other: bias, QK-norm (Dehghani et al. 2023), rotary positions
// (Su et al. 2021, eq. 34), softmax(q k^T / sqrt(K)) v. Backward computes the probabilities again.
//
// Matrices in scratch memory: rows padded to `columns` numbers, a multiple of the vector; as many rows as fit ROWS.
// Scores and probabilities are (keys, queries).

#define QUERIES(tokens) ((tokens) > 64 ? 64 : ROUND_UP(tokens, LANES))  // whose scores are held at a time

// Floats of scratch memory that a part needs: eleven matrices of tokens by a head's width, two of scores.
#ifndef ATTENTION_SCRATCH
#define ATTENTION_SCRATCH
EXPORT int64_t attention_scratch(int tokens, int head_width) {
  int64_t rows = ROUND_UP(tokens, LANES), columns = ROUND_UP(head_width, LANES);
  return 11 * rows * columns + 2 * QUERIES(tokens) * rows + 2 * rows;
}

INLINE float *take(float **scratch, int64_t floats) {
  float *begin = *scratch;
  *scratch += floats;
  return begin;
}

OUTLINE void transpose(const float *x, int rows, int columns, int x_row, float *out, int out_row) {
  for (int j = 0; j < columns; j++) {
    for (int i = 0; i < rows; i++) out[j * out_row + i] = x[i * x_row + j];
    for (int i = rows; i < out_row; i++) out[j * out_row + i] = 0;
  }
}

// Scores (keys, queries), a column for each query, become probabilities: LANES queries beside each other, so that no
// sum runs across a vector.
OUTLINE void softmax(float *scores, int keys, int queries) {
  for (int first = 0; first < queries; first += LANES) {
    float largest[LANES], sum[LANES] = {0};
    float *column = scores + first;
    for (int i = 0; i < LANES; i++) largest[i] = column[i];
    for (int k = 1; k < keys; k++)
      EACH for (int i = 0; i < LANES; i++) largest[i] = column[k * queries + i] > largest[i] ? column[k * queries + i] : largest[i];
    for (int k = 0; k < keys; k++) EACH for (int i = 0; i < LANES; i++) {
      float power = exponential(column[k * queries + i] - largest[i]);
      column[k * queries + i] = power;
      sum[i] += power;
    }
    EACH for (int i = 0; i < LANES; i++) sum[i] = 1.0f / sum[i];
    for (int k = 0; k < keys; k++) EACH for (int i = 0; i < LANES; i++) column[k * queries + i] *= sum[i];
  }
}

// Gradients of probabilities become those of scores, in place: p (dp - sum of p dp over the keys).
OUTLINE void softmax_backward(const float *p, float *dp, int keys, int queries) {
  for (int first = 0; first < queries; first += LANES) {
    float along[LANES] = {0};
    for (int at = first, k = 0; k < keys; k++, at += queries)
      EACH for (int i = 0; i < LANES; i++) along[i] += p[at + i] * dp[at + i];
    for (int at = first, k = 0; k < keys; k++, at += queries)
      EACH for (int i = 0; i < LANES; i++) dp[at + i] = p[at + i] * (dp[at + i] - along[i]);
  }
}

// Pairs (k, k + K/2) of a row turned by its angles; backwards with the sines' sign changed.
INLINE void turn(float *x, int K, const float *cosine, const float *sine, float sign) {
  const int half = K / 2;
  EACH for (int k = 0; k < half; k++) {
    float first = x[k], second = x[k + half], s = sign * sine[k];
    x[k] = first * cosine[k] - second * s;
    x[k + half] = second * cosine[k] + first * s;
  }
}
#endif

// Values of one head as they are: (T, columns), the padding 0.
OUTLINE void NAME(read_head)(const Attention *a, const S *x, int64_t x_row, const float *bias, float *out) {
  const int T = a->tokens, K = a->head_width, columns = ROUND_UP(K, LANES);
  for (int t = 0; t < T; t++, x += x_row, out += columns) {
    if (bias) EACH for (int k = 0; k < K; k++) out[k] = LOAD(x[k]) + bias[k];
    else EACH for (int k = 0; k < K; k++) out[k] = LOAD(x[k]);
    for (int k = K; k < columns; k++) out[k] = 0;
  }
  memset(out, 0, (ROUND_UP(T, ROWS) - T) * columns * sizeof(float));
}

// Queries or keys of one head, ready for the product: (T, columns). With QK-norm also n, before scale and rotation,
// and 1 / rms of each row.
OUTLINE void NAME(prepare)(const Attention *a, const S *x, const float *bias, const float *scale, float times,
                          float *out, float *n, float *factor) {
  const int K = a->head_width, columns = ROUND_UP(K, LANES);
  NAME(read_head)(a, x, 3 * (int64_t)a->heads * K, bias, out);
  for (int t = 0; t < a->tokens; t++, out += columns) {
    if (scale) {
      float squares = 0;
      EACH_SUM(squares) for (int k = 0; k < K; k++) squares += out[k] * out[k];
      const float inverse = factor[t] = 1.0f / sqrtf(squares / K + 1e-6f);
      EACH for (int k = 0; k < K; k++) {
        n[t * K + k] = out[k] * inverse;
        out[k] = n[t * K + k] * scale[k] * times;
      }
    } else EACH for (int k = 0; k < K; k++) out[k] *= times;
    if (a->cosine) turn(out, K, a->cosine + (int64_t)t * (K / 2), a->sine + (int64_t)t * (K / 2), 1);
  }
}

// The way back for `rows` rows from row `first` on: gradients of what `prepare` made become those of x, the bias and
// the scale.
OUTLINE void NAME(prepare_backward)(const Attention *a, float *grad, int first, int rows, const float *n,
                                   const float *factor, const float *scale, float times, S *dx, float *d_scale,
                                   float *d_bias) {
  const int K = a->head_width, columns = ROUND_UP(K, LANES);
  const int64_t x_row = 3 * (int64_t)a->heads * K;
  for (int t = first; t < first + rows; t++, grad += columns) {
    S *out = dx + t * x_row;
    if (a->cosine) turn(grad, K, a->cosine + (int64_t)t * (K / 2), a->sine + (int64_t)t * (K / 2), -1);
    if (scale) {
      float along = 0;
      EACH_SUM(along) for (int k = 0; k < K; k++) {
        float normed = n[t * K + k], g = grad[k] * times;
        d_scale[k] += g * normed;
        grad[k] = g * scale[k];
        along += grad[k] * normed;
      }
      along /= K;
      EACH for (int k = 0; k < K; k++) {
        float g = factor[t] * (grad[k] - n[t * K + k] * along);
        d_bias[k] += g;
        out[k] = STORE(g);
      }
    } else EACH for (int k = 0; k < K; k++) {
      float g = grad[k] * times;
      d_bias[k] += g;
      out[k] = STORE(g);
    }
  }
}

INLINE void NAME(attention_forward_head)(const Attention *a, int64_t image, int head, float *scratch) {
  const int K = a->head_width, T = a->tokens, D = a->heads * K, columns = ROUND_UP(K, LANES), padded = ROUND_UP(T, LANES);
  const int64_t square = (int64_t)padded * columns;
  const S *x = (const S *)a->qkv + image * T * 3 * D + head * K;
  const float *bias = a->bias + head * K, *k_scale = a->scale ? a->scale + K : NULL;
  float *q = take(&scratch, square), *k = take(&scratch, square), *qt = take(&scratch, square);
  float *v = take(&scratch, square), *n = take(&scratch, square), *out = take(&scratch, square);
  float *factor = take(&scratch, padded), *s = take(&scratch, (int64_t)QUERIES(T) * padded);
  NAME(prepare)(a, x, bias, a->scale, 1.0f / sqrtf(K), q, n, factor);
  NAME(prepare)(a, x + D, bias + D, k_scale, 1, k, n, factor);
  transpose(q, T, K, columns, qt, padded);
  NAME(read_head)(a, x + 2 * D, 3 * (int64_t)D, bias + 2 * D, v);
  for (int first = 0; first < T; first += QUERIES(T)) {
    const int rows = T - first < QUERIES(T) ? T - first : QUERIES(T), queries = ROUND_UP(rows, LANES);
    multiply(ROUND_UP(T, ROWS), queries, K, k, columns, 1, qt + first, padded, s, queries, 0);
    softmax(s, T, queries);
    multiply(ROUND_UP(rows, ROWS), columns, T, s, 1, queries, v, columns, out, columns, 0);
    S *to = (S *)a->out + (image * T + first) * D + head * K;
    for (int i = 0; i < rows; i++) EACH for (int k = 0; k < K; k++) to[(int64_t)i * D + k] = STORE(out[i * columns + k]);
  }
}

INLINE void NAME(attention_backward_head)(const Attention *a, int64_t image, int head, float *scratch, float *d_bias,
                                          float *d_scale) {
  const int K = a->head_width, T = a->tokens, D = a->heads * K, columns = ROUND_UP(K, LANES), padded = ROUND_UP(T, LANES);
  const int64_t square = (int64_t)padded * columns, score_square = (int64_t)QUERIES(T) * padded;
  const S *x = (const S *)a->qkv + image * T * 3 * D + head * K;
  S *dx = (S *)a->d_qkv + image * T * 3 * D + head * K;
  const float *bias = a->bias + head * K, *k_scale = a->scale ? a->scale + K : NULL, times = 1.0f / sqrtf(K);
  float *q = take(&scratch, square), *q_n = take(&scratch, square), *q_factor = take(&scratch, padded);
  float *k = take(&scratch, square), *k_n = take(&scratch, square), *k_factor = take(&scratch, padded);
  float *qt = take(&scratch, square), *v = take(&scratch, square), *d_out_t = take(&scratch, square);
  float *d_out = take(&scratch, square), *dq = take(&scratch, square), *dk = take(&scratch, square);
  float *dv = take(&scratch, square), *s = take(&scratch, score_square), *ds = take(&scratch, score_square);
  NAME(prepare)(a, x, bias, a->scale, times, q, q_n, q_factor);
  NAME(prepare)(a, x + D, bias + D, k_scale, 1, k, k_n, k_factor);
  NAME(read_head)(a, x + 2 * D, 3 * (int64_t)D, bias + 2 * D, v);
  NAME(read_head)(a, (const S *)a->d_out + image * T * D + head * K, D, NULL, d_out);
  transpose(q, T, K, columns, qt, padded);
  transpose(d_out, T, K, columns, d_out_t, padded);
  d_bias += head * K;
  for (int first = 0; first < T; first += QUERIES(T)) {
    const int rows = T - first < QUERIES(T) ? T - first : QUERIES(T), queries = ROUND_UP(rows, LANES);
    const int keys = ROUND_UP(T, ROWS);
    multiply(keys, queries, K, k, columns, 1, qt + first, padded, s, queries, 0);
    multiply(keys, queries, K, v, columns, 1, d_out_t + first, padded, ds, queries, 0);
    softmax(s, T, queries);
    softmax_backward(s, ds, T, queries);
    multiply(keys, columns, rows, s, queries, 1, d_out + first * columns, columns, dv, columns, first > 0);
    multiply(keys, columns, rows, ds, queries, 1, q + first * columns, columns, dk, columns, first > 0);
    multiply(ROUND_UP(rows, ROWS), columns, T, ds, 1, queries, k, columns, dq, columns, 0);
    NAME(prepare_backward)(a, dq, first, rows, q_n, q_factor, a->scale, times, dx, d_scale, d_bias);
  }
  NAME(prepare_backward)(a, dk, 0, T, k_n, k_factor, k_scale, 1, dx + D, d_scale + K, d_bias + D);
  for (int t = 0; t < T; t++) EACH for (int j = 0; j < K; j++) {
    float grad = dv[t * columns + j];
    d_bias[2 * D + j] += grad;
    dx[2 * D + (int64_t)t * 3 * D + j] = STORE(grad);
  }
}

static void NAME(attention_forward_part)(const void *pointer, int part, int parts) {
  const Attention *a = pointer;
  const int64_t items = (int64_t)a->images * a->heads, last = first_of(items, part + 1, parts);
  float *scratch = a->scratch + part * attention_scratch(a->tokens, a->head_width);
  for (int64_t item = first_of(items, part, parts); item < last; item++) {
    const int64_t image = item / a->heads;
    const int head = (int)(item % a->heads);
    NAME(attention_forward_head)(a, image, head, scratch);
  }
}

EXPORT void NAME(attention_forward)(const Attention *arguments, int parts) {
  in_parallel(NAME(attention_forward_part), arguments, parts);
}

static void NAME(attention_backward_part)(const void *pointer, int part, int parts) {
  const Attention *a = pointer;
  const int K = a->head_width, D = a->heads * K;
  const int64_t items = (int64_t)a->images * a->heads, last = first_of(items, part + 1, parts);
  float *scratch = a->scratch + part * attention_scratch(a->tokens, K);
  float *d_bias = a->d_bias + (int64_t)part * 3 * D, *d_scale = a->d_scale + (int64_t)part * 2 * K;
  memset(d_bias, 0, 3 * D * sizeof(float));
  memset(d_scale, 0, 2 * K * sizeof(float));
  for (int64_t item = first_of(items, part, parts); item < last; item++) {
    const int64_t image = item / a->heads;
    const int head = (int)(item % a->heads);
    NAME(attention_backward_head)(a, image, head, scratch, d_bias, d_scale);
  }
}

EXPORT void NAME(attention_backward)(const Attention *arguments, int parts) {
  in_parallel(NAME(attention_backward_part), arguments, parts);
}

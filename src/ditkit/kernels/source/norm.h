// Residual, norm and modulation in one pass over memory. Included once for each type S of the numbers between products.
//
//   h2 = h + gate (y + bias)      the branch before: its product y, still without its bias
//   a  = n(h2) scale + shift      n = (h2 - mean) / std, or h2 / rms without the mean
//
// Modulations are of each image (stride D or more) or, of affine norms, of all images (stride 0).

static void NAME(norm_forward_part)(const void *pointer, int part, int parts) {
  const NormForward *a = pointer;
  const int D = a->width;
  const int64_t items = (int64_t)a->images * a->cuts, last = first_of(items, part + 1, parts);
  for (int64_t item = first_of(items, part, parts); item < last; item++) {
    int64_t image, begin, end;
    rows_of(item, a->cuts, a->tokens, &image, &begin, &end);
    const float *bias = a->bias, *gate = AT(a->gate, image * a->gate_stride);
    const float *shift = AT(a->shift, image * a->stride), *scale = AT(a->scale, image * a->stride);
    for (int64_t row = begin; row < end; row++) {
      const float *h = a->h + row * D;
      float sum = 0, squares = 0, mean = 0;
      if (a->y) {
        const S *y = (const S *)a->y + row * D;
        float *h2 = a->h2 + row * D;
        if (a->gate) EACH for (int d = 0; d < D; d++) h2[d] = h[d] + gate[d] * (LOAD(y[d]) + bias[d]);
        else EACH for (int d = 0; d < D; d++) h2[d] = h[d] + (LOAD(y[d]) + bias[d]);
        h = h2;
      }
      if (!a->a) continue;
      if (a->mean) {
        EACH_SUM(sum) for (int d = 0; d < D; d++) sum += h[d];
        a->mean[row] = mean = sum / D;
      }
      EACH_SUM(squares) for (int d = 0; d < D; d++) squares += (h[d] - mean) * (h[d] - mean);
      const float factor = a->factor[row] = 1.0f / sqrtf(squares / D + a->eps);
      S *out = (S *)a->a + row * D;
      if (a->shift) EACH for (int d = 0; d < D; d++) out[d] = STORE((h[d] - mean) * factor * (a->one + scale[d]) + shift[d]);
      else EACH for (int d = 0; d < D; d++) out[d] = STORE((h[d] - mean) * factor * (a->one + scale[d]));
    }
  }
}

EXPORT void NAME(norm_forward)(const NormForward *arguments, int parts) {
  in_parallel(NAME(norm_forward_part), arguments, parts);
}

// The gradient of the stream before the norm, dh = dh2 + (gradient through the norm), and of the branch before it,
// dy = dh gate. Sums over the tokens of an item go to d_shift, d_scale and d_gate, (items, D) each, those over all
// tokens of a part to d_bias, (parts, D).
static void NAME(norm_backward_part)(const void *pointer, int part, int parts) {
  const NormBackward *a = pointer;
  const int D = a->width;
  const int64_t items = (int64_t)a->images * a->cuts, last = first_of(items, part + 1, parts);
  float *d_bias = AT(a->d_bias, (int64_t)part * D);
  if (a->d_bias) memset(d_bias, 0, D * sizeof(float));
  for (int64_t item = first_of(items, part, parts); item < last; item++) {
    int64_t image, begin, end;
    rows_of(item, a->cuts, a->tokens, &image, &begin, &end);
    const float *scale = AT(a->scale, image * a->stride), *gate = AT(a->gate, image * a->gate_stride), *bias = a->bias;
    float *d_shift = AT(a->d_shift, item * D), *d_scale = AT(a->d_scale, item * D), *d_gate = AT(a->d_gate, item * D);
    if (a->d_shift) memset(d_shift, 0, D * sizeof(float)), memset(d_scale, 0, D * sizeof(float));
    if (a->d_gate) memset(d_gate, 0, D * sizeof(float));
    for (int64_t row = begin; row < end; row++) {
      const float *dh2 = a->dh2 + row * D;
      float *dh = AT(a->dh, row * D);
      if (a->da) {
        const S *da = (const S *)a->da + row * D;
        const float *h = a->h + row * D, factor = a->factor[row], mean = a->mean ? a->mean[row] : 0;
        float along = 0, total = 0;  // sums of dn n and of dn, n being the normed row and dn its gradient
        EACH_SUM(along) for (int d = 0; d < D; d++) {
          float n = (h[d] - mean) * factor, grad = LOAD(da[d]);
          d_shift[d] += grad;
          d_scale[d] += grad * n;
          along += grad * (a->one + scale[d]) * n;
        }
        if (a->mean) EACH_SUM(total) for (int d = 0; d < D; d++) total += LOAD(da[d]) * (a->one + scale[d]);
        along /= D;
        total /= D;
        EACH for (int d = 0; d < D; d++) {
          float n = (h[d] - mean) * factor;
          dh[d] = dh2[d] + factor * (LOAD(da[d]) * (a->one + scale[d]) - total - n * along);
        }
        dh2 = dh;
      }
      if (!a->dy) continue;
      const S *y = (const S *)a->y + row * D;
      S *dy = (S *)a->dy + row * D;
      if (a->gate) EACH for (int d = 0; d < D; d++) {
        float grad = dh2[d] * gate[d];
        d_gate[d] += dh2[d] * (LOAD(y[d]) + bias[d]);
        d_bias[d] += grad;
        dy[d] = STORE(grad);
      }
      else EACH for (int d = 0; d < D; d++) {
        d_bias[d] += dh2[d];
        dy[d] = STORE(dh2[d]);
      }
    }
  }
}

EXPORT void NAME(norm_backward)(const NormBackward *arguments, int parts) {
  in_parallel(NAME(norm_backward_part), arguments, parts);
}

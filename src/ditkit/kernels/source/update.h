// The update of all weights in one pass over memory: AdamW (Loshchilov & Hutter 2019, algorithm 2), and the moving
// averages of the weights. Tensors are cut into chunks, so that all threads have equal work.

#define MOST_AVERAGES 4
#define CHUNK 16384

typedef struct {
  int64_t chunks;
  const int64_t *tensor, *begin, *end;  // of each chunk: its tensor, and its numbers in there
  float *const *gradient;  // of each tensor; NULL: it has none, and its weight stays
  float *const *weight, *const *mean, *const *square;
  const float *decay;  // of each tensor
  float *const *average[MOST_AVERAGES];
  float toward[MOST_AVERAGES];  // how far an average moves towards the weight
  int averages;
  float factor;  // of gradients, 1 unless they are clipped
  float rate, beta1, beta2, eps, correction1, correction2;  // corrections: 1 - beta^step
  double *squares;  // of each chunk: the sum of the squares of its gradients, which norm_parts writes
} Update;

static void norm_part(const void *pointer, int part, int parts) {
  const Update *a = pointer;
  const int64_t last = first_of(a->chunks, part + 1, parts);
  for (int64_t chunk = first_of(a->chunks, part, parts); chunk < last; chunk++) {
    const float *g = a->gradient[a->tensor[chunk]];
    double sum = 0;
    if (g) EACH_SUM(sum) for (int64_t i = a->begin[chunk]; i < a->end[chunk]; i++) sum += (double)g[i] * g[i];
    a->squares[chunk] = sum;
  }
}

EXPORT void gradient_squares(const Update *arguments, int parts) { in_parallel(norm_part, arguments, parts); }

static void update_part(const void *pointer, int part, int parts) {
  const Update *a = pointer;
  const float step = a->rate / a->correction1, root = 1.0f / sqrtf(a->correction2);
  const int64_t last = first_of(a->chunks, part + 1, parts);
  for (int64_t chunk = first_of(a->chunks, part, parts); chunk < last; chunk++) {
    const int64_t tensor = a->tensor[chunk], begin = a->begin[chunk], end = a->end[chunk];
    const float *g = a->gradient[tensor], keep = 1.0f - a->rate * a->decay[tensor];
    float *w = a->weight[tensor], *m = a->mean[tensor], *v = a->square[tensor];
    if (g) EACH for (int64_t i = begin; i < end; i++) {
      float grad = g[i] * a->factor;
      m[i] += (grad - m[i]) * (1.0f - a->beta1);
      v[i] = v[i] * a->beta2 + grad * grad * (1.0f - a->beta2);
      w[i] = w[i] * keep - step * m[i] / (sqrtf(v[i]) * root + a->eps);
    }
    // The chunk is still in the nearest cache.
    for (int k = 0; k < a->averages; k++) {
      float *average = a->average[k][tensor], toward = a->toward[k];
      EACH for (int64_t i = begin; i < end; i++) average[i] += (w[i] - average[i]) * toward;
    }
  }
}

EXPORT void update(const Update *arguments, int parts) { in_parallel(update_part, arguments, parts); }

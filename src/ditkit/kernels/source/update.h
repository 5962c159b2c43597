// The update of all weights in one pass over memory: AdamW (Loshchilov & Hutter 2019, algorithm 2), and the moving
// averages of the weights. Tensors are cut into chunks that lie in the caches, each computed in the same way by any
// number of threads.

#define MOST_AVERAGES 4
#define SUMS 16  // that run beside each other: on any processor the same, and so are the results

typedef struct {
  const int64_t *first;  // chunk of each part, and where the last part ends
  const int64_t *tensor, *begin, *end;  // of each chunk: its tensor, and its numbers in there
  const float *const *gradient;  // of each tensor; NULL: it has none, and its weight stays
  float *const *weight, *const *mean, *const *square, *const *step;
  const double *rate, *decay;
  int64_t tensors;
  float *const *average[MOST_AVERAGES];
  double toward[MOST_AVERAGES];  // how far an average moves towards the weight
  int64_t averages;
  double beta1, beta2, eps, factor;  // factor: of gradients, 1 unless they are clipped
  double *squares;  // of each chunk: the sum of the squares of its gradients, which gradient_squares writes
} Update;

static void squares_part(const void *pointer, int part, int parts) {
  const Update *a = pointer;
  for (int64_t chunk = a->first[part]; chunk < a->first[part + 1]; chunk++) {
    const float *g = a->gradient[a->tensor[chunk]];
    double sums[SUMS] = {0}, sum = 0;
    if (g) {
      const int64_t begin = a->begin[chunk], end = a->end[chunk], whole = end - (end - begin) % SUMS;
      for (int64_t i = begin; i < whole; i += SUMS)
        EACH for (int j = 0; j < SUMS; j++) sums[j] += (double)g[i + j] * g[i + j];
      for (int64_t i = whole; i < end; i++) sums[i - whole] += (double)g[i] * g[i];
    }
    for (int j = 0; j < SUMS; j++) sum += sums[j];
    a->squares[chunk] = sum;
  }
}

EXPORT void gradient_squares(const Update *arguments, int parts) { in_parallel(squares_part, arguments, parts); }

// As torch.lerp: by less than half from the average on, else from the weight back, so that 1 is all the way.
static void move(float *average, const float *w, int64_t numbers, double toward) {
  const float little = toward, rest = 1 - toward;
  if (toward < 0.5) EACH for (int64_t i = 0; i < numbers; i++) average[i] += (w[i] - average[i]) * little;
  else EACH for (int64_t i = 0; i < numbers; i++) average[i] = w[i] - (w[i] - average[i]) * rest;
}

static void adamw(const Update *a, int64_t tensor, int64_t begin, int64_t numbers) {
  const double steps = *a->step[tensor];
  const float keep = 1 - a->rate[tensor] * a->decay[tensor], rate = a->rate[tensor] / (1 - pow(a->beta1, steps));
  const float root = 1 / sqrt(1 - pow(a->beta2, steps)), eps = a->eps, factor = a->factor;
  const float new_mean = 1 - a->beta1, beta2 = a->beta2, new_square = 1 - a->beta2;
  const float *g = a->gradient[tensor] + begin;
  float *w = a->weight[tensor] + begin, *m = a->mean[tensor] + begin, *v = a->square[tensor] + begin;
  EACH for (int64_t i = 0; i < numbers; i++) {
    const float grad = g[i] * factor;
    m[i] += (grad - m[i]) * new_mean;
    v[i] = v[i] * beta2 + new_square * grad * grad;
    w[i] = w[i] * keep - rate * m[i] / (sqrtf(v[i]) * root + eps);
  }
}

static void update_part(const void *pointer, int part, int parts) {
  const Update *a = pointer;
  for (int64_t chunk = a->first[part]; chunk < a->first[part + 1]; chunk++) {
    const int64_t tensor = a->tensor[chunk], begin = a->begin[chunk], numbers = a->end[chunk] - begin;
    if (a->gradient[tensor]) adamw(a, tensor, begin, numbers);
    for (int k = 0; k < a->averages; k++)
      move(a->average[k][tensor] + begin, a->weight[tensor] + begin, numbers, a->toward[k]);
  }
}

EXPORT void update(const Update *arguments, int parts) {
  for (int64_t tensor = 0; tensor < arguments->tensors; tensor++)
    if (arguments->gradient[tensor]) *arguments->step[tensor] += 1;
  in_parallel(update_part, arguments, parts);
}

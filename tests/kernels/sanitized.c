// Every kernel at odd shapes, with buffers of exactly the size that Python gives them, for a compiler's sanitizers:
// they stop at a number that is read or written beside a buffer, and at what C leaves undefined.
// Numbers are random, then random bits: subnormal, infinite, NaN. Compiled by test_sanitizers.py.
#include <stdlib.h>
#include <stdio.h>

#include KERNELS

static uint64_t state = 1;
static int wild;  // random bits instead of numbers near zero
static void *taken[256];
static int count;

static uint32_t random_bits(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 32);
}

// Room for `numbers` of `size` bytes each, which begins where no vector is aligned; filled if it is an input.
static void *room(int64_t numbers, size_t size, int input) {
  char *begin = malloc((numbers + 1) * size);
  taken[count++] = begin;
  begin += size;
  for (int64_t i = 0; i < numbers; i++) {
    uint32_t bits = random_bits();
    float value = (float)(bits >> 8) / (1 << 23) - 1.0f;
    if (wild && bits % 3 == 0) bits = random_bits(), memcpy(&value, &bits, 4);
    bfloat16 half = narrow(value);
    if (!input) memset(begin + i * size, 0xff, size);  // NaN, should it be read before it is written
    else memcpy(begin + i * size, size == 4 ? (void *)&value : (void *)&half, size);
  }
  return begin;
}

static void *in(int64_t numbers) { return room(numbers, 4, 1); }
static void *out(int64_t numbers) { return room(numbers, 4, 0); }

static void free_all(void) {
  while (count) free(taken[--count]);
}

// A team of threads one after the other, of which only every second one that is asked for comes.
static int team, member;
static int thread_number(void) { return member; }
static int thread_count(void) { return team; }
static void one_after_the_other(void (*work)(void *), void *pointer, unsigned threads, unsigned flags) {
  (void)flags;
  team = (threads + 1) / 2;
  for (member = 0; member < team; member++) work(pointer);
}

typedef struct {
  int images, tokens, heads, head_width, hidden, parts, options;
  size_t size;  // of the numbers between products
} Shape;

typedef struct {
  void (*norm_forward)(const NormForward *, int), (*norm_backward)(const NormBackward *, int);
  void (*attention_forward)(const Attention *, int), (*attention_backward)(const Attention *, int);
  void (*activation_forward)(const Activation *, int), (*activation_backward)(const Activation *, int);
} Kernels;

static void norms(const Kernels *k, Shape s) {
  const int64_t D = s.heads * s.head_width, M = (int64_t)s.images * s.tokens, cuts = (s.parts + s.images - 1) / s.images;
  const int pieces = cuts > s.tokens ? s.tokens : (int)cuts, affine = s.options & 1, layer = s.options & 2;
  const int branch = s.options & 4, gated = branch && !affine, only_branch = branch && s.options & 8;
  const int64_t stride = affine ? 0 : 6 * D, modulations = (int64_t)(s.images - 1) * stride + D;
  float *scale = in(modulations), *gate = gated ? in(modulations) : NULL, *h = in(M * D), *bias = in(D);
  float *factor = out(M), *mean = layer ? out(M) : NULL;
  void *y = branch ? room(M * D, s.size, 1) : NULL;
  NormForward forward = {.images = s.images, .tokens = s.tokens, .width = (int)D, .cuts = pieces, .eps = 1e-6f,
                         .one = !affine, .h = h, .y = y, .bias = branch ? bias : NULL, .gate = gate,
                         .shift = layer || !affine ? in(modulations) : NULL, .scale = scale, .gate_stride = gated ? stride : 0,
                         .stride = stride, .h2 = branch ? out(M * D) : h, .a = room(M * D, s.size, 0), .mean = mean,
                         .factor = factor};
  if (only_branch) forward.a = NULL, forward.scale = forward.shift = NULL, forward.mean = forward.factor = NULL;
  k->norm_forward(&forward, s.parts);
  const int64_t items = (int64_t)s.images * pieces;
  NormBackward backward = {.images = s.images, .tokens = s.tokens, .width = (int)D, .cuts = pieces, .one = !affine,
                           .h = h, .mean = mean, .factor = factor, .da = room(M * D, s.size, 1), .scale = scale,
                           .stride = stride, .dh2 = in(M * D), .dh = out(M * D), .d_shift = out(items * D),
                           .d_scale = out(items * D), .y = y, .bias = bias, .gate = gate,
                           .gate_stride = gated ? stride : 0, .dy = branch ? room(M * D, s.size, 0) : NULL,
                           .d_gate = gated ? out(items * D) : NULL, .d_bias = branch ? out(s.parts * D) : NULL};
  if (only_branch) {
    backward.da = NULL, backward.dh = backward.d_shift = backward.d_scale = NULL;
    backward.h = backward.mean = backward.factor = backward.scale = NULL, backward.stride = 0;
  }
  k->norm_backward(&backward, s.parts);
  free_all();
}

static void attention(const Kernels *k, Shape s) {
  const int64_t D = s.heads * s.head_width, M = (int64_t)s.images * s.tokens, K = s.head_width;
  const int rotary = s.options & 1 && K % 4 == 0, normed = s.options & 2;
  Attention a = {.images = s.images, .tokens = s.tokens, .heads = s.heads, .head_width = (int)K,
                 .qkv = room(M * 3 * D, s.size, 1), .bias = in(3 * D), .scale = normed ? in(2 * K) : NULL,
                 .cosine = rotary ? in(s.tokens * K / 2) : NULL, .sine = rotary ? in(s.tokens * K / 2) : NULL,
                 .out = room(M * D, s.size, 0), .scratch = out(s.parts * attention_scratch(s.tokens, (int)K))};
  k->attention_forward(&a, s.parts);
  a.out = NULL;
  a.d_out = room(M * D, s.size, 1), a.d_qkv = room(M * 3 * D, s.size, 0);
  a.d_bias = out(s.parts * 3 * D), a.d_scale = out(s.parts * 2 * K);
  k->attention_backward(&a, s.parts);
  free_all();
}

static void feed_forward(const Kernels *k, Shape s) {
  for (int kind = SWIGLU; kind <= GELU_BY_TANH; kind++) {
    const int64_t M = (int64_t)s.images * s.tokens, columns = s.hidden * (kind == SWIGLU ? 2 : 1);
    Activation a = {.rows = M, .hidden = s.hidden, .kind = kind, .u = room(M * columns, s.size, 1), .bias = in(columns),
                    .z = room(M * s.hidden, s.size, 0)};
    k->activation_forward(&a, s.parts);
    a.z = NULL, a.dz = room(M * s.hidden, s.size, 1), a.du = room(M * columns, s.size, 0);
    a.d_bias = out(s.parts * columns);
    k->activation_backward(&a, s.parts);
    free_all();
  }
}

static void updates(Shape s) {
  enum { TENSORS = 3 };
  float *gradient[TENSORS], *weight[TENSORS], *mean[TENSORS], *square[TENSORS], *step[TENSORS], *average[TENSORS];
  int64_t tensor[2 * TENSORS], begin[2 * TENSORS], end[2 * TENSORS], *first = malloc((s.parts + 1) * sizeof *first);
  double decay[TENSORS] = {0, 0.1, 0}, rate[TENSORS] = {1e-3, 1, 0}, squares[2 * TENSORS];
  for (int t = 0; t < TENSORS; t++) {
    const int64_t length = s.hidden * t + s.tokens;
    gradient[t] = t == 1 ? NULL : in(length);
    // One without a gradient may have no moments yet.
    mean[t] = t == 1 ? NULL : in(length), square[t] = t == 1 ? NULL : in(length), step[t] = t == 1 ? NULL : in(1);
    weight[t] = in(length), average[t] = in(length);
    tensor[2 * t] = tensor[2 * t + 1] = t;
    begin[2 * t] = 0, end[2 * t] = begin[2 * t + 1] = length / 2, end[2 * t + 1] = length;
  }
  for (int part = 0; part <= s.parts; part++) first[part] = 2 * TENSORS * part / s.parts;
  Update a = {.first = first, .tensor = tensor, .begin = begin, .end = end, .gradient = (void *)gradient,
              .weight = weight, .mean = mean, .square = square, .step = step, .rate = rate, .decay = decay,
              .tensors = TENSORS, .average = {average}, .toward = {s.options & 2 ? 1 : 0.1}, .averages = s.options & 1,
              .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .factor = 0.5, .squares = squares};
  gradient_squares(&a, s.parts);
  update(&a, s.parts);
  free(first);
  free_all();
}

int main(void) {
  const Kernels kernels[] = {
      {norm_forward_float32, norm_backward_float32, attention_forward_float32, attention_backward_float32,
       activation_forward_float32, activation_backward_float32},
      {norm_forward_bfloat16, norm_backward_bfloat16, attention_forward_bfloat16, attention_backward_bfloat16,
       activation_forward_bfloat16, activation_backward_bfloat16}};
  const int tokens[] = {1, 2, 6, 16, 17, 49, 63, 64, 65, 100, 130}, widths[] = {1, 3, 8, 12, 16, 24, 40, 64, 96, 128};
  const int all_tokens = sizeof tokens / sizeof *tokens, all_widths = sizeof widths / sizeof *widths;
  for (int run = 0; run < 2 * 2 * all_tokens * all_widths; run++) {
    const int half = run & 1, number = run / 4;
    wild = run >> 1 & 1;
    for (int options = 0; options < 16; options++) {
      Shape s = {1 + (number + options) % 3, tokens[number / all_widths], 1 + options % 3, widths[number % all_widths],
                 1 + 7 * (number % 9), 1 + options % 5, options, half ? 2 : 4};
      if (s.tokens > 64 && options > 3) continue;
      if (options & 1) use_openmp((void *)one_after_the_other, (void *)thread_number, (void *)thread_count);
      else use_openmp(NULL, NULL, NULL);
      norms(&kernels[half], s);
      if (options < 4) attention(&kernels[half], s), feed_forward(&kernels[half], s), updates(s);
    }
  }
  puts("nothing found");
  return 0;
}

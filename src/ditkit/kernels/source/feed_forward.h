// Bias and activation of the feed-forward: SwiGLU (Shazeer 2020, eq. 6), GELU exact or by tanh (Hendrycks & Gimpel 2016).

#define GELU_TANH(x) (1.5957691216f * ((x) + 0.044715f * (x) * (x) * (x)))  // tanh(z/2) = 2 sigmoid(z) - 1

static void NAME(activation_forward_part)(const void *pointer, int part, int parts) {
  const Activation *a = pointer;
  const int H = a->hidden;
  const float *bias = a->bias;
  const int64_t last = first_of(a->rows, part + 1, parts);
  for (int64_t row = first_of(a->rows, part, parts); row < last; row++) {
    const S *u = (const S *)a->u + row * H * (a->kind == SWIGLU ? 2 : 1);
    S *z = (S *)a->z + row * H;
    if (a->kind == SWIGLU) EACH for (int j = 0; j < H; j++) {
      float gate = LOAD(u[j]) + bias[j], value = LOAD(u[j + H]) + bias[j + H];
      z[j] = STORE(gate * sigmoid(gate) * value);
    }
    else if (a->kind == GELU) EACH for (int j = 0; j < H; j++) {
      float x = LOAD(u[j]) + bias[j];
      z[j] = STORE(x * normal_cdf(x));
    }
    else EACH for (int j = 0; j < H; j++) {
      float x = LOAD(u[j]) + bias[j];
      z[j] = STORE(x * sigmoid(GELU_TANH(x)));
    }
  }
}

EXPORT void NAME(activation_forward)(const Activation *arguments, int parts) {
  in_parallel(NAME(activation_forward_part), arguments, parts);
}

// du of dz; the sums of du over the rows of a part go to d_bias, (parts, H or 2 H).
static void NAME(activation_backward_part)(const void *pointer, int part, int parts) {
  const Activation *a = pointer;
  const int H = a->hidden, columns = H * (a->kind == SWIGLU ? 2 : 1);
  const float *bias = a->bias;
  float *d_bias = a->d_bias + (int64_t)part * columns;
  memset(d_bias, 0, columns * sizeof(float));
  const int64_t last = first_of(a->rows, part + 1, parts);
  for (int64_t row = first_of(a->rows, part, parts); row < last; row++) {
    const S *u = (const S *)a->u + row * columns, *dz = (const S *)a->dz + row * H;
    S *du = (S *)a->du + row * columns;
    if (a->kind == SWIGLU) EACH for (int j = 0; j < H; j++) {
      float gate = LOAD(u[j]) + bias[j], value = LOAD(u[j + H]) + bias[j + H], grad = LOAD(dz[j]), s = sigmoid(gate);
      float d_gate = grad * value * s * (1.0f + gate * (1.0f - s)), d_value = grad * gate * s;
      d_bias[j] += d_gate;
      d_bias[j + H] += d_value;
      du[j] = STORE(d_gate);
      du[j + H] = STORE(d_value);
    }
    else if (a->kind == GELU) EACH for (int j = 0; j < H; j++) {
      float x = LOAD(u[j]) + bias[j];
      float grad = LOAD(dz[j]) * (normal_cdf(x) + x * 0.39894228f * exponential(-0.5f * x * x));
      d_bias[j] += grad;
      du[j] = STORE(grad);
    }
    else EACH for (int j = 0; j < H; j++) {
      float x = LOAD(u[j]) + bias[j], s = sigmoid(GELU_TANH(x));
      float slope = s + x * s * (1.0f - s) * 1.5957691216f * (1.0f + 3.0f * 0.044715f * x * x);
      float grad = LOAD(dz[j]) * slope;
      d_bias[j] += grad;
      du[j] = STORE(grad);
    }
  }
}

EXPORT void NAME(activation_backward)(const Activation *arguments, int parts) {
  in_parallel(NAME(activation_backward_part), arguments, parts);
}

// Work on several threads: those of the OpenMP runtime that torch has loaded, whose functions Python hands over.
// Nothing here is compiled with OpenMP, so no second runtime with threads of its own can come in.
#include <stdint.h>

typedef void (*Work)(const void *arguments, int part, int parts);

static struct {
  void (*start)(void (*)(void *), void *, unsigned, unsigned);  // GOMP_parallel; NULL: one thread does everything
  int (*thread)(void);                                          // omp_get_thread_num
  int (*threads)(void);                                         // omp_get_num_threads
} openmp;

EXPORT void use_openmp(void *start, void *thread, void *threads) {
  *(void **)&openmp.start = start;
  *(void **)&openmp.thread = thread;
  *(void **)&openmp.threads = threads;
}

typedef struct {
  Work work;
  const void *arguments;
  int parts;
} Job;

static void on_a_thread(void *pointer) {
  const Job *job = pointer;
  // OpenMP may give fewer threads than were asked for: then some take several parts. A part's result is the same
  // whichever thread computes it.
  for (int part = openmp.thread(); part < job->parts; part += openmp.threads()) job->work(job->arguments, part, job->parts);
}

static void in_parallel(Work work, const void *arguments, int parts) {
  if (parts > 1 && openmp.start) {
    Job job = {work, arguments, parts};
    openmp.start(on_a_thread, &job, (unsigned)parts, 0);
    return;
  }
  for (int part = 0; part < parts; part++) work(arguments, part, parts);
}

// The first of `count` items that a part works on; the last one ends where the next part begins.
static inline int64_t first_of(int64_t count, int part, int parts) { return count * part / parts; }

// The rows of an item: images are cut into `cuts` pieces, so that few images still occupy all threads.
static inline void rows_of(int64_t item, int cuts, int tokens, int64_t *image, int64_t *begin, int64_t *end) {
  *image = item / cuts;
  int64_t cut = item % cuts;
  *begin = *image * tokens + tokens * cut / cuts;
  *end = *image * tokens + tokens * (cut + 1) / cuts;
}

/*
 * What LD_PRELOAD puts between a program and its C library: clocks that jump and drift, and a slow fsync.
 *
 * The file that LEASE_CHAOS_CLOCK names says what to do, now. It is mapped, so a change is in force at once, in children that were
 * forked, too. Without the file everything is as it was.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

/* As shim.ts writes it. `seq` is odd while the rest changes. */
struct control {
  volatile uint64_t seq;
  volatile int64_t wall_ns;   /* added to the wall clock */
  volatile int64_t since_ns;  /* true monotonic time at which `rate` began */
  volatile int64_t drift_ns;  /* added to both clocks then */
  volatile double rate;       /* added to both clocks since then, per nanosecond */
  volatile int64_t fsync_ns;  /* how long fsync and fdatasync take longer */
};

static const struct control *control;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

__attribute__((constructor)) static void start(void) {
  real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  const char *path = getenv("LEASE_CHAOS_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) control = mapped;
}

static int64_t true_ns(clockid_t id) {
  struct timespec now;
  if (real_clock_gettime == NULL) start(); /* another constructor came first */
  real_clock_gettime(id, &now);
  return now.tv_sec * NS + now.tv_nsec;
}

/* What to add to a clock at this true monotonic time. */
static int64_t shift_ns(int is_wall, int64_t monotonic_ns) {
  for (;;) {
    uint64_t seq = control->seq;
    __sync_synchronize();
    int64_t shift = control->drift_ns + (int64_t)((double)(monotonic_ns - control->since_ns) * control->rate);
    if (is_wall) shift += control->wall_ns;
    __sync_synchronize();
    if ((seq & 1) == 0 && seq == control->seq) return shift;
  }
}

int clock_gettime(clockid_t id, struct timespec *now) {
  if (real_clock_gettime == NULL) start();
  int is_wall = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
  int is_monotonic = id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE;
  if (control == NULL || !(is_wall || is_monotonic)) return real_clock_gettime(id, now);
  int64_t monotonic_ns = true_ns(is_monotonic ? id : CLOCK_MONOTONIC);
  int64_t ns = (is_monotonic ? monotonic_ns : true_ns(id)) + shift_ns(is_wall, monotonic_ns);
  now->tv_sec = ns / NS;
  now->tv_nsec = ns % NS;
  return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *result) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (result != NULL) *result = exact.tv_sec;
  return exact.tv_sec;
}

/* In pieces, so that a long delay ends when the fault does. */
static void delay(void) {
  if (control == NULL) return;
  int64_t until = true_ns(CLOCK_MONOTONIC) + control->fsync_ns;
  while (true_ns(CLOCK_MONOTONIC) < until && control->fsync_ns > 0) {
    struct timespec piece = {0, 10000000};
    nanosleep(&piece, NULL);
  }
}

int fsync(int file) {
  delay();
  return real_fsync(file);
}

int fdatasync(int file) {
  delay();
  return real_fdatasync(file);
}

/* A wall clock that can be set for some processes alone, to see what a jump of it does to them.
 *
 * Preloaded, it adds the number of seconds in the file that CLOCK_OFFSET_FILE names (an int64, mapped and so read anew
 * each time) to what the C library says the time is, and takes it off again from points in time that the kernel or the
 * C library is asked to wait for. Clocks that only measure durations stay as they are, as they do on a real machine.
 *
 *     cc -shared -fPIC -O2 -o clock.so clock.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define LEAST_DATE 500000000 /* an earlier point in time is one of a clock that counts from the machine's start */

static const int64_t *shared_offset;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) shared_offset = mapped;
}

static int64_t offset(void) { return shared_offset ? *(volatile const int64_t *)shared_offset : 0; }

static struct timespec real(const struct timespec *when) {
    struct timespec result = *when;
    if (result.tv_sec > LEAST_DATE) result.tv_sec -= offset();
    return result;
}

static void *next(const char *name) {
    void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2"); /* condition variables have an older version, too */
    return found ? found : dlsym(RTLD_NEXT, name);
}

#define NEXT(name)                  \
    static __typeof__(&name) call; \
    if (!call) call = (__typeof__(&name))next(#name)

int clock_gettime(clockid_t id, struct timespec *now) {
    NEXT(clock_gettime);
    int failed = call(id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    NEXT(gettimeofday);
    int failed = call(now, zone);
    if (!failed) now->tv_sec += offset();
    return failed;
}

time_t time(time_t *now) {
    struct timespec clock;
    clock_gettime(CLOCK_REALTIME, &clock);
    if (now) *now = clock.tv_sec;
    return clock.tv_sec;
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *when, struct timespec *left) {
    NEXT(clock_nanosleep);
    if (id != CLOCK_REALTIME || !(flags & TIMER_ABSTIME)) return call(id, flags, when, left);
    struct timespec until = real(when);
    return call(id, flags, &until, left);
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *when) {
    NEXT(pthread_cond_timedwait);
    struct timespec until = real(when);
    return call(condition, mutex, &until);
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t id,
                           const struct timespec *when) {
    NEXT(pthread_cond_clockwait);
    struct timespec until = real(when);
    return call(condition, mutex, id, &until);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *when) {
    NEXT(pthread_mutex_timedlock);
    struct timespec until = real(when);
    return call(mutex, &until);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *when) {
    NEXT(sem_timedwait);
    struct timespec until = real(when);
    return call(semaphore, &until);
}

int sem_clockwait(sem_t *semaphore, clockid_t id, const struct timespec *when) {
    NEXT(sem_clockwait);
    struct timespec until = real(when);
    return call(semaphore, id, &until);
}

long syscall(long number, ...) { /* what waits without the C library's help does so by this */
    NEXT(syscall);
    va_list list;
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
    long d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    if (number == SYS_futex && (b & FUTEX_CLOCK_REALTIME) && d) {
        struct timespec until = real((const struct timespec *)d);
        return call(number, a, b, c, (long)&until, e, f);
    }
    return call(number, a, b, c, d, e, f);
}

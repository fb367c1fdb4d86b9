/* Faults: counts a process's file-system calls below one folder, and spoils the N-th of them; for LD_PRELOAD.
 *
 * Each wrapper names its kind of call. `faults_arm` chooses an action, the kinds to which it applies, and N: the first
 * call from the N-th on that is of such a kind is spoiled, with `lasting` each later one, too. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { LOOK = 1, OPEN = 2, CREATE = 4, READ = 8, WRITE = 16, SYNC = 32, CLOSE = 64, NAME = 128, REMOVE = 256,
            SIZE = 512, LOCK = 1024, ATTRIBUTE = 2048, RENAME = 4096, MAP = 8192 };
enum action { NONE, KILL, FAIL, SHORT, TEAR, POWER, CLOCK, STOP };

static char root[PATH_MAX];
static size_t root_length;
static enum action action;
static int kinds, lasting, armed, fired, trace = -1;
static long at, value, calls;
static char ours[1 << 16]; /* by descriptor: 1 if it is of a file below the root, 2 if it is open for writing */
static struct written { dev_t device; ino_t inode; off_t safe; } written[1 << 14];
static int writtens;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Counts from now on; `folder` is absolute, `log` a descriptor for a line "KIND PATH" a call, or -1. */
void faults_arm(const char *folder, int what, int of, long number, long with, int from_then_on, int log) {
    root_length = strlen(strcpy(root, folder));
    action = what, kinds = of, at = number, value = with, lasting = from_then_on, trace = log;
    calls = fired = 0, armed = 1;
}

int faults_fired(void) { return fired; }

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void die(void) { syscall(SYS_kill, getpid(), SIGKILL); }

static int below(const char *path) {
    return armed && path && !strncmp(path, root, root_length) && (!path[root_length] || path[root_length] == '/');
}

static int of_fd(int fd) { return armed && fd >= 0 && fd < (int)sizeof ours && ours[fd]; }

static int of_path(int folder, const char *path) {
    char here[PATH_MAX];
    if (!armed || !path) return 0;
    if (path[0] == '/') return below(path);
    return folder == AT_FDCWD ? getcwd(here, sizeof here) && below(here) : of_fd(folder);
}

static int note(int fd, int is_ours) {
    if (fd >= 0 && fd < (int)sizeof ours) ours[fd] = (char)is_ours;
    return fd;
}

/* Counts a call that is below the root; returns the action that is left to its wrapper. */
static enum action reached(int is_ours, enum kind kind, const char *path, int fd) {
    if (!is_ours) return NONE;
    int before = errno;
    if (trace >= 0) {
        char link[64], name[PATH_MAX] = "";
        if (!path) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            if (readlink(link, name, sizeof name - 1) < 0) name[0] = 0;
        }
        dprintf(trace, "%d %s\n", kind, path ? path : name);
    }
    long n = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    errno = before;
    if (action == NONE || action == CLOCK || n < at || !(kind & kinds)) return NONE;
    if (__atomic_exchange_n(&fired, 1, __ATOMIC_SEQ_CST) && !lasting) return NONE;
    if (action == KILL) die();
    if (action == STOP) syscall(SYS_tgkill, getpid(), gettid(), SIGSTOP);
    if (action == FAIL) errno = (int)value;
    return action;
}

/* What a file had when it was last safe on the disk: its size before the first write, or at the last fsync. */
static void wrote(int fd, int safe) {
    struct stat found;
    if (syscall(SYS_fstat, fd, &found) || !S_ISREG(found.st_mode)) return;
    pthread_mutex_lock(&mutex);
    int n = 0;
    while (n < writtens && (written[n].device != found.st_dev || written[n].inode != found.st_ino)) n++;
    if (n == writtens && n < (int)(sizeof written / sizeof *written) && !safe)
        written[writtens++] = (struct written){found.st_dev, found.st_ino, found.st_size};
    else if (n < writtens && safe)
        written[n].safe = found.st_size;
    pthread_mutex_unlock(&mutex);
}

static int tear(const char *path, const struct stat *found, int type, struct FTW *walk) {
    (void)type, (void)walk;
    for (int n = 0; n < writtens; n++)
        if (written[n].device == found->st_dev && written[n].inode == found->st_ino && written[n].safe < found->st_size)
            syscall(SYS_truncate, path, value ? written[n].safe + (found->st_size - written[n].safe) / 2 : written[n].safe);
    return 0;
}

/* The power fails after a call: names are on the disk, bytes that were not fsynced are lost (`value`: half of them). */
static void after(enum action found) {
    if (found != POWER) return;
    armed = 0;
    nftw(root, tear, 64, FTW_PHYS);
    die();
}

/* A call that fails with `failed`, or is made and then looked at. */
#define CALL(type, name, failed, is_ours, kind, path, fd, ...)                      \
    REAL(name);                                                                     \
    enum action found = reached(is_ours, kind, path, fd);                           \
    if (found == FAIL) return failed;                                               \
    type result = real(__VA_ARGS__);                                                \
    after(found);                                                                   \
    return result

static enum kind opening(int flags) { return flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR) ? CREATE : OPEN; }

static mode_t mode_of(int flags, va_list more) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

#define OPENING(name, folder, parameters, ...)                                      \
    int name parameters {                                                           \
        va_list more;                                                               \
        va_start(more, flags);                                                      \
        mode_t mode = mode_of(flags, more);                                         \
        va_end(more);                                                               \
        REAL(name);                                                                 \
        int is_ours = of_path(folder, path);                                        \
        enum action found = reached(is_ours, opening(flags), path, -1);             \
        if (found == FAIL) return -1;                                               \
        int fd = note(real(__VA_ARGS__, flags, mode), is_ours << (opening(flags) == CREATE)); \
        after(found);                                                               \
        return fd;                                                                  \
    }
OPENING(open, AT_FDCWD, (const char *path, int flags, ...), path)
OPENING(open64, AT_FDCWD, (const char *path, int flags, ...), path)
OPENING(openat, folder, (int folder, const char *path, int flags, ...), folder, path)
OPENING(openat64, folder, (int folder, const char *path, int flags, ...), folder, path)

#define STREAM(name)                                                                \
    FILE *name(const char *path, const char *mode) {                                \
        REAL(name);                                                                 \
        int is_ours = of_path(AT_FDCWD, path);                                      \
        enum action found = reached(is_ours, strpbrk(mode, "wa+") ? CREATE : OPEN, path, -1); \
        if (found == FAIL) return NULL;                                             \
        FILE *file = real(path, mode);                                              \
        if (file) note(fileno(file), is_ours << !!strpbrk(mode, "wa+"));             \
        after(found);                                                               \
        return file;                                                                \
    }
STREAM(fopen)
STREAM(fopen64)

#define CLOSING(type, name, number)                                                 \
    int name(type it) {                                                             \
        REAL(name);                                                                 \
        int fd = number(it), is_ours = of_fd(fd) == 2; /* what was read only loses nothing */ \
        enum action found = reached(is_ours, CLOSE, NULL, fd);                      \
        note(fd, 0);                                                                \
        int result = real(it), failed = found == FAIL;                              \
        if (failed) errno = (int)value;                                             \
        after(found);                                                               \
        return failed ? -1 : result;                                                \
    }
#define itself(fd) fd
CLOSING(int, close, itself)
CLOSING(FILE *, fclose, fileno)
CLOSING(DIR *, closedir, dirfd)

DIR *opendir(const char *path) {
    REAL(opendir);
    int is_ours = of_path(AT_FDCWD, path);
    if (reached(is_ours, OPEN, path, -1) == FAIL) return NULL;
    DIR *folder = real(path);
    if (folder) note(dirfd(folder), is_ours);
    return folder;
}

#define DUPLICATING(name, parameters, ...) int name parameters { REAL(name); return note(real(__VA_ARGS__), of_fd(fd)); }
DUPLICATING(dup, (int fd), fd)
DUPLICATING(dup2, (int fd, int other), fd, other)
DUPLICATING(dup3, (int fd, int other, int flags), fd, other, flags)

#define CONTROL(name)                                                               \
    int name(int fd, int command, ...) {                                            \
        va_list more;                                                               \
        va_start(more, command);                                                    \
        void *argument = va_arg(more, void *);                                      \
        va_end(more);                                                               \
        REAL(name);                                                                 \
        int locks = command == F_SETLK || command == F_SETLKW;                      \
        enum action found = reached(locks && of_fd(fd), LOCK, NULL, fd);            \
        if (found == FAIL) return -1;                                               \
        int result = real(fd, command, argument);                                   \
        after(found);                                                               \
        return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? note(result, of_fd(fd)) : result; \
    }
CONTROL(fcntl)
CONTROL(fcntl64)

/* A short read has half of the bytes. */
#define READING(name, parameters, ...)                                              \
    ssize_t name parameters {                                                       \
        REAL(name);                                                                 \
        enum action found = reached(of_fd(fd), READ, NULL, fd);                     \
        if (found == FAIL) return -1;                                               \
        if (found == SHORT && size > 1) size /= 2;                                  \
        ssize_t result = real(__VA_ARGS__);                                         \
        after(found);                                                               \
        return result;                                                              \
    }
READING(read, (int fd, void *to, size_t size), fd, to, size)
READING(pread, (int fd, void *to, size_t size, off_t where), fd, to, size, where)
READING(pread64, (int fd, void *to, size_t size, off64_t where), fd, to, size, where)
READING(readv, (int fd, const struct iovec *to, int size), fd, to, size)

/* A short write has half of the bytes; a torn one, and the process is killed. */
#define WRITING(name, parameters, ...)                                              \
    ssize_t name parameters {                                                       \
        REAL(name);                                                                 \
        enum action found = reached(of_fd(fd), WRITE, NULL, fd);                    \
        if (found == FAIL) return -1;                                               \
        if (of_fd(fd)) wrote(fd, 0);                                                \
        if ((found == SHORT || found == TEAR) && size > 1) size /= 2;               \
        ssize_t result = real(__VA_ARGS__);                                         \
        if (found == TEAR) die();                                                   \
        after(found);                                                               \
        return result;                                                              \
    }
WRITING(write, (int fd, const void *from, size_t size), fd, from, size)
WRITING(pwrite, (int fd, const void *from, size_t size, off_t where), fd, from, size, where)
WRITING(pwrite64, (int fd, const void *from, size_t size, off64_t where), fd, from, size, where)
WRITING(writev, (int fd, const struct iovec *from, int size), fd, from, size)
WRITING(sendfile, (int fd, int in, off_t *where, size_t size), fd, in, where, size)
WRITING(sendfile64, (int fd, int in, off64_t *where, size_t size), fd, in, where, size)
WRITING(copy_file_range, (int in, off64_t *from, int fd, off64_t *to, size_t size, unsigned flags), in, from, fd, to, size, flags)

#define SYNCING(name)                                                               \
    int name(int fd) {                                                              \
        REAL(name);                                                                 \
        enum action found = reached(of_fd(fd), SYNC, NULL, fd);                     \
        if (found == FAIL) return -1;                                               \
        int result = real(fd);                                                      \
        if (of_fd(fd) && !result) wrote(fd, 1);                                     \
        after(found);                                                               \
        return result;                                                              \
    }
SYNCING(fsync)
SYNCING(fdatasync)

#define OF_FD(name, kind, failed, parameters, ...) \
    int name parameters { CALL(int, name, failed, of_fd(fd), kind, NULL, fd, __VA_ARGS__); }
OF_FD(ftruncate, SIZE, -1, (int fd, off_t size), fd, size)
OF_FD(ftruncate64, SIZE, -1, (int fd, off64_t size), fd, size)
OF_FD(posix_fallocate, SIZE, (int)value, (int fd, off_t where, off_t size), fd, where, size)
OF_FD(posix_fallocate64, SIZE, (int)value, (int fd, off64_t where, off64_t size), fd, where, size)
OF_FD(flock, LOCK, -1, (int fd, int how), fd, how)
OF_FD(fchmod, ATTRIBUTE, -1, (int fd, mode_t mode), fd, mode)
OF_FD(futimens, ATTRIBUTE, -1, (int fd, const struct timespec *times), fd, times)
OF_FD(fstat, LOOK, -1, (int fd, struct stat *to), fd, to)
OF_FD(fstat64, LOOK, -1, (int fd, struct stat64 *to), fd, to)

#define OF_PATH(name, kind, folder, parameters, ...) \
    int name parameters { CALL(int, name, -1, of_path(folder, path), kind, path, -1, __VA_ARGS__); }
OF_PATH(mkdir, NAME, AT_FDCWD, (const char *path, mode_t mode), path, mode)
OF_PATH(mkdirat, NAME, folder, (int folder, const char *path, mode_t mode), folder, path, mode)
OF_PATH(rmdir, REMOVE, AT_FDCWD, (const char *path), path)
OF_PATH(unlink, REMOVE, AT_FDCWD, (const char *path), path)
OF_PATH(unlinkat, REMOVE, folder, (int folder, const char *path, int flags), folder, path, flags)
OF_PATH(link, NAME, AT_FDCWD, (const char *old, const char *path), old, path)
OF_PATH(linkat, NAME, folder, (int of, const char *old, int folder, const char *path, int flags), of, old, folder, path, flags)
OF_PATH(symlink, NAME, AT_FDCWD, (const char *old, const char *path), old, path)
OF_PATH(symlinkat, NAME, folder, (const char *old, int folder, const char *path), old, folder, path)
OF_PATH(chmod, ATTRIBUTE, AT_FDCWD, (const char *path, mode_t mode), path, mode)
OF_PATH(fchmodat, ATTRIBUTE, folder, (int folder, const char *path, mode_t mode, int flags), folder, path, mode, flags)
OF_PATH(utimensat, ATTRIBUTE, folder, (int folder, const char *path, const struct timespec times[2], int flags), folder, path, times, flags)
OF_PATH(access, LOOK, AT_FDCWD, (const char *path, int mode), path, mode)
OF_PATH(stat, LOOK, AT_FDCWD, (const char *path, struct stat *to), path, to)
OF_PATH(lstat, LOOK, AT_FDCWD, (const char *path, struct stat *to), path, to)
OF_PATH(stat64, LOOK, AT_FDCWD, (const char *path, struct stat64 *to), path, to)
OF_PATH(lstat64, LOOK, AT_FDCWD, (const char *path, struct stat64 *to), path, to)
OF_PATH(fstatat, LOOK, folder, (int folder, const char *path, struct stat *to, int flags), folder, path, to, flags)
OF_PATH(fstatat64, LOOK, folder, (int folder, const char *path, struct stat64 *to, int flags), folder, path, to, flags)
OF_PATH(statx, LOOK, folder, (int folder, const char *path, int flags, unsigned mask, struct statx *to), folder, path, flags, mask, to)

/* Half of a rename, as a file system without a journal may keep it: the file with both names, or the old target gone. */
static void half(int of, const char *old, int folder, const char *path) {
    if (syscall(SYS_linkat, of, old, folder, path, 0) && errno == EEXIST) syscall(SYS_unlinkat, folder, path, 0);
    die();
}

#define RENAMING(name, of, folder, parameters, ...)                                 \
    int name parameters {                                                           \
        REAL(name);                                                                 \
        enum action found = reached(of_path(folder, path), RENAME, path, -1);       \
        if (found == FAIL) return -1;                                               \
        if (found == TEAR) half(of, old, folder, path);                             \
        int result = real(__VA_ARGS__);                                             \
        after(found);                                                               \
        return result;                                                              \
    }
RENAMING(rename, AT_FDCWD, AT_FDCWD, (const char *old, const char *path), old, path)
RENAMING(renameat, of, folder, (int of, const char *old, int folder, const char *path), of, old, folder, path)
RENAMING(renameat2, of, folder, (int of, const char *old, int folder, const char *path, unsigned flags), of, old, folder, path, flags)

#define MAPPING(name, parameters, ...) \
    void *name parameters { CALL(void *, name, MAP_FAILED, of_fd(fd), MAP, NULL, fd, __VA_ARGS__); }
MAPPING(mmap, (void *to, size_t size, int how, int flags, int fd, off_t where), to, size, how, flags, fd, where)
MAPPING(mmap64, (void *to, size_t size, int how, int flags, int fd, off64_t where), to, size, how, flags, fd, where)

/* The wall clock jumps by `value` seconds. */
static long jump(void) { return armed && action == CLOCK && calls >= at ? fired = 1, value : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (!result && clock == CLOCK_REALTIME) now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    if (!result && now) *now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
    return result;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return to ? *to = now.tv_sec : now.tv_sec;
}

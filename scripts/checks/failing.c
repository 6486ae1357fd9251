/* Fails the N-th call of a kind that touches a file under given folders. Preloaded into a process that forks:
   the counters lie in memory that all of its children share, so N counts over coordinator and workers.

   Paths of calls with a descriptor are asked of /proc/self/fd. Python, Rust and C++ libraries come through
   here; what libc calls within itself (the buffer of a FILE) does not, and a page of a mapping never does. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, FSYNC, RENAME, LINK, UNLINK, MKDIR, TRUNCATE, CLOSE, STAT, LIST, MMAP, KINDS };

struct shared {
    long counts[KINDS];
    long kind, nth, error, hits;
    char folders[8][512];
    char path[1024];
};

static struct shared *shared;
static int active;

void failing_use(struct shared *memory) { shared = memory; }
void failing_start(int on) { active = on; }

static int is_below(const char *path) {
    for (int i = 0; i < 8 && shared->folders[i][0]; i++) {
        size_t n = strlen(shared->folders[i]);
        if (!strncmp(path, shared->folders[i], n) && (path[n] == '/' || !path[n])) return 1;
    }
    return 0;
}

static int fails(int kind, const char *path) {
    if (!is_below(path)) return 0;
    long n = __atomic_add_fetch(&shared->counts[kind], 1, __ATOMIC_SEQ_CST);
    if (kind != shared->kind || n != shared->nth) return 0;
    __atomic_add_fetch(&shared->hits, 1, __ATOMIC_SEQ_CST);
    strncpy(shared->path, path, sizeof shared->path - 1);
    errno = (int)shared->error;
    return 1;
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return 1;
}

static int fails_fd(int kind, int descriptor) {
    if (!active || descriptor < 0) return 0;
    int kept = errno;
    char path[PATH_MAX];
    if (path_of(descriptor, path) && fails(kind, path)) return 1;
    errno = kept;
    return 0;
}

static int fails_at(int kind, int folder, const char *name) {
    if (!active || !name) return 0;
    int kept = errno;
    char path[2 * PATH_MAX + 2];
    if (name[0] == '/') {
        snprintf(path, sizeof path, "%s", name);
    } else {
        char base[PATH_MAX];
        if (folder == AT_FDCWD ? syscall(SYS_getcwd, base, sizeof base) <= 0 : !path_of(folder, base)) return 0;
        snprintf(path, sizeof path, name[0] ? "%s/%s" : "%s", base, name);
    }
    if (fails(kind, path)) return 1;
    errno = kept;
    return 0;
}

#define REAL(type, name, ...)                                          \
    static type (*real)(__VA_ARGS__);                                  \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define MODE(flags, mode)                                              \
    mode_t mode = 0;                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                             \
        va_list rest;                                                  \
        va_start(rest, flags);                                         \
        mode = va_arg(rest, mode_t);                                   \
        va_end(rest);                                                  \
    }

#define OPEN_AS(function)                                              \
    int function(const char *path, int flags, ...) {                   \
        MODE(flags, mode)                                              \
        if (fails_at(OPEN, AT_FDCWD, path)) return -1;                 \
        REAL(int, #function, const char *, int, ...);                  \
        return real(path, flags, mode);                                \
    }
#define OPENAT_AS(function)                                            \
    int function(int folder, const char *path, int flags, ...) {       \
        MODE(flags, mode)                                              \
        if (fails_at(OPEN, folder, path)) return -1;                   \
        REAL(int, #function, int, const char *, int, ...);             \
        return real(folder, path, flags, mode);                        \
    }
OPEN_AS(open)
OPEN_AS(open64)
OPENAT_AS(openat)
OPENAT_AS(openat64)

#define CHECKED_OPEN(function, plain)                                  \
    int function(const char *path, int flags) { return plain(path, flags); }
CHECKED_OPEN(__open_2, open)
CHECKED_OPEN(__open64_2, open64)

#define FOPEN_AS(function)                                             \
    FILE *function(const char *path, const char *mode) {               \
        if (fails_at(OPEN, AT_FDCWD, path)) return NULL;               \
        REAL(FILE *, #function, const char *, const char *);           \
        return real(path, mode);                                       \
    }
FOPEN_AS(fopen)
FOPEN_AS(fopen64)

DIR *opendir(const char *path) {
    if (fails_at(LIST, AT_FDCWD, path)) return NULL;
    REAL(DIR *, "opendir", const char *);
    return real(path);
}
DIR *fdopendir(int descriptor) {
    if (fails_fd(LIST, descriptor)) return NULL;
    REAL(DIR *, "fdopendir", int);
    return real(descriptor);
}

#define ON_FD(type, function, kind, parameters, arguments, ...)        \
    type function parameters {                                         \
        if (fails_fd(kind, descriptor)) return (type)-1;               \
        REAL(type, #function, __VA_ARGS__);                            \
        return real arguments;                                         \
    }
ON_FD(ssize_t, read, READ, (int descriptor, void *to, size_t n), (descriptor, to, n), int, void *, size_t)
ON_FD(ssize_t, pread, READ, (int descriptor, void *to, size_t n, off_t at), (descriptor, to, n, at), int, void *, size_t, off_t)
ON_FD(ssize_t, pread64, READ, (int descriptor, void *to, size_t n, off64_t at), (descriptor, to, n, at), int, void *, size_t, off64_t)
ON_FD(ssize_t, readv, READ, (int descriptor, const struct iovec *v, int n), (descriptor, v, n), int, const struct iovec *, int)
ON_FD(ssize_t, preadv64, READ, (int descriptor, const struct iovec *v, int n, off64_t at), (descriptor, v, n, at), int, const struct iovec *, int, off64_t)
ON_FD(ssize_t, __read_chk, READ, (int descriptor, void *to, size_t n, size_t size), (descriptor, to, n, size), int, void *, size_t, size_t)
ON_FD(ssize_t, __pread64_chk, READ, (int descriptor, void *to, size_t n, off64_t at, size_t size), (descriptor, to, n, at, size), int, void *, size_t, off64_t, size_t)
ON_FD(ssize_t, write, WRITE, (int descriptor, const void *from, size_t n), (descriptor, from, n), int, const void *, size_t)
ON_FD(ssize_t, pwrite, WRITE, (int descriptor, const void *from, size_t n, off_t at), (descriptor, from, n, at), int, const void *, size_t, off_t)
ON_FD(ssize_t, pwrite64, WRITE, (int descriptor, const void *from, size_t n, off64_t at), (descriptor, from, n, at), int, const void *, size_t, off64_t)
ON_FD(ssize_t, writev, WRITE, (int descriptor, const struct iovec *v, int n), (descriptor, v, n), int, const struct iovec *, int)
ON_FD(int, fsync, FSYNC, (int descriptor), (descriptor), int)
ON_FD(int, fdatasync, FSYNC, (int descriptor), (descriptor), int)
ON_FD(int, ftruncate, TRUNCATE, (int descriptor, off_t n), (descriptor, n), int, off_t)
ON_FD(int, ftruncate64, TRUNCATE, (int descriptor, off64_t n), (descriptor, n), int, off64_t)
ON_FD(int, fstat, STAT, (int descriptor, struct stat *found), (descriptor, found), int, struct stat *)
ON_FD(int, fstat64, STAT, (int descriptor, struct stat64 *found), (descriptor, found), int, struct stat64 *)

int close(int descriptor) {
    int failed = fails_fd(CLOSE, descriptor), error = errno;
    REAL(int, "close", int);
    int result = real(descriptor); /* as the kernel does, which closes it all the same */
    if (!failed) return result;
    errno = error;
    return -1;
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t n) {
    if (fails_fd(READ, from) || fails_fd(WRITE, to)) return -1;
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    return real(to, from, at, n);
}
ssize_t sendfile(int to, int from, off_t *at, size_t n) { return sendfile64(to, from, at, n); }

void *mmap64(void *where, size_t n, int protection, int flags, int descriptor, off64_t at) {
    if (!(flags & MAP_ANONYMOUS) && fails_fd(MMAP, descriptor)) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, where, n, protection, flags, descriptor, at);
}
void *mmap(void *where, size_t n, int protection, int flags, int descriptor, off_t at) {
    return mmap64(where, n, protection, flags, descriptor, at);
}

#define ON_PATH(function, kind, parameters, arguments, ...)            \
    int function parameters {                                          \
        if (fails_at(kind, AT_FDCWD, path)) return -1;                 \
        REAL(int, #function, __VA_ARGS__);                             \
        return real arguments;                                         \
    }
#define ON_PATH_AT(function, kind, parameters, arguments, ...)         \
    int function parameters {                                          \
        if (fails_at(kind, folder, path)) return -1;                   \
        REAL(int, #function, __VA_ARGS__);                             \
        return real arguments;                                         \
    }
ON_PATH(rename, RENAME, (const char *path, const char *to), (path, to), const char *, const char *)
ON_PATH_AT(renameat, RENAME, (int folder, const char *path, int there, const char *to), (folder, path, there, to), int, const char *, int, const char *)
ON_PATH(link, LINK, (const char *path, const char *to), (path, to), const char *, const char *)
ON_PATH_AT(linkat, LINK, (int folder, const char *path, int there, const char *to, int flags), (folder, path, there, to, flags), int, const char *, int, const char *, int)
ON_PATH(unlink, UNLINK, (const char *path), (path), const char *)
ON_PATH_AT(unlinkat, UNLINK, (int folder, const char *path, int flags), (folder, path, flags), int, const char *, int)
ON_PATH(rmdir, UNLINK, (const char *path), (path), const char *)
ON_PATH(mkdir, MKDIR, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
ON_PATH_AT(mkdirat, MKDIR, (int folder, const char *path, mode_t mode), (folder, path, mode), int, const char *, mode_t)
ON_PATH(truncate, TRUNCATE, (const char *path, off_t n), (path, n), const char *, off_t)
ON_PATH(stat, STAT, (const char *path, struct stat *found), (path, found), const char *, struct stat *)
ON_PATH(stat64, STAT, (const char *path, struct stat64 *found), (path, found), const char *, struct stat64 *)
ON_PATH(lstat, STAT, (const char *path, struct stat *found), (path, found), const char *, struct stat *)
ON_PATH(lstat64, STAT, (const char *path, struct stat64 *found), (path, found), const char *, struct stat64 *)
ON_PATH_AT(fstatat, STAT, (int folder, const char *path, struct stat *found, int flags), (folder, path, found, flags), int, const char *, struct stat *, int)
ON_PATH_AT(fstatat64, STAT, (int folder, const char *path, struct stat64 *found, int flags), (folder, path, found, flags), int, const char *, struct stat64 *, int)
ON_PATH_AT(statx, STAT, (int folder, const char *path, int flags, unsigned mask, struct statx *found), (folder, path, flags, mask, found), int, const char *, int, unsigned, struct statx *)

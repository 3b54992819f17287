/* Ends a process before a chosen call that changes a watched folder; loaded before libc (LD_PRELOAD).

   A call belongs to a site: its name and the file's path in the folder, numbers and hexadecimal digits left out. Each
   call of a site is counted, whichever thread makes it, so that "the third write of training/.partial-#.safetensors"
   is the same call in every run. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define SITES 4096
#define LONGEST 512

static char folders[4][PATH_MAX];
static int n_folders = 0;
static char target[LONGEST];
static long target_call = 0, n_target = 0;
static int log_handle = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Called from Python in the process that is to be watched. */
void vlora_watch(const char *folder) { snprintf(folders[n_folders++ % 4], PATH_MAX, "%s", folder); }
void vlora_log(const char *path) { log_handle = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644); }
void vlora_kill_at(const char *site, long call) {
  snprintf(target, LONGEST, "%s", site);
  target_call = call;
}

static int is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

/* Runs of 16 and more hexadecimal digits become '*', other runs of digits '#', the rest of a temporary name '*'. */
static void shorten(const char *path, char *out, size_t size) {
  size_t n = 0;
  while (*path && n + 2 < size) {
    size_t hex = 0, digits = 0;
    while (is_hex(path[hex])) hex++;
    while (path[digits] >= '0' && path[digits] <= '9') digits++;
    if (strncmp(path, ".writing-", 9) == 0) {
      n += snprintf(out + n, size - n, ".writing-*");
      while (*path && *path != '/') path++;
    } else if (hex >= 16) {
      out[n++] = '*';
      path += hex;
    } else if (digits) {
      out[n++] = '#';
      path += digits;
    } else {
      out[n++] = *path++;
    }
  }
  out[n] = 0;
}

static void seen(const char *call, const char *path) {
  for (int i = 0; i < n_folders; i++) {
    size_t length = strlen(folders[i]);
    if (strncmp(path, folders[i], length) != 0) continue;
    char site[LONGEST], rest[LONGEST], line[LONGEST + 2];
    shorten(path + length, rest, sizeof rest);
    snprintf(site, sizeof site, "%s %d:%.400s", call, i, rest);
    pthread_mutex_lock(&lock);
    if (log_handle >= 0) {
      int n = snprintf(line, sizeof line, "%s\n", site);
      syscall(SYS_write, log_handle, line, n);
    }
    if (target_call && strcmp(site, target) == 0 && ++n_target == target_call) {
      syscall(SYS_kill, getpid(), SIGKILL);
      for (;;) pause();
    }
    pthread_mutex_unlock(&lock);
    return;
  }
}

static void seen_at(const char *call, int folder, const char *path) {
  if (!n_folders || !path) return;
  char whole[2 * PATH_MAX], base[PATH_MAX];
  if (path[0] == '/') {
    seen(call, path);
    return;
  }
  if (folder == AT_FDCWD) {
    if (!getcwd(base, sizeof base)) return;
  } else {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, base, sizeof base - 1);
    if (n < 0) return;
    base[n] = 0;
  }
  snprintf(whole, sizeof whole, "%s/%s", base, path);
  seen(call, whole);
}

static void seen_handle(const char *call, int handle) {
  if (!n_folders) return;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0 || path[0] != '/') return;
  path[n] = 0;
  seen(call, path);
}

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int handle, const void *data, size_t size) {
  REAL(write);
  seen_handle("write", handle);
  return real(handle, data, size);
}
ssize_t writev(int handle, const struct iovec *parts, int n) {
  REAL(writev);
  seen_handle("write", handle);
  return real(handle, parts, n);
}
ssize_t pwrite64(int handle, const void *data, size_t size, off64_t at) {
  REAL(pwrite64);
  seen_handle("write", handle);
  return real(handle, data, size, at);
}
ssize_t pwrite(int handle, const void *data, size_t size, off_t at) {
  REAL(pwrite);
  seen_handle("write", handle);
  return real(handle, data, size, at);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
  REAL(copy_file_range);
  seen_handle("write", out);
  return real(in, from, out, to, size, flags);
}
ssize_t sendfile64(int out, int in, off64_t *from, size_t size) {
  static ssize_t (*real)(int, int, off64_t *, size_t);
  if (!real) real = (ssize_t(*)(int, int, off64_t *, size_t))dlsym(RTLD_NEXT, "sendfile64");
  seen_handle("write", out);
  return real(out, in, from, size);
}
ssize_t sendfile(int out, int in, off_t *from, size_t size) { return sendfile64(out, in, from, size); }
int ftruncate64(int handle, off64_t size) {
  REAL(ftruncate64);
  seen_handle("truncate", handle);
  return real(handle, size);
}
int ftruncate(int handle, off_t size) { return ftruncate64(handle, size); }
int fsync(int handle) {
  REAL(fsync);
  seen_handle("fsync", handle);
  return real(handle);
}
int fdatasync(int handle) {
  REAL(fdatasync);
  seen_handle("fsync", handle);
  return real(handle);
}
int rename(const char *from, const char *to) {
  REAL(rename);
  seen_at("rename", AT_FDCWD, to);
  return real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
  REAL(renameat);
  seen_at("rename", b, to);
  return real(a, from, b, to);
}
int link(const char *from, const char *to) {
  REAL(link);
  seen_at("link", AT_FDCWD, to);
  return real(from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
  REAL(linkat);
  seen_at("link", b, to);
  return real(a, from, b, to, flags);
}
int unlink(const char *path) {
  REAL(unlink);
  seen_at("unlink", AT_FDCWD, path);
  return real(path);
}
int unlinkat(int folder, const char *path, int flags) {
  REAL(unlinkat);
  seen_at("unlink", folder, path);
  return real(folder, path, flags);
}
int rmdir(const char *path) {
  REAL(rmdir);
  seen_at("unlink", AT_FDCWD, path);
  return real(path);
}
int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  seen_at("mkdir", AT_FDCWD, path);
  return real(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
  REAL(mkdirat);
  seen_at("mkdir", folder, path);
  return real(folder, path, mode);
}

#define OPENS(flags) ((flags) & (O_CREAT | O_TRUNC))
#define MODE(flags, mode, after) \
  mode_t mode = 0; \
  if (OPENS(flags)) { \
    va_list rest; \
    va_start(rest, after); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }
int open(const char *path, int flags, ...) {
  static int (*real)(const char *, int, ...);
  if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
  MODE(flags, mode, flags);
  if (OPENS(flags)) seen_at("open", AT_FDCWD, path);
  return real(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  static int (*real)(const char *, int, ...);
  if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
  MODE(flags, mode, flags);
  if (OPENS(flags)) seen_at("open", AT_FDCWD, path);
  return real(path, flags, mode);
}
int openat(int folder, const char *path, int flags, ...) {
  static int (*real)(int, const char *, int, ...);
  if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat");
  MODE(flags, mode, flags);
  if (OPENS(flags)) seen_at("open", folder, path);
  return real(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
  static int (*real)(int, const char *, int, ...);
  if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
  MODE(flags, mode, flags);
  if (OPENS(flags)) seen_at("open", folder, path);
  return real(folder, path, flags, mode);
}

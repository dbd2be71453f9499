// SPDX-License-Identifier: Apache-2.0
/* Preloaded (LD_PRELOAD), makes calls that write below the folder KTO_FAULT_ROOT fail, as a full, read-only or broken disk
 * does. Each such call goes as a line "name path" into KTO_FAULT_LOG; the one with the number KTO_FAULT_AT (from 1), and with
 * KTO_FAULT_LASTS all after it, ends in the error KTO_FAULT_ERRNO. 0 in its place: a write takes half of its bytes. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { SHORT = 0, KILL = -9 };

static long number(const char* name) {
  const char* text = getenv(name);
  return text ? atol(text) : -1;
}

/* Counts a call that writes to `path`. Returns whether it is to fail. */
static int faulty(const char* name, const char* path) {
  static int count = 0;
  static int log = -2;
  const char* root = getenv("KTO_FAULT_ROOT");
  if (!root || strncmp(path, root, strlen(root)) != 0) return 0;
  if (log == -2) {
    const char* file = getenv("KTO_FAULT_LOG");
    log = file ? (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
  }
  const long at = number("KTO_FAULT_AT"), now = __sync_add_and_fetch(&count, 1);
  char line[PATH_MAX + 64];
  const int size = snprintf(line, sizeof line, "%s %s\n", name, path + strlen(root));
  if (log >= 0 && syscall(SYS_write, log, line, (size_t)size) < 0) _exit(99);
  return now == at || (at > 0 && now > at && getenv("KTO_FAULT_LASTS"));
}

static int faulty_at(const char* name, int folder, const char* path) {
  char full[2 * PATH_MAX] = "", link[64];
  if (path[0] != '/' && folder != AT_FDCWD) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    const ssize_t size = readlink(link, full, PATH_MAX);
    if (size <= 0) return 0;
    full[size] = '/', full[size + 1] = 0;
  }
  strncat(full, path, PATH_MAX - 1);
  return faulty(name, full);
}

/* The same of an open file, where it is one that may be written. */
static int faulty_file(const char* name, int file) {
  const int saved = errno, flags = fcntl(file, F_GETFL);
  char path[PATH_MAX] = "", link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  struct stat info;
  const int writes = flags >= 0 && ((flags & O_ACCMODE) != O_RDONLY || (fstat(file, &info) == 0 && S_ISDIR(info.st_mode) && name[0] == 'f'));
  const ssize_t size = writes ? readlink(link, path, sizeof path - 1) : -1;
  errno = saved;
  return size > 0 && faulty(name, path);
}

static int error(void) {
  const int code = (int)number("KTO_FAULT_ERRNO");
  if (code == KILL) kill(getpid(), SIGKILL);
  errno = code;
  return -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                          \
  int name(const char* path, int flags, ...) {              \
    va_list more;                                           \
    va_start(more, flags);                                  \
    const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
    va_end(more);                                           \
    if ((flags & O_ACCMODE) != O_RDONLY && faulty("open", path)) return error(); \
    return REAL(name)(path, flags, mode);                   \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                        \
  int name(int folder, const char* path, int flags, ...) {  \
    va_list more;                                           \
    va_start(more, flags);                                  \
    const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0; \
    va_end(more);                                           \
    if ((flags & O_ACCMODE) != O_RDONLY && faulty_at("open", folder, path)) return error(); \
    return REAL(name)(folder, path, flags, mode);           \
  }
OPENAT(openat)
OPENAT(openat64)

static int takes_half(void) { return number("KTO_FAULT_ERRNO") == SHORT || number("KTO_FAULT_ERRNO") == KILL; }
ssize_t write(int file, const void* bytes, size_t size) {
  if (!faulty_file("write", file)) return REAL(write)(file, bytes, size);
  const ssize_t half = takes_half() ? REAL(write)(file, bytes, (size + 1) / 2) : 0;
  return number("KTO_FAULT_ERRNO") == SHORT ? half : error();
}
#define PWRITE(name, place)                                                          \
  ssize_t name(int file, const void* bytes, size_t size, place at) {                 \
    if (!faulty_file("write", file)) return REAL(name)(file, bytes, size, at);       \
    const ssize_t half = takes_half() ? REAL(name)(file, bytes, (size + 1) / 2, at) : 0; \
    return number("KTO_FAULT_ERRNO") == SHORT ? half : error();                      \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

int fsync(int file) { return faulty_file("fsync", file) ? error() : REAL(fsync)(file); }
int fdatasync(int file) { return faulty_file("fsync", file) ? error() : REAL(fdatasync)(file); }
int ftruncate(int file, off_t size) { return faulty_file("ftruncate", file) ? error() : REAL(ftruncate)(file, size); }
int ftruncate64(int file, off64_t size) { return faulty_file("ftruncate", file) ? error() : REAL(ftruncate64)(file, size); }
int close(int file) {
  if (!faulty_file("close", file)) return REAL(close)(file);
  REAL(close)(file); /* Linux closes it all the same */
  return error();
}

int rename(const char* from, const char* to) { return faulty("rename", to) ? error() : REAL(rename)(from, to); }
int renameat(int a, const char* from, int b, const char* to) {
  return faulty_at("rename", b, to) ? error() : REAL(renameat)(a, from, b, to);
}
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) {
  return faulty_at("rename", b, to) ? error() : REAL(renameat2)(a, from, b, to, flags);
}
int mkdir(const char* path, mode_t mode) { return faulty("mkdir", path) ? error() : REAL(mkdir)(path, mode); }
int unlink(const char* path) { return faulty("unlink", path) ? error() : REAL(unlink)(path); }
int unlinkat(int folder, const char* path, int flags) {
  return faulty_at("unlink", folder, path) ? error() : REAL(unlinkat)(folder, path, flags);
}
int rmdir(const char* path) { return faulty("unlink", path) ? error() : REAL(rmdir)(path); }
int remove(const char* path) { return faulty("unlink", path) ? error() : REAL(remove)(path); }

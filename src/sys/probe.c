/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c - the checks are rows of a table at the end: a function that looks, and two sentences
 *
 * A function sets the status and what it found. The sentences on cost and remedy are shown only
 * when the status is not ok.
 */
#include "sys/probe.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/cgroup.h"
#include "sys/kvm.h"
#include "sys/netns.h"
#include "sys/pagemap.h"
#include "sys/spawn.h"
#include "sys/tsc.h"

#define MIB		   (1ull << 20)
#define PROGRAM_TIMEOUT_MS 10000

/* Newer than Debian 12's headers. */
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

struct context {
	const char *store; /* exists */
	const char *qemu;
	bool uffd_kernel; /* faults raised inside the kernel can be served */
	int uffd_error;	  /* 0, or why there is none */
	uint64_t uffd_features;
	pid_t other; /* a child that sleeps: somebody else's process to try things on */
};

static void set(struct probe_item *i, enum probe_status status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void set(struct probe_item *i, enum probe_status status, const char *fmt, ...)
{
	va_list ap;

	i->status = status;
	va_start(ap, fmt);
	(void)vsnprintf(i->found, sizeof(i->found), fmt, ap);
	va_end(ap);
}

static enum probe_status ok_or(bool ok, enum probe_status otherwise)
{
	return ok ? PROBE_OK : otherwise;
}

static const char *error_text(int error)
{
	const char *s = strerrordesc_np(error);

	return s ? s : "unknown error";
}

/* The first line of a small file of /proc or /sys; "" when it cannot be read. */
static void read_line(const char *path, char *out, size_t size)
{
	_cleanup_free_ char *text = NULL;

	out[0] = 0;
	if (file_read(AT_FDCWD, path, 65536, &text, NULL) < 0)
		return;
	text[strcspn(text, "\n")] = 0;
	str_copy(out, size, text);
}

static void check_kernel(struct context *c, struct probe_item *i)
{
	struct utsname u = {0};
	unsigned major = 0, minor = 0;

	(void)uname(&u); /* cannot fail with a valid pointer */
	(void)sscanf(u.release, "%u.%u", &major, &minor);
	set(i, ok_or(major > 6 || (major == 6 && minor >= 1), PROBE_FAIL), "Linux %s, %s",
	    u.release, u.machine);
}

/* A userfaultfd as the preload library will get it, and every feature that it offers. */
static void open_uffd(struct context *c)
{
	_cleanup_fd_ int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = -1;
	struct uffdio_api api = {.api = UFFD_API};

	if (dev >= 0)
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	c->uffd_kernel = fd >= 0;
	c->uffd_error = fd < 0 ? errno : 0;
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0)
		c->uffd_features = api.features;
}

static void check_userfaultfd(struct context *c, struct probe_item *i)
{
	open_uffd(c);
	if (c->uffd_kernel)
		set(i, PROBE_OK, "there, also for faults inside the kernel");
	else if (c->uffd_features)
		set(i, PROBE_FAIL, "only for faults of user code (%s)", error_text(c->uffd_error));
	else
		set(i, PROBE_FAIL, "none: %s", error_text(c->uffd_error));
}

static void check_shared_faults(struct context *c, struct probe_item *i)
{
	bool ok = c->uffd_features & UFFD_FEATURE_MISSING_SHMEM;

	set(i, ok_or(ok, PROBE_FAIL), ok ? "missing pages of a memfd are reported" : "not offered");
}

static void check_overlay_faults(struct context *c, struct probe_item *i)
{
	bool ok = c->uffd_features & UFFD_FEATURE_MINOR_SHMEM;

	set(i, ok_or(ok, PROBE_WARN), ok ? "minor faults of a memfd are reported" : "not offered");
}

static void check_write_protect(struct context *c, struct probe_item *i)
{
	bool sync = (c->uffd_features & UFFD_FEATURE_PAGEFAULT_FLAG_WP) &&
		    (c->uffd_features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	bool async = c->uffd_features & UFFD_FEATURE_WP_ASYNC;

	set(i, ok_or(sync, PROBE_WARN), "%s%s",
	    sync ? "memory of a running guest can be write-protected" : "not offered",
	    async ? ", also without events" : "");
}

static void check_memfd(struct context *c, struct probe_item *i)
{
	_cleanup_fd_ int fd = memfd_create("dorm-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		set(i, PROBE_FAIL, "none: %s", error_text(errno));
	else
		set(i, PROBE_OK, "there, with seals");
}

static void check_pagemap_scan(struct context *c, struct probe_item *i)
{
	_cleanup_fd_ int fd = pagemap_open(getpid());
	struct pagemap_list list = {0};
	uint64_t page = (uint64_t)(uintptr_t)&list & ~(DORM_PAGE_SIZE - 1);
	int r = fd < 0 ? fd : pagemap_written_scan(fd, page, page + DORM_PAGE_SIZE, &list);

	pagemap_list_deinit(&list);
	if (r == 0)
		set(i, PROBE_OK, "PAGEMAP_SCAN");
	else
		set(i, fd < 0 ? PROBE_FAIL : PROBE_WARN, "%s: %s",
		    fd < 0 ? "no /proc/PID/pagemap" : "no PAGEMAP_SCAN", error_text(-r));
}

static void check_other_memory(struct context *c, struct probe_item *i)
{
	static const uint64_t here = 0x646f726d6f757365;
	uint64_t there = 0;
	struct iovec local = {&there, sizeof(there)}, remote = {(void *)&here, sizeof(here)};
	char scope[16];
	ssize_t n;

	if (c->other <= 0) {
		set(i, PROBE_FAIL, "no process to try it on: fork failed");
		return;
	}
	read_line("/proc/sys/kernel/yama/ptrace_scope", scope, sizeof(scope));
	n = process_vm_readv(c->other, &local, 1, &remote, 1, 0);
	if (n == sizeof(there) && there == here)
		set(i, PROBE_OK, "process_vm_readv works%s%s",
		    scope[0] ? "; kernel.yama.ptrace_scope " : "", scope);
	else
		set(i, PROBE_FAIL, "process_vm_readv: %s%s%s", error_text(n < 0 ? errno : EIO),
		    scope[0] ? "; kernel.yama.ptrace_scope " : "", scope);
}

static void check_pidfd(struct context *c, struct probe_item *i)
{
	_cleanup_fd_ int pidfd = -1, copy = -1;

	if (c->other > 0)
		pidfd = (int)syscall(SYS_pidfd_open, c->other, 0);
	if (pidfd >= 0)
		copy = (int)syscall(SYS_pidfd_getfd, pidfd, STDERR_FILENO, 0);
	if (copy >= 0)
		set(i, PROBE_OK, "descriptors of another process can be taken over");
	else
		set(i, pidfd < 0 ? PROBE_FAIL : PROBE_WARN, "%s: %s",
		    pidfd < 0 ? "pidfd_open" : "pidfd_getfd", error_text(errno));
}

static void check_io_uring(struct context *c, struct probe_item *i)
{
	uint8_t params[120] = {0}; /* struct io_uring_params; its header may be missing */
	_cleanup_fd_ int fd = (int)syscall(SYS_io_uring_setup, 4, params);
	int error = errno;
	char disabled[16];

	read_line("/proc/sys/kernel/io_uring_disabled", disabled, sizeof(disabled));
	if (fd >= 0)
		set(i, PROBE_OK, "there");
	else
		set(i, PROBE_WARN, "none: %s%s%s", error_text(error),
		    disabled[0] ? "; kernel.io_uring_disabled " : "", disabled);
}

static void check_kvm(struct context *c, struct probe_item *i)
{
	struct kvm_probe k = {0};
	int r = kvm_probe(&k);

	if (r < 0)
		set(i, PROBE_WARN, "could not be measured: %s", error_text(-r));
	else
		set(i, ok_or(k.usable, PROBE_WARN), "%s", k.reason);
}

static void check_tsc(struct context *c, struct probe_item *i)
{
	uint64_t khz = 0;
	int r = tsc_khz(&khz);

	if (r < 0)
		set(i, PROBE_WARN, "no steady rate: %s", error_text(-r));
	else
		set(i, PROBE_OK, "%.3f MHz", (double)khz / 1e3);
}

static void check_cgroup(struct context *c, struct probe_item *i)
{
	struct cgroups groups;
	char text[80];

	cgroups_find(&groups);
	cgroups_describe(&groups, text, sizeof(text));
	set(i, ok_or(groups.version && groups.places[CGROUP_MEMORY][0], PROBE_WARN), "%s", text);
}

static const char *fs_name(long type)
{
	static const struct {
		long type;
		const char *name;
	} known[] = {{EXT4_SUPER_MAGIC, "ext2/3/4"},	   {XFS_SUPER_MAGIC, "xfs"},
		     {BTRFS_SUPER_MAGIC, "btrfs"},	   {TMPFS_MAGIC, "tmpfs"},
		     {OVERLAYFS_SUPER_MAGIC, "overlayfs"}, {NFS_SUPER_MAGIC, "nfs"},
		     {F2FS_SUPER_MAGIC, "f2fs"},	   {0x2fc12fc1, "zfs"}};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i].type == type)
			return known[i].name;
	return "file system of unknown kind";
}

static void check_disk(struct context *c, struct probe_item *i)
{
	char free_text[16], all_text[16];
	struct statvfs v;
	struct statfs fs;
	uint64_t available;

	if (statvfs(c->store, &v) < 0 || statfs(c->store, &fs) < 0) {
		set(i, PROBE_FAIL, "%s: %s", c->store, error_text(errno));
		return;
	}
	available = (uint64_t)v.f_bavail * v.f_frsize;
	set(i,
	    available < 256 * MIB    ? PROBE_FAIL
	    : available < 4096 * MIB ? PROBE_WARN
				     : PROBE_OK,
	    "%s free of %s, %s at %.100s", str_format_bytes(available, free_text),
	    str_format_bytes((uint64_t)v.f_blocks * v.f_frsize, all_text), fs_name(fs.f_type),
	    c->store);
}

/* A file without a name in the store's directory; nothing is left whatever happens. */
static int open_nameless(const char *dir)
{
	return open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

static void check_reflink(struct context *c, struct probe_item *i)
{
	_cleanup_fd_ int from = open_nameless(c->store), to = open_nameless(c->store);
	char block[4096] = {1};

	if (from < 0 || to < 0 || fd_write_full(from, block, sizeof(block)) < 0)
		set(i, PROBE_WARN, "cannot write in %.100s: %s", c->store, error_text(errno));
	else if (ioctl(to, FICLONE, from) == 0)
		set(i, PROBE_OK, "files are cloned without copying");
	else
		set(i, PROBE_WARN, "none: %s", error_text(errno));
}

/* A number of kB in /proc/meminfo, in bytes; 0 when it is not there. */
static uint64_t meminfo(const char *key)
{
	_cleanup_free_ char *text = NULL;
	unsigned long long kb = 0;
	const char *line;

	if (file_read(AT_FDCWD, "/proc/meminfo", 65536, &text, NULL) < 0)
		return 0;
	line = strstr(text, key);
	if (line)
		(void)sscanf(line + strlen(key), ": %llu", &kb);
	return kb * 1024;
}

static void check_memory(struct context *c, struct probe_item *i)
{
	uint64_t available = meminfo("MemAvailable");
	char available_text[16], total_text[16];

	set(i,
	    available < 512 * MIB    ? PROBE_FAIL
	    : available < 2048 * MIB ? PROBE_WARN
				     : PROBE_OK,
	    "%s available of %s", str_format_bytes(available, available_text),
	    str_format_bytes(meminfo("MemTotal"), total_text));
}

static void check_overcommit(struct context *c, struct probe_item *i)
{
	char mode[16];

	read_line("/proc/sys/vm/overcommit_memory", mode, sizeof(mode));
	set(i, ok_or(strcmp(mode, "2") != 0, PROBE_WARN), "vm.overcommit_memory %s",
	    mode[0] ? mode : "unknown");
}

static void check_swap(struct context *c, struct probe_item *i)
{
	uint64_t total = meminfo("SwapTotal");
	char text[16], free_text[16];

	if (total == 0)
		set(i, PROBE_OK, "none");
	else
		set(i, PROBE_OK, "%s, of which %s free", str_format_bytes(total, text),
		    str_format_bytes(meminfo("SwapFree"), free_text));
}

/* "always within_size [never]": the one in brackets. Only "always" and "force" matter here. */
static void check_huge_pages(struct context *c, struct probe_item *i)
{
	char line[128], *word, *end;

	read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", line, sizeof(line));
	word = strchr(line, '[');
	end = word ? strchr(word, ']') : NULL;
	if (!end) {
		set(i, PROBE_OK, "the kernel has none for shared memory");
		return;
	}
	*end = 0;
	set(i, ok_or(strcmp(word + 1, "always") && strcmp(word + 1, "force"), PROBE_WARN),
	    "for shared memory: %s", word + 1);
}

/* What `program --version` says first. Return: false when it cannot be run. */
static bool ask_version(const char *program, char *out, size_t size)
{
	const char *const argv[] = {program, "--version", NULL};
	_cleanup_buf_ struct buf text = {0};
	int r, status = 0;

	r = spawn_run(argv, NULL, deadline_after_ms(PROGRAM_TIMEOUT_MS), &text, &status);
	if (r < 0 || status != 0) {
		str_copy(out, size, r < 0 ? error_text(-r) : "it fails");
		return false;
	}
	str_copy(out, size, text.data ? text.data : "");
	out[strcspn(out, "\n")] = 0;
	return true;
}

static void check_qemu(struct context *c, struct probe_item *i)
{
	unsigned major = 0, minor = 0;
	const char *number;
	char text[120];

	if (!ask_version(c->qemu, text, sizeof(text))) {
		set(i, PROBE_FAIL, "%.60s: %s", c->qemu, text);
		return;
	}
	number = strstr(text, "version ");
	if (number)
		(void)sscanf(number, "version %u.%u", &major, &minor);
	set(i, ok_or(major > 7 || (major == 7 && minor >= 2), PROBE_FAIL), "%.60s: %s", c->qemu,
	    text);
}

static void check_microvm(struct context *c, struct probe_item *i)
{
	const char *const argv[] = {c->qemu, "-M", "help", NULL};
	_cleanup_buf_ struct buf text = {0};
	int r, status = 0;

	r = spawn_run(argv, NULL, deadline_after_ms(PROGRAM_TIMEOUT_MS), &text, &status);
	if (r == 0 && status == 0 && text.data && strstr(text.data, "\nmicrovm"))
		set(i, PROBE_OK, "QEMU has the microvm machine");
	else
		set(i, PROBE_FAIL, "QEMU has no microvm machine");
}

/* The programs that src/guest runs. All of them answer to --version. */
static void check_guest_tools(struct context *c, struct probe_item *i)
{
	static const char *const tools[] = {"apt-get", "dpkg-deb", "depmod", "mkfs.erofs", "xz"};
	char text[120], missing[120] = "";

	for (size_t k = 0; k < ARRAY_SIZE(tools); k++) {
		const char *const argv[] = {tools[k], "--version", NULL};
		int status;

		/* the exit status tells nothing here: old mkfs.erofs fails after answering */
		if (spawn_run(argv, NULL, deadline_after_ms(PROGRAM_TIMEOUT_MS), NULL, &status) ==
		    0)
			continue;
		(void)snprintf(text, sizeof(text), "%s%s%s", missing, missing[0] ? ", " : "",
			       tools[k]);
		str_copy(missing, sizeof(missing), text);
	}
	if (access("/bin/busybox", X_OK) < 0 && access("/usr/bin/busybox", X_OK) < 0) {
		(void)snprintf(text, sizeof(text), "%s%sbusybox", missing, missing[0] ? ", " : "");
		str_copy(missing, sizeof(missing), text);
	}
	if (missing[0])
		set(i, PROBE_FAIL, "missing: %s", missing);
	else
		set(i, PROBE_OK, "apt-get, dpkg-deb, depmod, mkfs.erofs, xz, busybox");
}

static void check_open_files(struct context *c, struct probe_item *i)
{
	struct rlimit l = {0};

	(void)getrlimit(RLIMIT_NOFILE, &l); /* cannot fail with a valid pointer */
	set(i, ok_or(l.rlim_max >= 16384, PROBE_WARN), "limit %llu, can be raised to %llu",
	    (unsigned long long)l.rlim_cur, (unsigned long long)l.rlim_max);
}

static void check_vm_network(struct context *c, struct probe_item *i)
{
	_cleanup_fd_ int fd = netns_new();

	if (fd < 0)
		set(i, PROBE_WARN, "VMs run in this network namespace: %s", error_text(-fd));
	else
		set(i, PROBE_OK, "VMs run in a network namespace that is empty");
}

static void check_passt(struct context *c, struct probe_item *i)
{
	const char *passt = getenv("DORM_PASST");
	char text[120];
	bool ok;

	passt = passt ? passt : "passt";
	ok = ask_version(passt, text, sizeof(text));
	set(i, ok_or(ok, PROBE_WARN), "%.60s: %s", passt, text);
}

static const struct check {
	const char *name;
	void (*look)(struct context *, struct probe_item *);
	const char *cost;
	const char *remedy;
} checks[] = {
	{"kernel", check_kernel, "not tried: older kernels lack faults on shared memory",
	 "run Linux 6.1 or newer on x86-64 (Debian 12 has it)"},
	{"userfaultfd", check_userfaultfd,
	 "sandboxes cannot wake: QEMU's own reads of guest memory raise faults inside the kernel",
	 "run dormd as root, or give its user /dev/userfaultfd (chmod), or set "
	 "vm.unprivileged_userfaultfd=1"},
	{"shared-faults", check_shared_faults, "sandboxes cannot share their template's memory",
	 "a kernel with CONFIG_USERFAULTFD and CONFIG_SHMEM"},
	{"overlay-faults", check_overlay_faults,
	 "a woken fork will have to load its template's pages again",
	 "a kernel with CONFIG_HAVE_ARCH_USERFAULTFD_MINOR (5.14 or newer)"},
	{"write-protect", check_write_protect,
	 "a snapshot of a running sandbox pauses it for longer",
	 "a kernel with CONFIG_PTE_MARKER_UFFD_WP (5.19 or newer)"},
	{"memfd", check_memfd, "sandboxes cannot run", "a kernel with CONFIG_MEMFD_CREATE"},
	{"pagemap-scan", check_pagemap_scan,
	 "falling asleep takes about 2 ms per GiB of guest memory longer", "Linux 6.7 or newer"},
	{"process-memory", check_other_memory,
	 "sandboxes cannot sleep: their memory cannot be read",
	 "run dormd as root, or set kernel.yama.ptrace_scope to 0 or 1"},
	{"pidfd", check_pidfd, "sandboxes cannot be adopted by another pager",
	 "run dormd as root; in a container, allow pidfd_getfd in its seccomp profile"},
	{"io-uring", check_io_uring, "cold memory is read by a pool of threads instead",
	 "set kernel.io_uring_disabled=0; in a container, allow it in its seccomp profile"},
	{"kvm", check_kvm,
	 "guests run by emulation: everything works, code in guests runs 5 to 20 "
	 "times slower",
	 "a machine with VT-x or AMD-V, and nested virtualisation if it is virtual "
	 "itself; access to /dev/kvm"},
	{"tsc", check_tsc, "some boots hang under emulation and are tried again; clocks may drift",
	 "a machine with an invariant TSC"},
	{"cgroup", check_cgroup, "the memory and processor time of sandboxes cannot be limited",
	 "run dormd as root, with cgroup version 2 at /sys/fs/cgroup, or version 1's controllers"},
	{"disk", check_disk, "snapshots may not fit; a sandbox that cannot sleep goes on running",
	 "free some space, or put the store elsewhere (dormd --root)"},
	{"reflink", check_reflink,
	 "disks of sandboxes are copied, not cloned; memory is not concerned",
	 "put the store on btrfs, or on xfs made with reflink=1"},
	{"memory", check_memory, "few sandboxes fit at the same time", "more memory"},
	{"overcommit", check_overcommit,
	 "every sandbox is charged its whole memory, shared or not: few fit",
	 "set vm.overcommit_memory to 0 or 1"},
	{"swap", check_swap, "", ""},
	{"huge-pages", check_huge_pages,
	 "one page of a template that is touched may take 2 MiB of memory",
	 "set /sys/kernel/mm/transparent_hugepage/shmem_enabled to never or advise"},
	{"qemu", check_qemu, "sandboxes cannot run",
	 "apt-get install qemu-system-x86 (7.2 or newer), or name one in DORM_QEMU"},
	{"microvm", check_microvm, "sandboxes cannot run", "a QEMU built with CONFIG_MICROVM"},
	{"vm-network", check_vm_network,
	 "a QEMU that its guest took over could use the host's network", "run dormd as root"},
	{"passt", check_passt, "no sandbox can have a network",
	 "apt-get install passt, or name one in DORM_PASST"},
	{"guest-tools", check_guest_tools, "no template can be built",
	 "apt-get install busybox-static erofs-utils kmod xz-utils"},
	{"open-files", check_open_files, "at most some hundred sandboxes at the same time",
	 "raise the limit: ulimit -Hn 65536, or LimitNOFILE= in dormd's unit"},
};

static_assert(ARRAY_SIZE(checks) <= PROBE_MAX_ITEMS, "a report holds every check");

/* The nearest parent of @path that exists. */
static char *existing_parent(const char *path)
{
	char *p = strdup(path && path[0] ? path : ".");

	while (p && access(p, F_OK) < 0) {
		char *slash = strrchr(p, '/');

		if (!slash) {
			strcpy(p, ".");
			break;
		}
		slash[slash == p] = 0; /* "/absent" becomes "/" */
	}
	return p;
}

/* A child with our memory that does nothing until it is killed. */
static pid_t start_other(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid != 0)
		return pid;
	while (getppid() == parent)
		clock_sleep_ms(100);
	_exit(0);
}

void probe_host(const char *store, const char *qemu, struct probe_report *ret)
{
	_cleanup_free_ char *dir = existing_parent(store);
	struct context c = {.store = dir ? dir : "/", .qemu = qemu, .other = start_other()};

	ret->n = 0;
	for (size_t k = 0; k < ARRAY_SIZE(checks); k++) {
		struct probe_item *i = &ret->items[ret->n++];

		*i = (struct probe_item){.name = checks[k].name, .cost = "", .remedy = ""};
		checks[k].look(&c, i);
		if (i->status == PROBE_OK)
			continue;
		i->cost = checks[k].cost;
		i->remedy = checks[k].remedy;
	}
	if (c.other > 0) {
		(void)kill(c.other, SIGKILL); /* our child until the next line */
		while (waitpid(c.other, NULL, 0) < 0 && errno == EINTR)
			;
	}
}

const char *probe_status_name(enum probe_status status)
{
	static const char *const names[] = {"ok", "warn", "fail"};

	return names[status];
}

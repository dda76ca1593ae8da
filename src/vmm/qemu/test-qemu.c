/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver against a real QEMU and a real guest: the distribution's cloud kernel and an initramfs
 * of busybox and one script, which keeps a counter and the checksum of a random file in memory and
 * prints both all the time. This file plays the pager: an image of zeros for the boot, and for
 * restores a memory file that is filled beforehand, so that nothing faults.
 *
 * DORM_TEST_CACHE says where the kernel package and the initramfs are kept; DORM_TEST_PRELOAD names
 * libdorm-vmm.so. Without QEMU, the package or userfaultfd the test is skipped.
 */
#include "base/test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "sys/kvm.h"
#include "sys/pidfd.h"
#include "sys/proc.h"
#include "sys/spawn.h"
#include "sys/tsc.h"
#include "vmm/vmm.h"

#define P	  DORM_PAGE_SIZE
#define MEMORY	  (256ul << 20)
#define N_GFN	  (MEMORY / P)
#define BLOCK	  (64ul << 10)
#define DEADLINE  deadline_after_ms(20000)
#define BOOT_MS	  90000
#define TEXT_SIZE 65536

static const char prepare_script[] =
	"set -e\n"
	"cd \"$CACHE\"\n"
	"if ! [ -e kernel.done ]; then\n"
	"  find_name() { apt-cache depends linux-image-cloud-amd64 |\n"
	"    sed -n 's/.*Depends: \\(linux-image-[^ ]*\\)$/\\1/p' | head -n 1; }\n"
	"  name=$(find_name)\n"
	"  [ \"$name\" ] || { apt-get update; name=$(find_name); }\n"
	"  rm -rf unpacked *.deb; apt-get download \"$name\"\n"
	"  dpkg-deb -x *.deb unpacked; cp unpacked/boot/vmlinuz-* vmlinuz; touch kernel.done\n"
	"fi\n"
	"rm -rf root; mkdir -p root/bin root/proc root/dev; cp /bin/busybox root/bin/busybox\n"
	"for m in virtio_ring virtio virtio_mmio rng-core virtio-rng virtio_console; do\n"
	"  f=$(find unpacked -name \"$m.ko*\")\n"
	"  case $f in *.xz) xz -dc $f;; *.zst) zstd -qdc $f;; ?*) cat $f;; esac > root/$m.ko\n"
	"  [ -s root/$m.ko ] || rm root/$m.ko\n" /* built in */
	"done\n"
	"cat > root/init <<'END'\n"
	"#!/bin/busybox sh\n"
	"/bin/busybox --install -s /bin\n"
	"mount -t proc proc /proc; mount -t devtmpfs dev /dev\n"
	"for m in virtio_ring virtio virtio_mmio rng-core virtio-rng virtio_console; do\n"
	"  [ ! -e /$m.ko ] || insmod /$m.ko\n"
	"done\n"
	"head -c 1000000 /dev/urandom > /pattern\n"
	"echo READY\n"
	"n=0\n"
	"while :; do\n"
	"  n=$((n + 1)); echo $n > /counter\n"
	"  echo \"count $(cat /counter) sum $(md5sum < /pattern) rng $(head -c 8 /dev/hwrng | wc "
	"-c) end\"\n"
	"  sleep 0.1\n"
	"done\n"
	"END\n"
	"chmod +x root/init\n"
	"(cd root && find . | cpio -o -H newc --quiet) > initramfs\n";

/* ------------------------------------------------------------------ the test's own pager */

struct pager {
	int listener;
	int uffd; /* of the last session */
	pthread_t thread;
	bool serve;   /* answer faults, or only take the handover */
	bool no_uffd; /* what comes without a userfaultfd is right, and with one is not */
	atomic_bool stop;
	atomic_uint sessions;
	atomic_uint faults, minor;
	json_t *region; /* of the last session */
};

static int serve_zeros(int uffd, uint64_t address, uint64_t base, uint64_t size)
{
	uint64_t from = MAX(address & ~(BLOCK - 1), base), to = MIN(from + BLOCK, base + size);

	for (; from < to; from += P) {
		struct uffdio_zeropage z = {.range = {from, P}};
		struct uffdio_range wake = {from, P};

		while (ioctl(uffd, UFFDIO_ZEROPAGE, &z) < 0 && errno == EAGAIN)
			;
		if (z.zeropage < 0 && z.zeropage != -EEXIST)
			return (int)z.zeropage;
		(void)ioctl(uffd, UFFDIO_WAKE, &wake);
	}
	return 0;
}

/* The page is in the memory file: have it mapped, with those around it that are there too. */
static int serve_minor(int uffd, uint64_t address, uint64_t base, uint64_t size)
{
	uint64_t from = MAX(address & ~(BLOCK - 1), base), to = MIN(from + BLOCK, base + size);

	for (; from < to; from += P) {
		struct uffdio_continue c = {.range = {from, P}};
		struct uffdio_range wake = {from, P};

		while (ioctl(uffd, UFFDIO_CONTINUE, &c) < 0 && errno == EAGAIN)
			;
		if (c.mapped < 0 && c.mapped != -EEXIST && c.mapped != -EFAULT)
			return (int)c.mapped;
		(void)ioctl(uffd, UFFDIO_WAKE, &wake);
	}
	return 0;
}

static void serve_session(struct pager *p, int sock)
{
	char text[512];
	size_t n_fds = 0;
	struct pollfd w;
	json_t *list;
	ssize_t n = fd_recv(sock, text, sizeof(text), &p->uffd, 1, &n_fds);
	uint64_t base, size;

	if (n <= 0 || n_fds != (p->no_uffd ? 0 : 1))
		return;
	list = json_loadb(text, (size_t)n, 0, NULL);
	p->region = json_incref(json_array_get(list, 0));
	json_decref(list);
	base = (uint64_t)json_integer_value(json_object_get(p->region, "base_host_virt_addr"));
	size = (uint64_t)json_integer_value(json_object_get(p->region, "size"));
	atomic_fetch_add(&p->sessions, 1);
	w = (struct pollfd){.fd = p->uffd, .events = POLLIN};
	while (p->serve && !p->no_uffd && !atomic_load(&p->stop)) {
		struct uffd_msg m;

		if (poll(&w, 1, 50) <= 0)
			continue;
		if (w.revents & (POLLERR | POLLHUP))
			break;
		if (read(p->uffd, &m, sizeof(m)) != sizeof(m) || m.event != UFFD_EVENT_PAGEFAULT)
			continue;
		atomic_fetch_add(&p->faults, 1);
		if (m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) {
			atomic_fetch_add(&p->minor, 1);
			if (serve_minor(p->uffd, m.arg.pagefault.address, base, size) < 0)
				break;
			continue;
		}
		if (serve_zeros(p->uffd, m.arg.pagefault.address, base, size) < 0)
			break;
	}
}

static void *pager_run(void *userdata)
{
	struct pager *p = userdata;

	while (!atomic_load(&p->stop)) {
		int s;

		if (fd_poll(p->listener, POLLIN, deadline_after_ms(50)) <= 0)
			continue;
		s = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
		serve_session(p, s);
		fd_close(s);
	}
	return NULL;
}

static struct pager *pager_start(const char *path, bool serve)
{
	struct pager *p = calloc(1, sizeof(*p));

	p->listener = fd_unix_listen(path, SOCK_STREAM, 0600);
	p->uffd = -1;
	p->serve = serve;
	assert_true(p->listener >= 0);
	assert_int_equal(pthread_create(&p->thread, NULL, pager_run, p), 0);
	return p;
}

static void pager_stop(struct pager *p)
{
	atomic_store(&p->stop, true);
	pthread_join(p->thread, NULL);
	fd_close(p->listener);
	fd_close(p->uffd);
	json_decref(p->region);
	free(p);
}

/* ------------------------------------------------------------------ what the tests share */

static struct world {
	char cache[4096];
	char dir[64]; /* work directory */
	char pager_path[108];
	char device[4096];
	char kernel[4200], initramfs[4200], cmdline[256];
	const char *accel;
	char *model;	/* the guest's memory at the snapshot */
	uint64_t count; /* the counter then */
	char sum[64];
} w;

static double ms_since(uint64_t t)
{
	return (double)(clock_now_ns() - t) / 1e6;
}

/* A memory file of the guest's size and a read-only descriptor of it, as the pager gives them. */
static int new_memory(const char *content)
{
	_cleanup_fd_ int fd = memfd_create("guest", MFD_CLOEXEC);
	char path[64];
	int ro;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, MEMORY), 0);
	if (content)
		assert_int_equal(fd_write_full(fd, content, MEMORY), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(ro >= 0);
	return ro;
}

static struct vmm_config restore_config(int memory)
{
	return (struct vmm_config){.work_dir = w.dir,
				   .preload = getenv("DORM_TEST_PRELOAD"),
				   .pager_socket = w.pager_path,
				   .memory_fd = memory,
				   .memory_bytes = MEMORY,
				   .cpus = 1,
				   .accel = w.accel};
}

static struct vmm_config boot_config(int memory)
{
	struct vmm_config c = restore_config(memory);

	c.kernel = w.kernel;
	c.initramfs = w.initramfs;
	c.cmdline = w.cmdline;
	return c;
}

/* A failed assertion leaves its test by longjmp: its VM is killed at the end. */
static int started[64], n_started;

static void remember(const struct vmm *v)
{
	int fd = dup(vmm_pidfd(v));

	assert_true(fd >= 0 && n_started < (int)ARRAY_SIZE(started));
	started[n_started++] = fd;
}

static void kill_remembered(void)
{
	while (n_started > 0) {
		(void)pidfd_signal(started[--n_started], SIGKILL); /* mostly gone already */
		fd_close(started[n_started]);
	}
}

static struct vmm *must_start(const struct vmm_config *c)
{
	struct problem problem = PROBLEM_INIT;
	struct vmm *v = NULL;
	int r = vmm_start(c, DEADLINE, &problem, &v);

	if (r < 0)
		print_error("vmm_start: %d %s\n", r, problem.message);
	assert_int_equal(r, 0);
	remember(v);
	return v;
}

static void must_kill(struct vmm *v)
{
	assert_int_equal(vmm_kill(v, DEADLINE), 0);
	vmm_free(v);
}

/* The last complete "count N sum HEX  - rng 8 end" on the console. Return: false when there is none
 */
static bool last_count(struct vmm *v, uint64_t *ret_count, char sum[64])
{
	static char text[TEXT_SIZE];
	char *p = text, *found = NULL;

	assert_int_equal(vmm_console(v, text, sizeof(text), DEADLINE), 0);
	while ((p = strstr(p, "count "))) {
		if (strstr(p, " rng 8 end"))
			found = p;
		p++;
	}
	return found && sscanf(found, "count %" SCNu64 " sum %63s", ret_count, sum) == 2;
}

static bool wait_count(struct vmm *v, uint64_t at_least, uint64_t deadline_ns, uint64_t *ret,
		       char sum[64])
{
	while (!deadline_passed(deadline_ns)) {
		if (last_count(v, ret, sum) && *ret >= at_least)
			return true;
		clock_sleep_ms(5);
	}
	return false;
}

static int load_file(struct vmm *v, const char *path, struct problem *problem)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return vmm_load(v, fd, DEADLINE, problem);
}

static void must_load(struct vmm *v)
{
	struct problem problem = PROBLEM_INIT;
	int r = load_file(v, w.device, &problem);

	if (r < 0)
		print_error("vmm_load: %d %s\n", r, problem.message);
	assert_int_equal(r, 0);
}

/* Read all written pages into the model. Return: how many */
static uint64_t read_written(struct vmm *v, char *into)
{
	struct vmm_range *ranges = NULL;
	uint64_t total = 0;
	size_t n = 0;

	assert_int_equal(vmm_scan(v, &ranges, &n), 0);
	for (size_t i = 0; i < n; i++) {
		assert_true(ranges[i].gfn + ranges[i].n_pages <= N_GFN);
		if (i)
			assert_true(ranges[i].gfn > ranges[i - 1].gfn + ranges[i - 1].n_pages);
		assert_int_equal(
			vmm_read(v, ranges[i].gfn, ranges[i].n_pages, into + ranges[i].gfn * P), 0);
		total += ranges[i].n_pages;
	}
	free(ranges);
	return total;
}

/* ------------------------------------------------------------------ tests, in this order */

static void test_version(void **state)
{
	char version[64] = "";

	assert_int_equal(vmm_version(version, NULL), 0);
	print_message("QEMU %s\n", version);
	assert_true(version[0] >= '1' && version[0] <= '9' && strchr(version, '.'));
	setenv("SAVED_QEMU", getenv("DORM_QEMU") ? getenv("DORM_QEMU") : "", 1);
	setenv("DORM_QEMU", "/nonexistent", 1);
	assert_int_equal(vmm_version(version, NULL), -ENOENT);
	setenv("DORM_QEMU", "true", 1);
	assert_int_equal(vmm_version(version, NULL), -EPROTO);
	setenv("DORM_QEMU", getenv("SAVED_QEMU"), 1);
}

static size_t count_fds(pid_t pid)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/fd", (int)pid);
	_cleanup_dir_ DIR *d = path ? opendir(path) : NULL;
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	return n;
}

static void save_device(struct vmm *v)
{
	_cleanup_fd_ int fd = open(w.device, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	_cleanup_fd_ int full = open("/dev/full", O_RDWR | O_CLOEXEC);
	struct problem problem = PROBLEM_INIT;
	struct stat first, again;

	if (vmm_save_device(v, fd, DEADLINE, &problem))
		fail_msg("%s", problem.message);
	assert_int_equal(fstat(fd, &first), 0);
	assert_int_equal(vmm_save_device(v, fd, DEADLINE, NULL), 0); /* replaces what is there */
	assert_int_equal(fstat(fd, &again), 0);
	assert_int_equal(first.st_size, again.st_size);
	assert_true(vmm_save_device(v, full, DEADLINE, NULL) < 0);
}

/* Boot, adopt from a second handle, and leave device state and memory in the world. */
static void test_boot_and_snapshot(void **state)
{
	struct problem problem = PROBLEM_INIT;
	_cleanup_fd_ int memory = new_memory(NULL);
	struct vmm_config config = boot_config(memory);
	struct pager *pager = pager_start(w.pager_path, true);
	struct vmm_identity identity, wrong;
	struct vmm_memory_use use;
	struct vmm *v, *none = NULL;
	char reason[512];
	uint64_t t = clock_now_ns(), n;
	size_t n_fds;

	v = must_start(&config);
	print_message("boot: spawn to QMP %.1f ms\n", ms_since(t));
	assert_int_equal(vmm_is_running(v, DEADLINE), 1);
	assert_true(wait_count(v, 3, deadline_after_ms(BOOT_MS), &n, w.sum));
	print_message("boot: spawn to third count %.0f ms, %u faults\n", ms_since(t),
		      atomic_load(&pager->faults));
	assert_int_equal(atomic_load(&pager->sessions), 1);
	assert_int_equal(json_integer_value(json_object_get(pager->region, "size")), MEMORY);
	assert_int_equal(json_integer_value(json_object_get(pager->region, "offset")), 0);
	assert_int_equal(json_integer_value(json_object_get(pager->region, "page_size")), P);
	assert_int_equal(access(vmm_agent_socket(v), F_OK), 0);

	/* a daemon that was restarted finds it again */
	vmm_identity(v, &identity);
	vmm_free(v);
	wrong = identity;
	wrong.start_time++;
	assert_int_equal(vmm_adopt(w.dir, &wrong, MEMORY, DEADLINE, &problem, &none), -ESRCH);
	assert_true(strstr(problem.message, "is gone"));
	assert_int_equal(vmm_adopt(w.dir, &identity, MEMORY, DEADLINE, NULL, &v), 0);
	assert_int_equal(vmm_pid(v), identity.pid);
	assert_true(wait_count(v, n + 1, DEADLINE, &w.count, w.sum));

	n_fds = count_fds(vmm_pid(v));
	t = clock_now_ns();
	assert_int_equal(vmm_pause(v, DEADLINE, NULL), 0);
	assert_int_equal(vmm_is_running(v, DEADLINE), 0);
	print_message("pause %.2f ms\n", ms_since(t));
	t = clock_now_ns();
	save_device(v);
	print_message("save device, twice, and once to a full one, %.2f ms\n", ms_since(t));
	assert_true(last_count(v, &w.count, w.sum));
	t = clock_now_ns();
	n = read_written(v, w.model);
	print_message("scan and read %" PRIu64 " pages %.1f ms\n", n, ms_since(t));
	assert_true(n > 1000 && n < N_GFN);
	assert_int_equal(vmm_memory_use(v, &use), 0);
	assert_int_equal(use.private_pages, n);
	assert_true(use.private_bytes >= n * P && use.rss_bytes >= use.private_bytes);
	/* the pager's file is as it was: nobody could write it */
	assert_int_equal(lseek(memory, 0, SEEK_DATA), -1);

	/* nor keeps QEMU a descriptor of what it saved, once it runs */
	assert_int_equal(vmm_resume(v, DEADLINE, NULL), 0);
	assert_in_range(count_fds(vmm_pid(v)), 1, n_fds);

	vmm_exit_reason(v, reason, sizeof(reason));
	assert_string_equal(reason, "still running");
	assert_int_equal(vmm_kill(v, DEADLINE), 0);
	assert_int_equal(vmm_kill(v, DEADLINE), 0);
	vmm_exit_reason(v, reason, sizeof(reason));
	assert_true(str_has_prefix(reason, "killed by signal 9"));
	assert_int_equal(vmm_is_running(v, DEADLINE), -EPIPE);
	vmm_free(v);
	assert_int_equal(vmm_adopt(w.dir, &identity, MEMORY, DEADLINE, NULL, &none), -ESRCH);
	pager_stop(pager);
}

static uint64_t count_differing(const char *a, const char *b)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < N_GFN; i++)
		n += memcmp(a + i * P, b + i * P, P) != 0;
	return n;
}

/* Three generations: restore, compare every byte, run on, snapshot again. */
static void test_restore(void **state)
{
	char *memory_now = malloc(MEMORY);

	for (int generation = 0; generation < 3; generation++) {
		_cleanup_fd_ int memory = new_memory(w.model);
		struct vmm_config config = restore_config(memory);
		struct pager *pager = pager_start(w.pager_path, true);
		struct vmm_memory_use use;
		uint64_t t = clock_now_ns(), n;
		char sum[64];
		struct vmm *v = must_start(&config);

		print_message("restore: spawn to QMP %.1f ms", ms_since(t));
		t = clock_now_ns();
		must_load(v);
		print_message(", load %.1f ms", ms_since(t));
		assert_int_equal(vmm_is_running(v, DEADLINE), 0);
		assert_int_equal(vmm_read(v, 0, N_GFN, memory_now), 0);
		assert_int_equal(count_differing(memory_now, w.model), 0);
		t = clock_now_ns();
		assert_int_equal(vmm_resume(v, DEADLINE, NULL), 0);
		assert_int_equal(vmm_is_running(v, DEADLINE), 1);
		assert_true(wait_count(v, w.count + 3, DEADLINE, &n, sum));
		print_message(", resume to third count %.0f ms\n", ms_since(t));
		/* it went on, it did not start again */
		assert_true(n < w.count + 20);
		assert_string_equal(sum, w.sum);
		assert_int_equal(atomic_load(&pager->faults), 0);
		assert_int_equal(vmm_pause(v, DEADLINE, NULL), 0);
		assert_true(last_count(v, &w.count, sum));
		assert_int_equal(unlink(w.device), 0);
		save_device(v);
		n = read_written(v, w.model);
		assert_int_equal(vmm_memory_use(v, &use), 0);
		print_message("  written %" PRIu64 " pages, pss %" PRIu64 " KiB, private %" PRIu64
			      " KiB\n",
			      n, use.pss_bytes >> 10, use.private_bytes >> 10);
		assert_true(n > 10 && n < 4000);
		/* the model, brought up to date by written pages alone, is the whole memory */
		assert_int_equal(vmm_read(v, 0, N_GFN, memory_now), 0);
		assert_int_equal(count_differing(memory_now, w.model), 0);
		must_kill(v);
		pager_stop(pager);
	}
	free(memory_now);
}

/* A complete memory and nobody who serves faults: each page is one, of a kind that the kernel
 * answers, or the test hangs. @reg decides which. */
static void restore_registered(enum vmm_register reg, struct pager *pager)
{
	_cleanup_fd_ int memory = new_memory(w.model);
	struct vmm_config config = restore_config(memory);
	_cleanup_free_ char *now = malloc(MEMORY);
	char sum[64];
	struct vmm *v;
	uint64_t n;

	config.reg = reg;
	v = must_start(&config);
	must_load(v);
	assert_int_equal(vmm_resume(v, DEADLINE, NULL), 0);
	assert_true(wait_count(v, w.count + 3, DEADLINE, &n, sum));
	assert_true(n < w.count + 20); /* it went on */
	assert_string_equal(sum, w.sum);
	assert_int_equal(atomic_load(&pager->sessions), 1);
	assert_int_equal(json_integer_value(json_object_get(pager->region, "size")), MEMORY);
	/* nobody wrote into the file */
	assert_int_equal(pread(memory, now, MEMORY, 0), MEMORY);
	assert_int_equal(count_differing(now, w.model), 0);
	must_kill(v);
}

static void test_without_userfaultfd(void **state)
{
	struct pager *pager = pager_start(w.pager_path, true);

	pager->no_uffd = true;
	restore_registered(VMM_REGISTER_NONE, pager);
	assert_int_equal(atomic_load(&pager->faults), 0);
	pager_stop(pager);
}

static void test_minor_faults(void **state)
{
	struct pager *pager = pager_start(w.pager_path, true);

	restore_registered(VMM_REGISTER_MINOR, pager);
	/* the file has all pages, so every event is a minor one, and there were some */
	assert_true(atomic_load(&pager->minor) > 10);
	assert_int_equal(atomic_load(&pager->faults), atomic_load(&pager->minor));
	pager_stop(pager);
}

static void test_bad_device_state(void **state)
{
	_cleanup_fd_ int memory = new_memory(w.model);
	struct vmm_config config = restore_config(memory);
	struct pager *pager = pager_start(w.pager_path, true);
	_cleanup_free_ char *path = str_printf("%s/bad", w.dir), *good = NULL;
	size_t len = 0;

	assert_int_equal(file_read(AT_FDCWD, w.device, 1 << 20, &good, &len), 0);
	for (int kind = 0; kind < 3; kind++) {
		/* empty; cut in the middle; garbage */
		size_t n = kind == 0 ? 0 : kind == 1 ? len / 2 : len;
		struct problem problem = PROBLEM_INIT;
		struct vmm *v = must_start(&config);
		uint64_t t = clock_now_ns();
		int r;

		if (kind == 2)
			memset(good, 'x', len);
		assert_int_equal(file_write_atomic(AT_FDCWD, path, good, n, 0600), 0);
		r = load_file(v, path, &problem);
		print_message("bad state %d: %d %s\n", kind, r, problem.message);
		assert_true(r < 0);
		assert_true(ms_since(t) < 5000);
		assert_true(strstr(problem.message, "exited with status 1"));
		must_kill(v);
	}
	pager_stop(pager);
}

static void *kill_soon(void *userdata)
{
	clock_sleep_ms(200);
	kill(*(pid_t *)userdata, SIGKILL);
	return NULL;
}

static void test_killed_during_load(void **state)
{
	_cleanup_fd_ int memory = new_memory(w.model);
	struct vmm_config config = restore_config(memory);
	struct pager *pager = pager_start(w.pager_path, true);
	struct problem problem = PROBLEM_INIT;
	struct vmm *v = must_start(&config);
	pid_t pid = vmm_pid(v);
	uint64_t t = clock_now_ns();
	pthread_t thread;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC), 0); /* state that never comes */
	pthread_create(&thread, NULL, kill_soon, &pid);
	assert_int_equal(vmm_load(v, p[0], DEADLINE, &problem), -EPIPE);
	pthread_join(thread, NULL);
	assert_true(ms_since(t) < 5000);
	assert_true(strstr(problem.message, "killed by signal 9"));
	must_kill(v);
	/* and with nobody to kill it, the deadline ends the wait */
	v = must_start(&config);
	problem = PROBLEM_INIT;
	assert_int_equal(vmm_load(v, p[0], deadline_after_ms(200), &problem), -ETIMEDOUT);
	assert_true(problem.message[0]);
	must_kill(v);
	close(p[0]);
	close(p[1]);
	pager_stop(pager);
}

/* A VM without its pager must never run. */
static void test_no_pager(void **state)
{
	_cleanup_fd_ int memory = new_memory(w.model);
	struct vmm_config config = restore_config(memory);
	struct problem problem = PROBLEM_INIT;
	struct vmm *v = NULL;
	uint64_t t = clock_now_ns();

	config.pager_socket = "/nonexistent/pager.sock";
	assert_true(vmm_start(&config, DEADLINE, &problem, &v) < 0);
	print_message("%s\n", problem.message);
	assert_null(v);
	assert_true(ms_since(t) < 5000);
	assert_true(strstr(problem.message, "exited with status 70"));
	assert_true(strstr(problem.message, "cannot connect to the pager"));
	problem = PROBLEM_INIT;
	config.preload = "/nonexistent/libdorm-vmm.so";
	assert_int_equal(vmm_start(&config, DEADLINE, &problem, &v), -EINVAL);
	assert_true(strstr(problem.message, "preload"));
}

/* The pager takes the memory and never answers: QEMU hangs while it loads the kernel. */
static void test_silent_pager(void **state)
{
	_cleanup_fd_ int memory = new_memory(NULL);
	struct vmm_config config = boot_config(memory);
	struct pager *pager = pager_start(w.pager_path, false);
	struct problem problem = PROBLEM_INIT;
	struct vmm *v = NULL;
	uint64_t t = clock_now_ns();
	int r = vmm_start(&config, deadline_after_ms(1500), &problem, &v);

	if (r == 0) { /* it may get as far as its monitor; then it cannot be stopped */
		remember(v);
		clock_sleep_ms(200);
		r = vmm_pause(v, deadline_after_ms(1000), &problem);
	}
	print_message("%d %s\n", r, problem.message);
	assert_int_equal(r, -ETIMEDOUT);
	assert_true(ms_since(t) < 5000);
	assert_true(problem.message[0]);
	if (v)
		must_kill(v);
	pager_stop(pager);
}

/* What the process has open, and what it could do with the memory. */
static void test_confinement(void **state)
{
	_cleanup_fd_ int memory = new_memory(w.model);
	struct vmm_config config = restore_config(memory);
	struct pager *pager = pager_start(w.pager_path, true);
	struct vmm *v = must_start(&config);
	_cleanup_buf_ struct buf out = {0};
	_cleanup_free_ char *script = str_printf(
		"cd /proc/%d; for f in fd/*; do t=$(readlink $f); case $t in *memfd:guest*) "
		"grep flags: fdinfo/${f#fd/};; esac; echo \"$f $t\"; done; grep Seccomp: status; "
		"grep 'core file' limits; tr '\\0' '\\n' < environ",
		vmm_pid(v));
	const char *const argv[] = {"sh", "-c", script, NULL};
	int status;

	assert_int_equal(spawn_run(argv, NULL, DEADLINE, &out, &status), 0);
	print_message("%s", out.data);
	assert_non_null(strstr(out.data, "memfd:guest"));
	for (char *p = out.data; (p = strstr(p, "flags:")); p++)
		assert_int_equal(strtoul(p + 6, NULL, 8) & O_ACCMODE, O_RDONLY);
	assert_non_null(strstr(out.data, "userfaultfd"));
	assert_non_null(strstr(out.data, "Seccomp:\t2"));
	assert_null(strstr(out.data, "DORM_TEST"));
	must_kill(v);
	pager_stop(pager);
}

/* ------------------------------------------------------------------ set-up */

static void __attribute__((noreturn)) skip_all(const char *why, const char *detail)
{
	print_message("skipped: %s\n%s\n", why, detail);
	exit(77);
}

static int set_up(void **state)
{
	_cleanup_buf_ struct buf out = {0};
	const char *const argv[] = {"flock", w.cache, "sh", "-c", prepare_script, NULL};
	const char *cache = getenv("DORM_TEST_CACHE");
	struct kvm_probe kvm = {0};
	uint64_t khz = 0;
	int status = 0, r;

	if (!getenv("DORM_TEST_PRELOAD") || !cache)
		skip_all("DORM_TEST_PRELOAD and DORM_TEST_CACHE are not set",
			 "run it with meson test");
	if (access("/dev/userfaultfd", R_OK | W_OK) < 0)
		skip_all("no access to /dev/userfaultfd", "");
	if (vmm_version((char[64]){0}, NULL) < 0)
		skip_all("no QEMU", "");
	str_copy(w.cache, sizeof(w.cache), cache);
	assert_int_equal(file_mkdir_p(w.cache, 0755), 0);
	setenv("CACHE", w.cache, 1);
	r = spawn_run(argv, NULL, deadline_after_ms(120000), &out, &status);
	if (r < 0 || status)
		skip_all("cannot make a guest", out.data ? out.data : "");
	strcpy(w.dir, "/tmp/dorm-test-qemu-XXXXXX");
	assert_non_null(mkdtemp(w.dir));
	snprintf(w.pager_path, sizeof(w.pager_path), "%s/pager.sock", w.dir);
	snprintf(w.device, sizeof(w.device), "%s/device", w.dir);
	snprintf(w.kernel, sizeof(w.kernel), "%s/vmlinuz", w.cache);
	snprintf(w.initramfs, sizeof(w.initramfs), "%s/initramfs", w.cache);
	assert_int_equal(tsc_khz(&khz), 0);
	snprintf(w.cmdline, sizeof(w.cmdline),
		 "console=ttyS0 panic=-1 quiet nokaslr mitigations=off tsc_early_khz=%" PRIu64
		 " tsc=reliable",
		 khz);
	assert_int_equal(kvm_probe(&kvm), 0);
	w.accel = kvm.usable ? "kvm" : "tcg";
	w.model = calloc(N_GFN, P);
	assert_non_null(w.model);
	return 0;
}

static int tear_down(void **state)
{
	kill_remembered();
	free(w.model);
	return file_remove_tree(AT_FDCWD, w.dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_version),
		cmocka_unit_test(test_boot_and_snapshot),
		cmocka_unit_test(test_restore),
		cmocka_unit_test(test_without_userfaultfd),
		cmocka_unit_test(test_minor_faults),
		cmocka_unit_test(test_bad_device_state),
		cmocka_unit_test(test_killed_during_load),
		cmocka_unit_test(test_no_pager),
		cmocka_unit_test(test_silent_pager),
		cmocka_unit_test(test_confinement),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why MS_MOVE and chroot, and not pivot_root: the initramfs is rootfs, which cannot be pivoted away
 * from (Documentation/filesystems/ramfs-rootfs-initramfs.rst); it stays, hidden below the new root,
 * with the one file in it that matters, this program.
 *
 * The disks are found by what is on them: the order in which virtio-mmio devices are named is not
 * defined.
 *
 * Mounted on the disk that is written: "discard", so that what is deleted is given back to the host
 * within seconds; "noatime", since every block written is stored by the next sleep.
 */
#include "agent/boot.h"

#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"

#define MODULES_LIST	"/etc/modules.list"
#define EROFS_MAGIC	0xE0F5E1E2u
#define EROFS_OFFSET	1024
#define EXT4_MAGIC	0xEF53u
#define EXT4_OFFSET	(1024 + 56)
#define DISK_WAIT_MS	10000
#define VIRTIO_ID_BLOCK 2
#define LOWER		"/lower"
#define UPPER		"/upper"
#define NEW_ROOT	"/new-root"
#define OPEN_FILES	65536

static int make_dir(const char *path, mode_t mode)
{
	return mkdir(path, mode) < 0 && errno != EEXIST ? error_errno() : 0;
}

/* One mount, its directory made if need be; a failure is logged with everything that helps. */
static int mount_at(const char *source, const char *target, const char *type, unsigned long flags,
		    const char *data)
{
	int r = make_dir(target, 0755);

	if (r == 0 && mount(source, target, type, flags, data) < 0)
		r = error_errno();
	if (r < 0)
		log_error("cannot mount %s (%s) at %s: %s", source, type ? type : "move", target,
			  strerrordesc_np(-r));
	return r;
}

/* --- kernel -------------------------------------------------------------------------------------
 */

static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	for (int i = 0; fd >= 0 && i < 3; i++)
		if (fd != i)
			(void)dup2(fd, i); /* without it only messages are lost */
	if (fd > 2)
		close(fd);
}

/* Loaded already, or built in, is fine. What a missing module breaks reports itself. */
static void load_module(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
		log_error("module %s: %s", path, strerrordesc_np(errno));
}

static void load_modules(void)
{
	_cleanup_free_ char *text = NULL;
	char *rest, *line;
	size_t len;

	if (file_read(AT_FDCWD, MODULES_LIST, 65536, &text, &len) < 0)
		return; /* everything is built in */
	rest = text;
	while ((line = strsep(&rest, "\n")))
		if (line[0] == '/')
			load_module(line);
}

int boot_kernel(void)
{
	int r = mount_at("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");

	if (r < 0)
		return r;
	open_console();
	r = mount_at("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	if (r == 0)
		r = mount_at("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	if (r == 0)
		load_modules();
	return r;
}

/* --- root ---------------------------------------------------------------------------------------
 */

static bool is_block_device(const char *device)
{
	_cleanup_free_ char *path = str_printf("/sys/bus/virtio/devices/%s/device", device);
	_cleanup_free_ char *text = NULL;
	unsigned id = 0;
	size_t len;

	return path && file_read(AT_FDCWD, path, 64, &text, &len) == 0 &&
	       sscanf(text, "%x", &id) == 1 && id == VIRTIO_ID_BLOCK;
}

static unsigned count_disks(void)
{
	DIR *d = opendir("/sys/bus/virtio/devices");
	struct dirent *e;
	unsigned n = 0;

	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.' && is_block_device(e->d_name);
	if (d)
		closedir(d);
	return n;
}

static bool holds_erofs(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t m[4];

	return fd >= 0 && fd_pread_full(fd, m, sizeof(m), EROFS_OFFSET) == 0 &&
	       ((uint32_t)m[3] << 24 | m[2] << 16 | m[1] << 8 | m[0]) == EROFS_MAGIC;
}

static bool holds_ext4(const char *path)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t m[2];

	return fd >= 0 && fd_pread_full(fd, m, sizeof(m), EXT4_OFFSET) == 0 &&
	       (unsigned)(m[1] << 8 | m[0]) == EXT4_MAGIC;
}

static bool find_disk(bool (*holds)(const char *path), char path[16])
{
	for (char c = 'a'; c <= 'z'; c++) {
		(void)snprintf(path, 16, "/dev/vd%c", c); /* fits */
		if (holds(path))
			return true;
	}
	return false;
}

/* Return: 0; -ENODEV */
static int find_root_disk(char path[16])
{
	uint64_t deadline_ns = deadline_after_ms(DISK_WAIT_MS);

	do {
		if (find_disk(holds_erofs, path))
			return 0;
		clock_sleep_ms(2);
	} while (!deadline_passed(deadline_ns));
	log_error("no /dev/vd? holds an erofs file system after %d ms", DISK_WAIT_MS);
	return error_trace(-ENODEV);
}

/* Return: 0; -ENODEV */
static int find_writable_disk(char path[16])
{
	uint64_t deadline_ns = deadline_after_ms(DISK_WAIT_MS);

	while (!find_disk(holds_ext4, path)) {
		if (deadline_passed(deadline_ns)) {
			log_error("no /dev/vd? holds an ext4 file system after %d ms",
				  DISK_WAIT_MS);
			return error_trace(-ENODEV);
		}
		clock_sleep_ms(2);
	}
	return 0;
}

static int disk_fd = -1;

int boot_disk_fd(void)
{
	return disk_fd;
}

/* What is written over the root: on a disk, or without one in memory. */
static int mount_upper(unsigned n_disks)
{
	char disk[16];
	int r;

	if (n_disks < 2)
		return mount_at("tmpfs", UPPER, "tmpfs", 0, "size=75%,mode=0755");
	r = find_writable_disk(disk);
	if (r == 0)
		r = mount_at(disk, UPPER, "ext4", MS_NOATIME, "discard");
	if (r == 0)
		disk_fd = open(UPPER, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* -1: it is not trimmed */
	return r;
}

static int mount_root(const char *disk, unsigned n_disks)
{
	int r = mount_at(disk, LOWER, "erofs", MS_RDONLY, NULL);

	if (r == 0)
		r = mount_upper(n_disks);
	if (r == 0)
		r = make_dir(UPPER "/data", 0755);
	if (r == 0)
		r = make_dir(UPPER "/work", 0755);
	if (r == 0)
		r = mount_at("overlay", NEW_ROOT, "overlay", 0,
			     "lowerdir=" LOWER ",upperdir=" UPPER "/data,workdir=" UPPER "/work");
	return r;
}

static int enter_root(void)
{
	static const char *const move[] = {"/dev", "/proc", "/sys"};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(move) && r == 0; i++) {
		char target[32];

		(void)snprintf(target, sizeof(target), NEW_ROOT "%s", move[i]); /* fits */
		r = mount_at(move[i], target, NULL, MS_MOVE, NULL);
	}
	if (r < 0)
		return r;
	if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
	    chdir("/") < 0) {
		r = error_errno();
		log_error("cannot make the overlay the root: %s", strerrordesc_np(-r));
	}
	return r;
}

int boot_root(void)
{
	unsigned n_disks = count_disks();
	char disk[16];
	int r;

	if (!n_disks) {
		log_info("no disk: the initramfs is the root");
		return 0;
	}
	r = find_root_disk(disk);
	if (r == 0)
		r = mount_root(disk, n_disks);
	if (r == 0)
		r = enter_root();
	return r;
}

/* --- system -------------------------------------------------------------------------------------
 */

static void loopback_up(void)
{
	_cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq req = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &req) < 0)
		log_warn("no loopback interface: %s", strerrordesc_np(errno));
}

/* Present already is what is wanted. */
static void make_links(void)
{
	static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
					       {"/proc/self/fd/0", "/dev/stdin"},
					       {"/proc/self/fd/1", "/dev/stdout"},
					       {"/proc/self/fd/2", "/dev/stderr"},
					       {"pts/ptmx", "/dev/ptmx"}};

	(void)unlink("/dev/ptmx"); /* devtmpfs has a node there; only the link serves our pts */
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			log_warn("no %s: %s", links[i][1], strerrordesc_np(errno));
}

static void raise_limits(void)
{
	const struct rlimit files = {OPEN_FILES, OPEN_FILES};
	_cleanup_fd_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "-1000", 5) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0)
		log_warn("cannot raise the agent's own limits: %s", strerrordesc_np(errno));
}

int boot_system(void)
{
	int r = mount_at("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
			 "newinstance,ptmxmode=0666,mode=0620,gid=5");

	if (r == 0)
		r = mount_at("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	if (r == 0)
		r = mount_at("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=75%");
	if (r == 0)
		r = mount_at("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	if (r == 0)
		r = mount_at("cgroup2", "/sys/fs/cgroup", "cgroup2",
			     MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	if (r < 0)
		return r;
	make_links();
	loopback_up();
	raise_limits();
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jail-probe - what does a program with QEMU's privileges reach?
 *
 * dormd starts it as DORM_QEMU, so it has a VMM's descriptors, environment and walls; only QEMU's
 * own -sandbox is missing, which makes it stronger than a QEMU that its guest took over. It tries
 * everything that it must not be able to, writes a line for each to its log (standard error) and
 * waits to be killed:
 *
 *     probe NAME yes            it could
 *     probe NAME no Permission denied
 *     probe end
 *
 * What to try things on is at the end of its own file: test_jail.py appends lines "key=value".
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define FD_MEMORY 3 /* vmm/qemu/command-line.h */

static char targets[8192];

/* The value of a key, or "". */
static const char *target(const char *key)
{
	static char value[8][512];
	static unsigned next;
	char *out = value[next++ % 8], want[64];
	const char *p;

	(void)snprintf(want, sizeof(want), "\n%s=", key);
	p = strstr(targets, want);
	out[0] = 0;
	if (p)
		(void)snprintf(out, 512, "%.*s", (int)strcspn(p + strlen(want), "\n"),
			       p + strlen(want));
	return out;
}

static void read_targets(const char *self)
{
	int fd = open(self, O_RDONLY);
	off_t end = lseek(fd, 0, SEEK_END), from = end > 4096 ? end - 4096 : 0;
	ssize_t n = pread(fd, targets, sizeof(targets) - 1, from);
	char *start = NULL;

	for (ssize_t i = 0; i + 8 < n; i++)
		if (!memcmp(targets + i, "\nTARGETS\n", 9))
			start = targets + i;
	if (!start) {
		(void)fprintf(stderr, "jail-probe: %s has no targets\n", self);
		_exit(2);
	}
	memmove(targets, start, (size_t)(targets + n - start));
	targets[targets + n - start] = 0;
	(void)close(fd);
}

static void say(const char *name, bool could)
{
	const char *why = strerrordesc_np(errno);

	(void)fprintf(stderr, "probe %s %s%s%s\n", name, could ? "yes" : "no", could ? "" : " ",
		      could ? "" : why);
}

/* ---- files ------------------------------------------------------------------------------------
 */

static void try_read(const char *name, const char *path)
{
	char byte;
	int fd = open(path, O_RDONLY | O_NONBLOCK);

	say(name, fd >= 0 && read(fd, &byte, 1) >= 0);
	(void)close(fd);
}

/* The directories on the way to its own files it has, but nothing beside them. */
static void try_list(const char *name, const char *path, const char *wanted)
{
	DIR *d = opendir(path);
	struct dirent *e;
	bool seen = false;

	while (d && (e = readdir(d)))
		seen |= !strcmp(e->d_name, wanted);
	say(name, seen);
	if (d)
		closedir(d);
}

static void try_create(const char *name, const char *dir)
{
	char path[600];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/jail-probe-was-here", dir);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	say(name, fd >= 0);
	if (fd >= 0)
		(void)unlink(path);
	(void)close(fd);
}

static void try_files(void)
{
	char text[600];

	try_read("read-shadow", "/etc/shadow");
	try_read("read-disk", target("disk_device"));
	try_list("list-store", target("store"), "snapshots");
	(void)snprintf(text, sizeof(text), "%s/sandboxes/%s/sandbox.json", target("store"),
		       target("other"));
	try_read("read-other-record", text);
	(void)snprintf(text, sizeof(text), "%s/sandboxes/%s/memory-0/manifest.json",
		       target("store"), target("other"));
	try_read("read-other-memory", text);
	try_read("read-own-record", "sandbox.json");
	(void)snprintf(text, sizeof(text), "%s/sandboxes", target("store"));
	try_list("list-sandboxes", text, target("other"));
	try_list("list-run", target("run"), "pager.sock");
	try_list("list-etc", "/etc", "passwd");
	try_list("list-programs", "/usr/bin", "sh");
	try_create("write-root", "/");
	try_create("write-own-directory", ".");
	try_create("write-tmp", "/tmp");
	try_create("write-store", target("store"));
	try_create("write-shm", "/dev/shm");
	try_create("write-usr", "/usr/share/qemu");
	try_create("write-run", target("run"));
}

/* No descriptor leads to a directory, nor can the image's memory be written. */
static void try_descriptors(void)
{
	bool any = false;
	void *p;

	for (int fd = 0; fd < 1024; fd++) {
		struct stat st;

		any |= fstat(fd, &st) == 0 && (S_ISDIR(st.st_mode) || S_ISBLK(st.st_mode));
	}
	errno = ENOENT;
	say("directory-descriptor", any);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, FD_MEMORY, 0);
	say("write-image-memory", p != MAP_FAILED);
}

/* ---- sockets ----------------------------------------------------------------------------------
 */

static void try_unix(const char *name, int type, const char *path, bool is_abstract)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, type, 0);
	size_t len = strlen(path);

	if (len < sizeof(sa.sun_path) - 1)
		memcpy(sa.sun_path + is_abstract, path, len);
	say(name,
	    s >= 0 && connect(s, (struct sockaddr *)&sa,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1)) == 0);
	(void)close(s);
}

static void try_sockets(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
				 .sin_port = htons((uint16_t)atoi(target("port"))),
				 .sin_addr = {htonl(INADDR_LOOPBACK)}};
	char text[600];
	int s;

	(void)snprintf(text, sizeof(text), "%s/dormd.sock", target("run"));
	try_unix("dormd-socket", SOCK_STREAM, text, false);
	(void)snprintf(text, sizeof(text), "%s/pager.sock", target("run"));
	try_unix("pager-socket", SOCK_SEQPACKET, text, false);
	(void)snprintf(text, sizeof(text), "%s/sandboxes/%s/agent.sock", target("store"),
		       target("other"));
	try_unix("other-agent-socket", SOCK_STREAM, text, false);
	(void)snprintf(text, sizeof(text), "%s/sandboxes/%s/qmp.sock", target("store"),
		       target("other"));
	try_unix("other-qmp-socket", SOCK_STREAM, text, false);
	try_unix("listening-session", SOCK_STREAM, target("session"), false);
	try_unix("abstract-socket", SOCK_STREAM, target("abstract"), true);
	s = socket(AF_INET, SOCK_STREAM, 0);
	say("host-tcp", s >= 0 && connect(s, (struct sockaddr *)&in, sizeof(in)) == 0);
	(void)close(s);
	s = socket(AF_INET, SOCK_DGRAM, 0);
	say("inet-socket", s >= 0);
	(void)close(s);
	s = socket(AF_NETLINK, SOCK_RAW, 0);
	say("netlink-socket", s >= 0);
	(void)close(s);
	s = socket(AF_VSOCK, SOCK_STREAM, 0);
	say("vsock", s >= 0);
	(void)close(s);
}

/* ---- processes --------------------------------------------------------------------------------
 */

static bool sees_processes(void)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	int n = 0;

	while (d && (e = readdir(d)))
		n += e->d_name[0] >= '1' && e->d_name[0] <= '9';
	if (d)
		closedir(d);
	return n > 1;
}

static bool can_signal_any(void)
{
	for (pid_t pid = 2; pid < 1 << 17; pid++)
		if (pid != getpid() && kill(pid, 0) == 0)
			return true;
	return false;
}

static void try_processes(void)
{
	pid_t dormd = (pid_t)atoi(target("dormd"));
	char byte;
	struct iovec here = {&byte, 1}, there = {(void *)strtoul(target("address"), NULL, 16), 1};

	say("see-processes", sees_processes());
	say("signal-dormd", kill(dormd, 0) == 0);
	say("signal-anybody", can_signal_any());
	say("read-dormd-memory", process_vm_readv(dormd, &here, 1, &there, 1, 0) == 1);
	say("trace-dormd", ptrace(PTRACE_SEIZE, dormd, NULL, NULL) == 0);
	(void)ptrace(PTRACE_DETACH, dormd, NULL, NULL);
}

/* ---- privileges -------------------------------------------------------------------------------
 */

/* In a child, so that what succeeds is gone with it. */
static void try_in_child(const char *name, bool (*attempt)(void))
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		bool could = attempt();

		_exit(could ? 0 : errno ? errno & 0x7f : 1);
	}
	if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status)) {
		errno = WEXITSTATUS(status);
		say(name, errno == 0);
	} else {
		say(name, false);
	}
}

static bool mount_anything(void)
{
	return unshare(CLONE_NEWNS) == 0 &&
	       mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("none", "/dev", "tmpfs", 0, NULL) == 0;
}

static bool remount_root(void)
{
	return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL) == 0;
}

static bool new_user_namespace(void)
{
	return unshare(CLONE_NEWUSER) == 0;
}

static bool new_namespace_by_clone(void)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		_exit(0);
	return pid > 0;
}

static bool become_root(void)
{
	return setresuid(0, 0, 0) == 0;
}

static bool become_other(void)
{
	return setresuid(12345, 12345, 12345) == 0;
}

static bool make_device(void)
{
	return mknod("/dev/jail-probe", S_IFBLK | 0600, 254 << 8) == 0 &&
	       unlink("/dev/jail-probe") == 0;
}

static bool has_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{0}};

	(void)syscall(SYS_capget, &header, data);
	errno = EPERM;
	return data[0].permitted | data[1].permitted | data[0].effective | data[1].effective;
}

static bool dump_core(void)
{
	struct rlimit l = {0};

	(void)getrlimit(RLIMIT_CORE, &l);
	errno = EPERM;
	return l.rlim_max > 0;
}

static bool change_root(void)
{
	return chroot("/") == 0;
}

static bool use_bpf(void)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};

	return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)) >= 0;
}

static bool use_perf(void)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
				       .size = sizeof(attr),
				       .config = PERF_COUNT_SW_CPU_CLOCK};

	return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) >= 0;
}

static bool use_io_uring(void)
{
	unsigned char params[120] = {0};

	return syscall(SYS_io_uring_setup, 4, params) >= 0;
}

static bool use_keys(void)
{
	return syscall(SYS_add_key, "user", "jail-probe", "x", 1, -3 /* of the process */) >= 0;
}

static bool use_userfaultfd(void)
{
	return syscall(SYS_userfaultfd, O_CLOEXEC) >= 0 || open("/dev/userfaultfd", O_RDWR) >= 0;
}

static void try_privileges(void)
{
	try_in_child("mount", mount_anything);
	try_in_child("remount", remount_root);
	try_in_child("user-namespace", new_user_namespace);
	try_in_child("clone-namespace", new_namespace_by_clone);
	try_in_child("become-root", become_root);
	try_in_child("become-other", become_other);
	try_in_child("make-device", make_device);
	try_in_child("chroot", change_root);
	try_in_child("capabilities", has_capabilities);
	try_in_child("core-dump", dump_core);
	try_in_child("bpf", use_bpf);
	try_in_child("perf", use_perf);
	try_in_child("io-uring", use_io_uring);
	try_in_child("keys", use_keys);
	try_in_child("userfaultfd", use_userfaultfd);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("QEMU emulator version 7.2.22 (jail-probe)");
		return 0;
	}
	read_targets(argv[0]);
	try_files();
	try_descriptors();
	try_sockets();
	try_processes();
	try_privileges();
	(void)fputs("probe end\n", stderr);
	for (;;)
		pause();
}

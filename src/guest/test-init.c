/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test-init.c - an agent that only says what it found; /init of the guest that test-guest.c boots
 *
 * Every line on the console begins with "test:". Then the power goes off.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void load_modules(void)
{
	FILE *f = fopen("/etc/modules.list", "re");
	char path[256];
	int n = 0;

	while (f && fgets(path, sizeof(path), f)) {
		int fd;

		path[strcspn(path, "\n")] = 0;
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
			printf("test: module %s: %s\n", path, strerror(errno));
		else
			n++;
	}
	printf("test: modules %d\n", n);
}

static void run_in_root(const char *command)
{
	const char *argv[] = {"bash", "-l", "-c", command, NULL};
	int status = -1;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		if (chroot("/sandbox") < 0 || chdir("/") < 0)
			_exit(126);
		execv("/bin/bash", (char **)argv);
		_exit(127);
	}
	(void)waitpid(pid, &status, 0);
	printf("test: status %d\n", status);
}

int main(void)
{
	(void)mount("proc", "/proc", "proc", 0, NULL);
	(void)mount("sysfs", "/sys", "sysfs", 0, NULL);
	(void)mount("dev", "/dev", "devtmpfs", 0, NULL);
	printf("test: init\n");
	load_modules();
	printf("test: ports %s\n", access("/dev/vport0p1", F_OK) == 0 ||
						   access("/dev/vport1p1", F_OK) == 0 ||
						   access("/dev/vport2p1", F_OK) == 0
					   ? "yes"
					   : "no");
	if (mount("/dev/vda", "/sandbox", "erofs", MS_RDONLY, NULL) < 0)
		printf("test: mount: %s\n", strerror(errno));
	run_in_root("echo test: user $(id -u user) home $(stat -c %u:%a /home/user) "
		    "tmp $(stat -c %u:%a /tmp) root $(stat -c %u:%a /root) path $PATH; "
		    "test -x /usr/bin/env && test -x /bin/sh && exit 3");
	fflush(stdout);
	(void)reboot(RB_POWER_OFF);
	return 0;
}

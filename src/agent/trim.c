/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/trim.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "agent/boot.h"
#include "base/fd.h"

#define MAX_DEVICES 32

static int trim_fd(int fd)
{
	struct fstrim_range all = {.len = UINT64_MAX};

	if (ioctl(fd, FITRIM, &all) == 0)
		return 0;
	return errno == EOPNOTSUPP || errno == ENOTTY || errno == EINVAL ? 0 : -1;
}

static int trim(const char *dir)
{
	_cleanup_fd_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return errno == EACCES || errno == ENOENT ? 0 : -1; /* hidden below another mount */
	return trim_fd(fd);
}

static bool is_new(dev_t device, dev_t *seen, size_t *n_seen)
{
	for (size_t i = 0; i < *n_seen; i++)
		if (seen[i] == device)
			return false;
	if (*n_seen == MAX_DEVICES)
		return false;
	seen[(*n_seen)++] = device;
	return true;
}

/* Each with @work, which may be NULL. Return: how many there are; -1 when one failed */
static int each_mount(int (*work)(const char *dir))
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	dev_t seen[MAX_DEVICES];
	struct mntent *m;
	size_t n_seen = 0;
	struct stat st;
	int r = 0;

	if (!f)
		return -1;
	while ((m = getmntent(f))) {
		if (strncmp(m->mnt_fsname, "/dev/", 5) != 0 || !hasmntopt(m, MNTOPT_RW) ||
		    stat(m->mnt_fsname, &st) < 0 || !S_ISBLK(st.st_mode) ||
		    !is_new(st.st_rdev, seen, &n_seen))
			continue;
		if (work && work(m->mnt_dir) < 0)
			r = -1;
	}
	endmntent(f);
	return r < 0 ? r : (int)n_seen;
}

bool trim_is_due(void)
{
	return boot_disk_fd() >= 0 || each_mount(NULL) != 0;
}

int trim_all(void)
{
	int r = boot_disk_fd() < 0 ? 0 : trim_fd(boot_disk_fd());

	return each_mount(trim) < 0 ? -1 : r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/entry.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "agent/metadata.h"
#include "agent/text.h"
#include "base/error.h"
#include "base/mem.h"

char *entry_permissions(mode_t mode, char buf[16])
{
	static const char rwx[] = "rwxrwxrwx";
	char *c = buf;

	if (S_ISDIR(mode))
		*c++ = 'd';
	else if (S_ISLNK(mode))
		*c++ = 'L';
	else if (S_ISCHR(mode) || S_ISBLK(mode))
		*c++ = 'D';
	else if (S_ISFIFO(mode))
		*c++ = 'p';
	else if (S_ISSOCK(mode))
		*c++ = 'S';
	if (mode & S_ISUID)
		*c++ = 'u';
	if (mode & S_ISGID)
		*c++ = 'g';
	if (S_ISCHR(mode))
		*c++ = 'c';
	if (mode & S_ISVTX)
		*c++ = 't';
	if (c == buf)
		*c++ = '-';
	for (int i = 0; i < 9; i++)
		*c++ = mode & (0400u >> i) ? rwx[i] : '-';
	*c = 0;
	return buf;
}

static const char *type_of(mode_t mode)
{
	return S_ISREG(mode)   ? "FILE_TYPE_FILE"
	       : S_ISDIR(mode) ? "FILE_TYPE_DIRECTORY"
			       : "FILE_TYPE_UNSPECIFIED";
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] ? slash + 1 : path;
}

/*
 * Days since 1970 to a date. Not gmtime(): its lock may have been held by another thread when this
 * process was forked. Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms"
 */
static void date_of(int64_t days, int64_t *ret_year, unsigned *ret_month, unsigned *ret_day)
{
	int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097;
	unsigned doe = (unsigned)(z - era * 146097); /* day of the era of 400 years */
	unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	unsigned mp = (5 * doy + 2) / 153; /* months since March */

	*ret_day = doy - (153 * mp + 2) / 5 + 1;
	*ret_month = mp < 10 ? mp + 3 : mp - 9;
	*ret_year = (int64_t)yoe + era * 400 + (*ret_month <= 2);
}

static int append_time(struct buf *b, const struct timespec *t)
{
	int64_t days = t->tv_sec / 86400 - (t->tv_sec % 86400 < 0), year;
	unsigned s = (unsigned)(t->tv_sec - days * 86400), month, day;

	date_of(days, &year, &month, &day);
	if (year < 1 || year > 9999) /* JSON's timestamps have no others */
		return buf_printf(b, ",\"modifiedTime\":\"1970-01-01T00:00:00Z\"");
	return buf_printf(b, ",\"modifiedTime\":\"%04d-%02u-%02uT%02u:%02u:%02u.%09ldZ\"",
			  (int)year, month, day, s / 3600, s / 60 % 60, s % 60, t->tv_nsec);
}

/* Where the link leads, as far as it leads somewhere; its type and mode. */
static int append_target(struct buf *b, const char *path, mode_t *ret_mode)
{
	char target[PATH_MAX];
	struct stat st;
	int r;

	*ret_mode = 0;
	if (!realpath(path, target))
		(void)snprintf(target, sizeof(target), "%s", path); /* cut: it led nowhere */
	else if (stat(target, &st) == 0)
		*ret_mode = st.st_mode;
	r = buf_printf(b, ",\"symlinkTarget\":");
	return r < 0 ? r : text_append(b, target);
}

static int append_who(struct buf *b, struct owner *owner, const struct stat *st)
{
	int r = buf_printf(b, ",\"owner\":");

	if (r == 0)
		r = text_append(b, owner_user(owner, st->st_uid));
	if (r == 0)
		r = buf_printf(b, ",\"group\":");
	return r < 0 ? r : text_append(b, owner_group(owner, st->st_gid));
}

/* Left out when there is none, and when it cannot be read: the rest of the entry is still right. */
static int append_metadata(struct buf *b, const char *path, const struct stat *st)
{
	_cleanup_free_ char *text = NULL;
	json_t *o = NULL;

	if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode))
		return 0;
	if (metadata_read(path, &o) < 0 || !o)
		return 0;
	text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text ? buf_printf(b, ",\"metadata\":%s", text) : 0;
}

int entry_append(struct buf *b, struct owner *owner, const char *path, const struct stat *st)
{
	mode_t mode = st->st_mode;
	char permissions[16];
	int r = buf_printf(b, "{\"name\":");

	if (r == 0)
		r = text_append(b, base_name(path));
	if (r == 0)
		r = buf_printf(b, ",\"path\":");
	if (r == 0)
		r = text_append(b, path);
	if (r == 0 && S_ISLNK(st->st_mode))
		r = append_target(b, path, &mode);
	if (r == 0)
		r = buf_printf(
			b, ",\"type\":\"%s\",\"size\":\"%lld\",\"mode\":%u,\"permissions\":\"%s\"",
			type_of(mode), (long long)st->st_size, mode & 0777,
			entry_permissions(st->st_mode, permissions));
	if (r == 0)
		r = append_who(b, owner, st);
	if (r == 0)
		r = append_time(b, &st->st_mtim);
	if (r == 0)
		r = append_metadata(b, path, st);
	return r < 0 ? r : buf_append(b, "}", 1);
}

int entry_stat(struct buf *b, struct owner *owner, const char *path, const char *before,
	       const char *after)
{
	struct stat st;
	int r;

	if (lstat(path, &st) < 0)
		return -errno;
	r = buf_printf(b, "%s", before);
	if (r == 0)
		r = entry_append(b, owner, path, &st);
	return r < 0 ? r : buf_printf(b, "%s", after);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/owner.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "agent/user.h"
#include "base/mem.h"

enum { HAVE_PASSWD = 1, HAVE_GROUP = 2, HAVE_USER_NAME = 4, HAVE_GROUP_NAME = 8 };

/* The first field of the line of @text whose third field is @id, or @id itself. */
static void name_of(const char *text, unsigned id, char *buf, size_t size)
{
	char want[16];
	int n = snprintf(want, sizeof(want), ":%u:", id); /* fits */

	for (const char *line = text; line && *line; line += strcspn(line, "\n"), line += !!*line) {
		size_t len = strcspn(line, ":\n");
		const char *second = line[len] == ':' ? line + len + 1 : NULL;
		const char *third = second ? second + strcspn(second, ":\n") : NULL;

		if (len > 0 && len < size && third && !strncmp(third, want, (size_t)n)) {
			memcpy(buf, line, len);
			buf[len] = 0;
			return;
		}
	}
	(void)snprintf(buf, size, "%u", id); /* fits */
}

const char *owner_user(struct owner *o, uid_t uid)
{
	if (!(o->loaded & HAVE_PASSWD))
		o->passwd = user_file_text(o->etc, "passwd");
	if (!(o->loaded & HAVE_USER_NAME) || o->uid != uid)
		name_of(o->passwd, uid, o->user_name, sizeof(o->user_name));
	o->uid = uid;
	o->loaded |= HAVE_PASSWD | HAVE_USER_NAME;
	return o->user_name;
}

const char *owner_group(struct owner *o, gid_t gid)
{
	if (!(o->loaded & HAVE_GROUP))
		o->group = user_file_text(o->etc, "group");
	if (!(o->loaded & HAVE_GROUP_NAME) || o->gid != gid)
		name_of(o->group, gid, o->group_name, sizeof(o->group_name));
	o->gid = gid;
	o->loaded |= HAVE_GROUP | HAVE_GROUP_NAME;
	return o->group_name;
}

void owner_deinit(struct owner *o)
{
	free(o->passwd);
	free(o->group);
	o->passwd = o->group = NULL;
	o->loaded = 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/host.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"
#include "sandbox/private.h"
#include "sys/probe.h"

/* Beside dormd, which asks before it has read its options. */
static char *find_jail(void)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n <= 0)
		return NULL;
	self[n] = 0;
	slash = strrchr(self, '/');
	return str_printf("%.*s/dorm-jail", (int)(slash - self), self);
}

static json_t *look(const char *root, const struct jails *jails)
{
	_cleanup_free_ char *program = jails ? NULL : find_jail();
	struct probe_report report;
	const char *qemu = getenv("DORM_QEMU");
	json_t *checks = json_array();

	probe_host(root, qemu && *qemu ? qemu : "qemu-system-x86_64", &report);
	for (unsigned i = 0; i < report.n; i++) {
		const struct probe_item *it = &report.items[i];

		(void)json_array_append_new(/* out of memory: a shorter list */
					    checks,
					    json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", it->name,
						      "status", probe_status_name(it->status),
						      "found", it->found, "cost", it->cost,
						      "remedy", it->remedy));
	}
	if (jails || program)
		jails_describe(jails, program, checks);
	return json_pack("{s:o}", "checks", checks);
}

json_t *host_doctor(const char *root)
{
	return look(root, NULL);
}

json_t *host_doctor_running(struct host *host)
{
	return look(host->root, &host->jails);
}

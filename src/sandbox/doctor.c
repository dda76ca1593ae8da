/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/host.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/str.h"
#include "sandbox/private.h"
#include "sys/probe.h"

/* @program: to find out what jails could be; without @jails, which are as they are */
static json_t *look(const char *root, const struct jails *jails, const char *program)
{
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

json_t *host_doctor(const char *root, const char *libexec)
{
	_cleanup_free_ char *program = str_printf("%s/dorm-jail", libexec);

	return look(root, NULL, program);
}

json_t *host_doctor_running(struct host *host)
{
	return look(host->root, &host->jails, NULL);
}

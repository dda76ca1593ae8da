/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/host.h"

#include "sys/probe.h"

json_t *host_doctor(const char *root)
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
	return json_pack("{s:o}", "checks", checks);
}

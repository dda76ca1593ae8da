/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/host.h"
json_t *host_doctor(const char *root)
{
	return json_pack("{s:[]}", "checks");
}

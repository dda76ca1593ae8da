/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz-qcow2.c - any bytes as a qcow2 disk: what is accepted names nothing but a file beside it */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/str.h"
#include "image/qcow2.h"

#include "fuzz.h"

static void require(bool ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	_cleanup_fd_ int fd = memfd_create("qcow2", MFD_CLOEXEC);
	struct problem problem = PROBLEM_INIT;
	struct qcow2_info info;

	require(fd >= 0 && fd_write_full(fd, data, len) == 0);
	if (qcow2_read_info(fd, &problem, &info)) {
		require(problem_is_set(&problem));
		return 0;
	}
	require(info.virtual_bytes > 0 && info.virtual_bytes <= QCOW2_MAX_VIRTUAL_BYTES);
	require(!info.backing[0] == !info.backing_format[0]);
	require(!info.backing[0] || (str_is_name(info.backing) && !strstr(info.backing, "..")));
	return 0;
}

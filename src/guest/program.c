/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/program.h"

#include <elf.h>
#include <string.h>

bool program_is_static(const void *data, size_t len)
{
	Elf64_Ehdr e;
	Elf64_Phdr p;

	if (len < sizeof(e))
		return false;
	memcpy(&e, data, sizeof(e));
	if (memcmp(e.e_ident, ELFMAG, SELFMAG) || e.e_ident[EI_CLASS] != ELFCLASS64 ||
	    e.e_machine != EM_X86_64 || (e.e_type != ET_EXEC && e.e_type != ET_DYN) ||
	    e.e_phentsize != sizeof(p) || e.e_phnum == 0)
		return false;
	if (e.e_phoff > len || (len - e.e_phoff) / sizeof(p) < e.e_phnum)
		return false;
	for (unsigned i = 0; i < e.e_phnum; i++) {
		memcpy(&p, (const char *)data + e.e_phoff + i * sizeof(p), sizeof(p));
		if (p.p_type == PT_INTERP)
			return false;
	}
	return true;
}

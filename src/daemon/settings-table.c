/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings-table.c - every setting of dormd; see settings.h
 *
 * The defaults stand here as text, for people, and in HOST_CONFIG_DEFAULT as values, for whoever
 * uses the library; test-settings compares the two.
 */
#include "daemon/settings.h"
#include "sandbox/uids.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define AT(member) offsetof(struct settings, member)
#define MIB	   (1ull << 20)

static int take_accel(struct settings *s, const char *value)
{
	s->config.accel = strcmp(value, "tcg") == 0   ? "tcg"
			  : strcmp(value, "kvm") == 0 ? "kvm"
						      : NULL;
	return 0;
}

static int take_codec(struct settings *s, const char *value)
{
	return image_codec_parse(value, &s->config.codec, &s->config.codec_level) < 0 ? -EINVAL : 0;
}

static int take_reflink(struct settings *s, const char *value)
{
	return disk_reflink_parse(value, &s->config.reflink) < 0 ? -EINVAL : 0;
}

static int take_compact(struct settings *s, const char *value)
{
	s->config.compact.off = !strcmp(value, "off");
	return 0;
}

static int take_pager_mode(struct settings *s, const char *value)
{
	return pager_mode_parse(value, &s->config.pager_mode) < 0 ? -EINVAL : 0;
}

static int take_jail(struct settings *s, const char *value)
{
	s->config.no_jail = !strcmp(value, "off");
	s->config.need_jail = !strcmp(value, "on");
	return 0;
}

/* "1879048192:65536" */
static int take_uids(struct settings *s, const char *value)
{
	_cleanup_free_ char *copy = strdup(value);
	char *colon = copy ? strchr(copy, ':') : NULL;
	uint64_t first, n;

	if (!colon)
		return -EINVAL;
	*colon = 0;
	if (str_to_u64(copy, &first) < 0 || str_to_u64(colon + 1, &n) < 0 ||
	    !uids_may_be(first, n))
		return -EINVAL;
	s->config.jail_first_uid = (uint32_t)first;
	s->config.jail_n_uids = (uint32_t)n;
	return 0;
}

static int take_mode(struct settings *s, const char *value)
{
	char *end;
	unsigned long mode = strtoul(value, &end, 8);

	if (strcmp(value, "auto") != 0 && (!*value || *end || mode < 0600 || mode > 0777))
		return -EINVAL;
	s->listeners.socket_mode = strcmp(value, "auto") ? (unsigned)mode : 0;
	return 0;
}

static const char *const accels[] = {"auto", "tcg", "kvm", NULL};
static const char *const reflinks[] = {"auto", "always", "never", NULL};
static const char *const compacts[] = {"auto", "off", NULL};
/* Not "copy": that is for VMMs that bring their own memory. */
static const char *const pager_modes[] = {"auto", "shared", "overlay", "eager", NULL};
static const char *const jails[] = {"auto", "on", "off", NULL};
static const char *const formats[] = {"conf", "man", "man-conf", "markdown", "words", NULL};

const struct setting settings_table[] = {
	{.head = "Where things are",
	 .name = "root",
	 .arg = "DIR",
	 .offset = AT(config.root),
	 .def = "/var/lib/dormouse",
	 .help = "The store: snapshots, templates and sandboxes. An absolute path of at most 60 "
		 "bytes."},
	{.name = "run-dir",
	 .arg = "DIR",
	 .offset = AT(config.run_dir),
	 .def = "/run/dormouse",
	 .help = "Sockets: of the pager, and of the API unless --socket says otherwise."},
	{.name = "guest-cache",
	 .arg = "DIR",
	 .offset = AT(config.guest_cache),
	 .def = "/var/cache/dormouse",
	 .help = "Kernels and root file systems that templates are made from. Can be deleted."},
	{.name = "libexec",
	 .arg = "DIR",
	 .offset = AT(config.libexec),
	 .example = "/usr/libexec/dormouse",
	 .help = "Where dorm-pager, dorm-agent, dorm-net, dorm-jail and libdorm-vmm.so are. "
		 "Without it: "
		 "beside dormd, or in ../libexec/dormouse from there."},
	{.head = "The API",
	 .name = "socket",
	 .arg = "PATH",
	 .offset = AT(listeners.socket),
	 .example = "/run/dormouse/dormd.sock",
	 .help = "The unix socket of the API. Without it: dormd.sock in the run directory."},
	{.name = "socket-mode",
	 .arg = "MODE",
	 .kind = SETTING_OWN,
	 .def = "auto",
	 .take = take_mode,
	 .allowed = "an octal mode from 0600 to 0777, or auto",
	 .help = "Its permissions; auto is 0600, or 0660 with a group."},
	{.name = "socket-group",
	 .arg = "GROUP",
	 .offset = AT(listeners.socket_group),
	 .example = "dormouse",
	 .help = "Who may use it besides root: as good as being root."},
	{.name = "listen",
	 .arg = "ADDRESS:PORT",
	 .kind = SETTING_LIST,
	 .offset = AT(listen),
	 .example = "127.0.0.1:3000",
	 .max = LISTENERS_MAX_TCP,
	 .help = "The API over TCP too; may be repeated. Clients must send an API key (`dorm key "
		 "create`); an address that is not loopback needs TLS."},
	{.name = "api-key",
	 .arg = "SOURCE",
	 .offset = AT(listeners.api_key),
	 .example = "file:/etc/dormouse/api-key",
	 .help = "A key that may do everything: file:PATH or env:NAME, holding 16 to 255 "
		 "characters."},
	{.name = "tls-cert",
	 .arg = "PATH",
	 .offset = AT(listeners.tls_cert),
	 .example = "/etc/dormouse/cert.pem",
	 .help = "Speak TLS over TCP: the certificate and its chain, PEM. Read again on SIGHUP."},
	{.name = "tls-key",
	 .arg = "PATH",
	 .offset = AT(listeners.tls_key),
	 .example = "/etc/dormouse/key.pem",
	 .help = "... and its key."},
	{.name = "allow-plain",
	 .kind = SETTING_FLAG,
	 .offset = AT(listeners.allow_plain),
	 .def = "off",
	 .help = "Listen without TLS on any address: keys, tokens and data can be read on the way, "
		 "unless something in front encrypts them."},
	{.name = "offer-network",
	 .kind = SETTING_FLAG,
	 .offset = AT(config.offers_network),
	 .def = "off",
	 .help = "A client that allows a sandbox the internet wants it a network, as with E2B; "
		 "otherwise it has to ask for one by rules."},
	{.head = "Guests",
	 .name = "accel",
	 .arg = "WHICH",
	 .kind = SETTING_CHOICE,
	 .def = "auto",
	 .choices = accels,
	 .take = take_accel,
	 .help = "How guests run: by KVM, by emulation, or by what a measurement at the start "
		 "finds faster."},
	{.name = "answer-timeout",
	 .arg = "SECONDS",
	 .kind = SETTING_SECONDS,
	 .offset = AT(config.limits.answer_ms),
	 .def = "15",
	 .min = 1,
	 .max = 3600,
	 .help = "How long a woken guest may take to answer."},
	{.name = "boot-timeout",
	 .arg = "SECONDS",
	 .kind = SETTING_SECONDS,
	 .offset = AT(config.limits.boot_ms),
	 .def = "30",
	 .min = 1,
	 .max = 3600,
	 .help = "The same for a guest that boots, for each of three tries."},
	{.name = "operation-timeout",
	 .arg = "SECONDS",
	 .kind = SETTING_SECONDS,
	 .offset = AT(config.limits.operation_ms),
	 .def = "180",
	 .min = 1,
	 .max = 3600,
	 .help = "How long a create or wake may take as a whole."},
	{.head = "Snapshots",
	 .name = "seal-key",
	 .arg = "SOURCE",
	 .kind = SETTING_LIST,
	 .offset = AT(seal_keys),
	 .example = "file:/etc/dormouse/seal-key",
	 .help = "Encrypt snapshots under this key. May be repeated: the first seals, all of them "
		 "open. To change keys put the new one first, run `dorm store rewrap`, and start "
		 "again without the old one. SOURCE is file:PATH, env:NAME or fd:NUMBER, holding "
		 "32 "
		 "bytes, raw, as 64 hexadecimal digits or as base64. A file must be readable by "
		 "its "
		 "owner alone; a variable is removed from the environment."},
	{.name = "codec",
	 .arg = "CODEC",
	 .kind = SETTING_OWN,
	 .def = "zstd:1",
	 .take = take_codec,
	 .allowed = "none, lz4[:LEVEL] or zstd[:LEVEL]",
	 .help = "How sleeps compress memory: none, lz4[:LEVEL] or zstd[:LEVEL]."},
	{.name = "template-level",
	 .arg = "N",
	 .kind = SETTING_NUMBER,
	 .offset = AT(config.template_level),
	 .def = "9",
	 .min = 1,
	 .max = 19,
	 .help = "The zstd level of templates, which are written once and read often."},
	{.name = "reflink",
	 .arg = "WHEN",
	 .kind = SETTING_CHOICE,
	 .def = "auto",
	 .choices = reflinks,
	 .take = take_reflink,
	 .help = "Whether disks are copied by reflink: where the file system can, always, or "
		 "never."},
	{.name = "compact",
	 .arg = "WHEN",
	 .kind = SETTING_CHOICE,
	 .def = "auto",
	 .choices = compacts,
	 .take = take_compact,
	 .help = "Merge the layers of sleeping sandboxes in the background."},
	{.name = "compact-layers",
	 .arg = "N",
	 .kind = SETTING_NUMBER,
	 .offset = AT(config.compact.max_layers),
	 .def = "8",
	 .min = 1,
	 .max = 1000,
	 .help = "... when a sandbox has more of its own than this."},
	{.head = "Memory of images",
	 .name = "pager-mode",
	 .arg = "MODE",
	 .kind = SETTING_CHOICE,
	 .def = "auto",
	 .choices = pager_modes,
	 .env = "DORM_PAGER_MODE",
	 .take = take_pager_mode,
	 .help = "How the memory of woken sandboxes is served; see docs/pager.md. Holds, as the "
		 "next two, for sandboxes that are woken from now on, also by a pager that was "
		 "left running."},
	{.name = "no-prefetch",
	 .kind = SETTING_FLAG,
	 .offset = AT(config.no_prefetch),
	 .def = "off",
	 .env = "DORM_PAGER_PREFETCH",
	 .env_on = "off",
	 .help = "Load only what guests touch, no working sets."},
	{.name = "no-userfaultfd",
	 .kind = SETTING_FLAG,
	 .offset = AT(config.no_userfaultfd),
	 .def = "off",
	 .env = "DORM_PAGER_UFFD",
	 .env_on = "off",
	 .help = "Load all of a sandbox's memory before it runs."},
	{.name = "memory-limit",
	 .arg = "SIZE",
	 .kind = SETTING_BYTES,
	 .offset = AT(config.memory_limit),
	 .def = "none",
	 .zero = "none",
	 .min = 16 * MIB, /* below, guests would evict what they are about to touch */
	 .env = "DORM_MEMORY_LIMIT",
	 .help = "What the clean memory of images may take on this host. Holds at once."},
	{.name = "image-memory-limit",
	 .arg = "SIZE",
	 .kind = SETTING_BYTES,
	 .offset = AT(config.image_limit),
	 .def = "none",
	 .zero = "none",
	 .min = 16 * MIB,
	 .env = "DORM_IMAGE_MEMORY_LIMIT",
	 .help = "The same for each image."},
	{.head = "Isolation",
	 .name = "jail",
	 .arg = "WHEN",
	 .kind = SETTING_CHOICE,
	 .def = "auto",
	 .choices = jails,
	 .take = take_jail,
	 .help = "Shut each VM's process in a jail of its own: where this host can, always (do not "
		 "start otherwise), or never."},
	{.name = "vm-users",
	 .arg = "FIRST:COUNT",
	 .kind = SETTING_OWN,
	 .def = "1879048192:65536",
	 .take = take_uids,
	 .allowed = "FIRST:COUNT, at most 1048576 user ids between 100000 and 4294967294",
	 .help = "User ids that belong to nobody else on this host; each VM runs as one of them."},
	{.name = "cpu-limit",
	 .arg = "PERCENT",
	 .kind = SETTING_NUMBER,
	 .offset = AT(config.cpu_limit_pct),
	 .def = "none",
	 .zero = "none",
	 .min = 1,
	 .max = 6400,
	 .help = "What a sandbox may take of the processors: 100 is one of them."},
	{.name = "io-limit",
	 .arg = "SIZE",
	 .kind = SETTING_BYTES,
	 .offset = AT(config.io_limit),
	 .def = "none",
	 .zero = "none",
	 .min = MIB,
	 .help = "What a sandbox may read, and write, in a second."},
	{.head = "Admission",
	 .name = "memory-reserve",
	 .arg = "SIZE",
	 .kind = SETTING_BYTES,
	 .offset = AT(config.memory_reserve),
	 .def = "auto",
	 .zero = "auto",
	 .min = 16 * MIB,
	 .help = "Memory of the host that sandboxes never get; auto is 5 %."},
	{.name = "max-sandboxes",
	 .arg = "N",
	 .kind = SETTING_NUMBER,
	 .offset = AT(config.max_sandboxes),
	 .def = "none",
	 .zero = "none",
	 .min = 1,
	 .max = 100000,
	 .help = "How many may run at once; without it as many as there is memory for."},
	{.name = "queue",
	 .arg = "N",
	 .kind = SETTING_NUMBER,
	 .offset = AT(config.queue_max),
	 .def = "256",
	 .zero = "none",
	 .min = 0,
	 .max = 100000,
	 .help = "How many creates, wakes and forks may wait for memory; more are refused."},
	{.name = "queue-timeout",
	 .arg = "SECONDS",
	 .kind = SETTING_SECONDS,
	 .offset = AT(config.queue_ms),
	 .def = "20",
	 .min = 1,
	 .max = 3600,
	 .help = "... and for how long."},
	{.head = "VMs kept ready",
	 .name = "warm-vms",
	 .arg = "N",
	 .kind = SETTING_NUMBER,
	 .offset = AT(config.warm_max),
	 .def = "2",
	 .zero = "none",
	 .min = 0,
	 .max = 64,
	 .help = "How many VMs of a template in use may be started before they are asked for."},
	{.name = "warm-total",
	 .arg = "N",
	 .kind = SETTING_NUMBER,
	 .offset = AT(config.warm_total),
	 .def = "8",
	 .zero = "none",
	 .min = 0,
	 .max = 64,
	 .help = "... and of all templates together."},
	{.name = "warm-idle",
	 .arg = "SECONDS",
	 .kind = SETTING_SECONDS,
	 .offset = AT(config.warm_idle_ms),
	 .def = "300",
	 .min = 1,
	 .max = 86400,
	 .help = "They are ended when their template was not asked for during this time."},
	{.head = "This run",
	 .name = "config",
	 .arg = "PATH",
	 .offset = AT(file),
	 .env = "DORM_CONFIG",
	 .this_run = true,
	 .help = "The configuration file; without it " SETTINGS_DEFAULT_FILE ", if there is one."},
	{.name = "check-config",
	 .kind = SETTING_FLAG,
	 .offset = AT(check_config),
	 .this_run = true,
	 .help = "Say whether the configuration is right, and end."},
	{.name = "print-config",
	 .kind = SETTING_FLAG,
	 .offset = AT(print_config),
	 .this_run = true,
	 .help = "Print every value and where it was set, and end."},
	{.name = "describe",
	 .arg = "FORMAT",
	 .kind = SETTING_CHOICE,
	 .offset = AT(describe),
	 .choices = formats,
	 .this_run = true,
	 .help = "Print what can be set, and end: as a configuration file in which everything is "
		 "commented, for the manual pages, as a table, or as words for shells."},
	{.name = "doctor",
	 .kind = SETTING_FLAG,
	 .offset = AT(doctor),
	 .this_run = true,
	 .help = "Print what this host has and lacks, as JSON, and end."},
	{.name = "version",
	 .kind = SETTING_FLAG,
	 .offset = AT(version),
	 .this_run = true,
	 .help = "Print the version, and end."},
	{.name = "help",
	 .kind = SETTING_FLAG,
	 .offset = AT(help),
	 .this_run = true,
	 .help = "Print this, and end."},
};

const size_t settings_count = ARRAY_SIZE(settings_table);

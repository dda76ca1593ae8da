/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why each word is there, where it does not say so itself:
 *
 *  microvm, acpi=on, rtc=on   no PCI, boots in 2 s under TCG; the clock lets a guest repair itself
 *  x-option-roms=off          no copies of option ROMs in guest memory
 *  qboot.rom                  what Debian 12 takes by itself; QEMU 10 would take SeaBIOS, which
 *                             finds no kernel without option ROMs
 *  share=off                  copy-on-write is the dirty log (vmm.h)
 *  tb-size=32                 translation cache: the default would grow to hundreds of MiB per VM
 *  -sandbox on,...            a QEMU that its guest took over cannot start programs or change user
 *  ringbuf                    the console is bounded: a guest cannot fill the host's disk with it
 *  werror=enospc              a guest whose write finds the host's disk full stands still until it
 *                             is resumed, and the write is tried again: told of an error instead, a
 *                             file system goes read-only, for good. Other errors are the guest's
 *  fd=N                       sockets that we opened: no race for their appearance, no path limit
 *  -netdev stream,server=on   whoever connects gets the guest's frames, one at a time; when it is
 *                             gone QEMU listens again (a client of 7.2 would not connect again)
 *  virtio-net-device ...=off  nothing that makes the host tell the guest something by itself: a
 *                             restore would announce itself, which costs the guest time
 *  -S, -incoming defer        a restore waits for device state; its kernel is in memory already,
 *                             and leaving out -kernel, -initrd and -append saves 14 MB per VM
 *  send-configuration=off     xen-save-devices-state writes no configuration section
 *  announce-rounds=0          a restored VM need not be announced to a network; and until its
 *                             listener is ready, which is another thread's work, QEMU 7.2
 *                             queues the frames and then follows a null pointer
 *
 * In QEMU's option strings a comma in a value is written twice.
 */
#include "vmm/qemu/command-line.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/str.h"
#include "vmm/preload/dorm-vmm.h"
#include "vmm/qemu/block-node.h"

#define MAX_WORDS 192
#define MAX_CPUS  64
#define MIB	  (1ull << 20)

struct command_line {
	char *words[MAX_WORDS + 1];
	size_t n;
	int error;
};

struct command_line *command_line_free(struct command_line *c)
{
	if (!c)
		return NULL;
	for (size_t i = 0; i < c->n; i++)
		free(c->words[i]);
	free(c);
	return NULL;
}

const char *const *command_line_argv(const struct command_line *c)
{
	return (const char *const *)c->words;
}

/* The first error sticks, so the caller looks once. */
static void __attribute__((format(printf, 2, 3))) word(struct command_line *c, const char *fmt, ...)
{
	va_list ap;
	char *s = NULL;

	if (c->error)
		return;
	va_start(ap, fmt);
	if (c->n == MAX_WORDS || vasprintf(&s, fmt, ap) < 0)
		c->error = -ENOMEM;
	else
		c->words[c->n++] = s;
	va_end(ap);
}

static void add(struct command_line *c, const char *option, const char *value)
{
	word(c, "%s", option);
	word(c, "%s", value);
}

/* Append @s with every comma doubled. */
static int append_escaped(struct buf *b, const char *s)
{
	int r = 0;

	for (; *s && r == 0; s++)
		r = buf_append(b, *s == ',' ? ",," : s, *s == ',' ? 2 : 1);
	return r;
}

static void add_raw_disk(struct command_line *c, uint32_t i, const struct vmm_disk *d)
{
	_cleanup_buf_ struct buf path = {0};
	const char *mode =
		d->read_only ? "readonly=on" : "cache=writeback,discard=unmap,detect-zeroes=unmap";

	if (append_escaped(&path, d->path) < 0) {
		c->error = -ENOMEM;
		return;
	}
	word(c, "-drive");
	word(c, "if=none,id=d%u,file=%s,format=raw,%s", i, path.data, mode);
	word(c, "-device");
	word(c, "virtio-blk-device,drive=d%u", i);
}

static void add_node(struct command_line *c, json_t *node)
{
	char *text = node ? json_dumps(node, JSON_COMPACT) : NULL;

	json_decref(node);
	if (text)
		add(c, "-blockdev", text);
	else
		c->error = -ENOMEM;
	free(text);
}

/* A chain, node by node from the lowest: QEMU follows no header. */
static void add_chain(struct command_line *c, const struct vmm_disk *d)
{
	const char *below = NULL;

	for (size_t i = 0; i < d->n_layers; i++) {
		add_node(c, block_node_layer(&d->layers[i], below));
		below = d->layers[i].path;
	}
	add_node(c, block_node_overlay(d->path, below));
	word(c, "-device");
	word(c, "virtio-blk-device,drive=n-%s,werror=enospc,rerror=report",
	     block_node_name(d->path));
}

static void add_disk(struct command_line *c, uint32_t i, const struct vmm_disk *d)
{
	if (d->n_layers)
		add_chain(c, d);
	else
		add_raw_disk(c, i, d);
}

static const char *wrong_disk(const struct vmm_disk *d)
{
	/* a path with a scheme, such as "nbd:...", would mean something else to QEMU */
	if (!d->path || d->path[0] != '/')
		return "the path of a disk must be absolute";
	if (d->n_layers > VMM_MAX_LAYERS)
		return "a disk has too many layers";
	if (d->n_layers && !block_node_is_valid(d->path))
		return "the name of a disk's file cannot be used";
	for (size_t i = 0; i < d->n_layers; i++)
		if (!d->layers[i].path || d->layers[i].path[0] != '/' ||
		    !block_node_is_valid(d->layers[i].path))
			return "the name of a layer's file cannot be used";
	return NULL;
}

static void add_network(struct command_line *c, const char *mac)
{
	word(c, "-netdev");
	word(c, "stream,id=net,server=on,addr.type=fd,addr.str=%d", COMMAND_LINE_FD_NETWORK);
	word(c, "-device");
	word(c,
	     "virtio-net-device,netdev=net,mac=%s,guest_announce=off,status=off,ctrl_vq=off,"
	     "ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off,"
	     "ctrl_guest_offloads=off",
	     mac);
}

static int check(const struct vmm_config *v, struct problem *p)
{
	const char *wrong = NULL;

	if (!v->memory_bytes || v->memory_bytes % MIB)
		wrong = "memory must be a whole number of MiB, and more than none";
	else if (!v->cpus || v->cpus > MAX_CPUS)
		wrong = "the number of processors must be 1 to 64";
	else if (!v->accel || (strcmp(v->accel, "tcg") && strcmp(v->accel, "kvm")))
		wrong = "the accelerator must be \"tcg\" or \"kvm\"";
	else if (v->n_disks > VMM_MAX_DISKS)
		wrong = "there are too many disks";
	else if (!v->kernel && (v->initramfs || v->cmdline))
		wrong = "an initramfs or command line needs a kernel";
	for (uint32_t i = 0; !wrong && i < v->n_disks; i++)
		wrong = wrong_disk(&v->disks[i]);
	if (!wrong)
		return 0;
	problem_set(p, 400, "cannot start a VM: %s", wrong);
	return -EINVAL;
}

static void add_machine(struct command_line *c, const struct vmm_config *v)
{
	bool tcg = strcmp(v->accel, "tcg") == 0;

	add(c, "-M", "microvm,acpi=on,rtc=on,x-option-roms=off,memory-backend=ram");
	add(c, "-bios", "qboot.rom");
	add(c, "-accel", tcg ? "tcg,tb-size=32" : "kvm");
	/* Emulated, `rep movsb` goes byte by byte: the kernel and the C library use it for large
	 * copies where the CPU claims that it is fast, which made those 100 times slower. */
	add(c, "-cpu", tcg ? "max,-erms,-fsrm" : "host");
	word(c, "-smp");
	word(c, "%u", v->cpus);
	word(c, "-m");
	word(c, "%lluM", (unsigned long long)(v->memory_bytes / MIB));
	word(c, "-object");
	word(c, "memory-backend-file,id=ram,size=%lluM,mem-path=%s,share=off,prealloc=off",
	     (unsigned long long)(v->memory_bytes / MIB), DORM_MEMORY_PATH);
	word(c, "-nodefaults");
	word(c, "-no-user-config");
	add(c, "-display", "none");
	word(c, "-no-reboot");
	add(c, "-sandbox",
	    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

static void add_devices(struct command_line *c, const struct vmm_config *v)
{
	add(c, "-chardev", "ringbuf,id=console,size=65536");
	add(c, "-serial", "chardev:console");
	word(c, "-chardev");
	word(c, "socket,id=agent,fd=%d,server=on,wait=off", COMMAND_LINE_FD_AGENT);
	add(c, "-device", "virtio-serial-device");
	add(c, "-device", "virtserialport,chardev=agent,name=agent");
	add(c, "-device", "virtio-rng-device");
	for (uint32_t i = 0; i < v->n_disks; i++)
		add_disk(c, i, &v->disks[i]);
	if (v->mac)
		add_network(c, v->mac);
	word(c, "-chardev");
	word(c, "socket,id=qmp,fd=%d,server=on,wait=off", COMMAND_LINE_FD_QMP);
	add(c, "-mon", "chardev=qmp,mode=control");
}

static void add_start(struct command_line *c, const struct vmm_config *v)
{
	if (!v->kernel) {
		word(c, "-S");
		add(c, "-global", "migration.send-configuration=off");
		add(c, "-global", "migration.announce-rounds=0");
		add(c, "-incoming", "defer");
		return;
	}
	add(c, "-kernel", v->kernel);
	if (v->initramfs)
		add(c, "-initrd", v->initramfs);
	if (v->cmdline)
		add(c, "-append", v->cmdline);
}

int command_line_new(const char *program, const struct vmm_config *config, struct problem *problem,
		     struct command_line **ret)
{
	_cleanup_(command_line_freep) struct command_line *c = NULL;
	int r = check(config, problem);

	if (r < 0)
		return r;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	word(c, "%s", program);
	add_machine(c, config);
	add_devices(c, config);
	add_start(c, config);
	if (c->error)
		return error_trace(c->error);
	*ret = take_ptr(c);
	return 0;
}

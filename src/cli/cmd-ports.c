/* SPDX-License-Identifier: Apache-2.0 */
/* dorm ports, dorm port-forward: who listens in a sandbox, and the way there */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/forward.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/request.h"
#include "cli/table.h"

static int print_ports(const struct cli *cli, const json_t *ports)
{
	static const struct table_column columns[] = {{"PORT", TABLE_RIGHT},
						      {"ADDRESS", 0},
						      {"PID", TABLE_RIGHT},
						      {"PROCESS", TABLE_CUT},
						      {"UID", TABLE_RIGHT}};
	_cleanup_(table_freep) struct table *t = table_new(cli, columns, ARRAY_SIZE(columns));
	json_t *o;
	size_t i;

	json_array_foreach (ports, i, o) {
		uint64_t pid = output_field_number(o, "pid");

		table_row(t);
		table_cell(t, "%llu", (unsigned long long)output_field_number(o, "port"));
		table_cell(t, "%s", output_field(o, "address", "-"));
		if (pid)
			table_cell(t, "%llu", (unsigned long long)pid);
		else
			table_cell(t, "-");
		table_cell(t, "%s", output_field(o, "process", "-"));
		table_cell(t, "%llu", (unsigned long long)output_field_number(o, "uid"));
	}
	return table_print(t);
}

static int run_ports(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_reply_ struct http_reply reply = {0};
	struct args args;
	int r = options_parse(cli, command, NULL, 0, argc, argv, &args);

	if (r)
		return options_exit(r);
	if (request_named(cli, "GET", "/sandboxes/", args.pos[0], "/ports", &reply))
		return CLI_FAILED;
	if (!cli->json)
		return print_ports(cli, reply.body);
	output_json(reply.body);
	return CLI_OK;
}

const struct command cmd_ports = {
	.name = "ports",
	.usage = "ID",
	.summary = "List the TCP ports that a sandbox listens on",
	.examples = "  dorm ports i4k2...\n",
	.missing = "a sandbox id",
	.min_args = 1,
	.max_args = 1,
	.run = run_ports,
};

/* --- port-forward -------------------------------------------------------------------------------
 */

struct spec {
	char bind[64];
	uint16_t local, remote;
};

static int parse_port(const char *text, uint64_t min, uint16_t *ret)
{
	uint64_t n;

	if (str_to_u64(text, &n) < 0 || n < min || n > UINT16_MAX)
		return -EINVAL;
	*ret = (uint16_t)n;
	return 0;
}

/* "[[BIND:]LOCAL:]REMOTE", an IPv6 address in brackets */
static int parse_spec(const char *text, struct spec *ret)
{
	char copy[128];
	char *remote, *local, *bind = copy;

	*ret = (struct spec){.bind = "127.0.0.1"};
	if (strlen(text) >= sizeof(copy))
		return -EINVAL;
	strcpy(copy, text);
	remote = strrchr(copy, ':');
	if (!remote) {
		if (parse_port(copy, 1, &ret->remote) < 0)
			return -EINVAL;
		ret->local = ret->remote;
		return 0;
	}
	*remote++ = 0;
	local = strrchr(copy, ':');
	if (local)
		*local++ = 0;
	else
		local = copy;
	if (parse_port(remote, 1, &ret->remote) < 0 || parse_port(local, 0, &ret->local) < 0)
		return -EINVAL;
	if (local == copy)
		return 0;
	if (!*bind || strlen(bind) >= sizeof(ret->bind))
		return -EINVAL;
	strcpy(ret->bind, !strcmp(bind, "localhost") ? "127.0.0.1" : bind);
	return 0;
}

static unsigned bound_port(int fd)
{
	struct sockaddr_in6 sa = {0};
	socklen_t len = sizeof(sa);

	(void)getsockname(fd, (struct sockaddr *)&sa, &len); /* 0 then */
	return ntohs(sa.sin6_port);			     /* at the same place for IPv4 */
}

static int listen_to(struct forward *f, const struct spec *s)
{
	_cleanup_free_ char *address = str_printf("%s:%u", s->bind, s->local);
	struct problem problem = PROBLEM_INIT;
	int fd = address ? fd_tcp_listen(address) : -ENOMEM;

	if (fd < 0) {
		problem_errno(&problem, fd, "listening on %s", address ?: s->bind);
		output_problem(&problem);
		return fd;
	}
	(void)fprintf(stderr, "%s:%u -> port %u\n", s->bind, bound_port(fd), s->remote);
	return forward_listen(f, fd, s->remote);
}

static int forward_ports(struct forward *f, const struct command *command, char **texts, size_t n)
{
	struct problem problem = PROBLEM_INIT;
	struct spec specs[16];
	int r = 0;

	if (n > ARRAY_SIZE(specs))
		return options_usage(command, "more than %zu ports", ARRAY_SIZE(specs));
	for (size_t i = 0; i < n; i++)
		if (parse_spec(texts[i], &specs[i]) < 0)
			return options_usage(command, "'%s' is not [[BIND:]LOCAL:]REMOTE",
					     texts[i]);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = listen_to(f, &specs[i]);
	if (r == 0) {
		r = forward_run(f);
		problem_errno(&problem, r, "forwarding");
		output_problem(&problem);
	}
	return r == -EINVAL ? CLI_USAGE : CLI_FAILED;
}

static int forward_one(struct forward *f, const struct command *command, const char *text)
{
	struct problem problem = PROBLEM_INIT;
	uint16_t port;

	if (parse_port(text, 1, &port) < 0)
		return options_usage(command, "'%s' is not a port", text);
	if (forward_stdio(f, port, &problem) == 0)
		return CLI_OK;
	output_problem(&problem);
	return CLI_FAILED;
}

static int run_port_forward(struct cli *cli, const struct command *command, int argc, char **argv)
{
	_cleanup_(forward_freep) struct forward *f = NULL;
	bool stdio = false;
	const struct option_spec specs[] = {
		{0, "stdio", OPTION_FLAG, &stdio, NULL,
		 "one connection to one port, with standard input and output"},
	};
	struct args args;
	int r = options_parse(cli, command, specs, ARRAY_SIZE(specs), argc, argv, &args);
	const char *id;

	if (r)
		return options_exit(r);
	id = args.pos[0];
	if (strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789") != strlen(id))
		return options_usage(command, "'%s' is not a sandbox id (see `dorm ps`)", id);
	if (stdio && args.n_pos != 2)
		return options_usage(command, "--stdio goes with one port");
	(void)signal(SIGPIPE, SIG_IGN);
	if (forward_new(cli->socket, id, &f) < 0)
		return CLI_FAILED;
	if (stdio)
		return forward_one(f, command, args.pos[1]);
	return forward_ports(f, command, args.pos + 1, args.n_pos - 1);
}

const struct command cmd_port_forward = {
	.name = "port-forward",
	.usage = "[OPTIONS] ID [[BIND:]LOCAL:]REMOTE...",
	.summary = "Carry connections of this host to ports of a sandbox",
	.details =
		"Listens on port LOCAL (default: the same number; 0: any that is free) of BIND\n"
		"(default: 127.0.0.1, reached from this host alone) and carries each connection\n"
		"to port REMOTE of the sandbox's loopback, until it is ended with Ctrl-C. Each\n"
		"listener is printed to standard error. When the sandbox sleeps its connections\n"
		"end; new ones work again after a wake.\n",
	.examples = "  dorm port-forward i4k2... 8080\n"
		    "  dorm port-forward i4k2... 5000:80 5001:5432\n"
		    "  ssh -o ProxyCommand='dorm port-forward --stdio i4k2... 22' user@sandbox\n",
	.missing = "a sandbox id and a port",
	.min_args = 2,
	.max_args = SIZE_MAX,
	.no_json = true,
	.run = run_port_forward,
};

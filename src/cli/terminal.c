/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"

/* A terminal is the process's, and a signal handler has nobody to pass it along. */
static struct {
	int fd;
	volatile sig_atomic_t raw;
	struct termios before;
} terminal;

int terminal_size(int fd, struct terminal_size *ret)
{
	struct winsize w;

	*ret = (struct terminal_size){.cols = 80, .rows = 24};
	if (ioctl(fd, TIOCGWINSZ, &w) < 0 || !w.ws_col || !w.ws_row)
		return -ENOTTY;
	*ret = (struct terminal_size){.cols = w.ws_col, .rows = w.ws_row};
	return 0;
}

void terminal_restore(void)
{
	if (!terminal.raw)
		return;
	terminal.raw = 0;
	/* in the background, changing the terminal would stop us for ever; we are leaving anyway */
	(void)signal(SIGTTOU, SIG_IGN);
	(void)tcsetattr(terminal.fd, TCSADRAIN, &terminal.before); /* gone is fine */
	(void)signal(SIGTTOU, SIG_DFL);
}

/* tcsetattr() and signal() may be called here (signal-safety(7)). SA_RESETHAND: then we die of it
 */
static void on_deadly(int sig)
{
	terminal_restore();
	(void)raise(sig);
}

static void guard(void)
{
	static const int deadly[] = {SIGQUIT, SIGILL, SIGABRT, SIGFPE, SIGSEGV, SIGBUS, SIGALRM};
	const struct sigaction act = {.sa_handler = on_deadly, .sa_flags = (int)SA_RESETHAND};
	static bool done;

	if (done)
		return;
	done = true;
	(void)atexit(terminal_restore); /* one more way out; the usual ones do without */
	for (size_t i = 0; i < ARRAY_SIZE(deadly); i++)
		(void)sigaction(deadly[i], &act, NULL); /* cannot fail for these */
}

int terminal_make_raw(int fd)
{
	struct termios raw;

	if (tcgetattr(fd, &terminal.before) < 0)
		return error_errno();
	terminal.fd = fd;
	guard();
	raw = terminal.before;
	cfmakeraw(&raw);
	terminal.raw = 1;
	if (tcsetattr(fd, TCSADRAIN, &raw) < 0) {
		terminal.raw = 0;
		return error_errno();
	}
	return 0;
}

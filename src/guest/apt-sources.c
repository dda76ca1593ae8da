/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/apt-sources.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/str.h"

#define BLANKS " \t"

/* Debian's own suites of a release: not backports, not those of others ("bookworm-pgdg"). */
static bool is_suite(const char *word, size_t len, const char *release)
{
	static const char *const after[] = {"",		 "/",	     "-updates",
					    "-security", "/updates", "-security/"};
	size_t n = strlen(release);

	if (len < n || strncmp(word, release, n))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(after); i++)
		if (strlen(after[i]) == len - n && !strncmp(word + n, after[i], len - n))
			return true;
	return false;
}

static bool has_word(const char *words, const char *word)
{
	size_t n = strlen(word), len;

	for (; *words; words += len) {
		words += strspn(words, BLANKS);
		len = strcspn(words, BLANKS);
		if (len == n && !strncmp(words, word, n))
			return true;
	}
	return false;
}

/* Is it a line to keep? */
static bool keep_line(const char *line, const char *release)
{
	const char *s = str_has_prefix(line, "deb");
	size_t len;

	if (!s || !strchr(BLANKS, *s))
		return false;
	s += strspn(s, BLANKS);
	if (*s == '[') {
		s += strcspn(s, "]");
		s += *s == ']';
		s += strspn(s, BLANKS);
	}
	s += strcspn(s, BLANKS); /* the URI */
	s += strspn(s, BLANKS);
	len = strcspn(s, BLANKS);
	return is_suite(s, len, release) && has_word(s + len, "main");
}

int apt_sources_filter_list(const char *text, const char *release, struct buf *out)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy, *line;
	int r = copy ? 0 : -ENOMEM;

	while (r == 0 && (line = strsep(&rest, "\n"))) {
		line += strspn(line, BLANKS);
		if (keep_line(line, release))
			r = buf_printf(out, "%s\n", line);
	}
	return r;
}

/* One paragraph, while its lines are read. */
struct paragraph {
	struct buf kept, suites;	   /* lines that stay as they are; the suites that stay */
	bool deb, main, disabled, keeping; /* keeping: the last field was copied */
};

static int take_suites(struct paragraph *p, const char *words, const char *release)
{
	size_t len;
	int r = 0;

	for (; r == 0 && *words; words += len) {
		words += strspn(words, BLANKS);
		len = strcspn(words, BLANKS);
		if (is_suite(words, len, release))
			r = buf_printf(&p->suites, " %.*s", (int)len, words);
	}
	return r;
}

/* The value of a field, if the line is one; names are not case-sensitive. */
static const char *field(const char *line, const char *name)
{
	size_t n = strlen(name);

	return !strncasecmp(line, name, n) && line[n] == ':' ? line + n + 1 : NULL;
}

static int take_line(struct paragraph *p, const char *line, const char *release)
{
	const char *v;

	if (line[0] == '#')
		return 0;
	if (strchr(BLANKS, line[0])) /* goes on with the field above */
		return p->keeping ? buf_printf(&p->kept, "%s\n", line) : 0;
	p->keeping = false;
	if ((v = field(line, "Types"))) {
		p->deb = has_word(v, "deb");
		return 0;
	}
	if ((v = field(line, "Suites")))
		return take_suites(p, v, release);
	if ((v = field(line, "Enabled")))
		p->disabled = has_word(v, "no");
	if ((v = field(line, "Components")))
		p->main = has_word(v, "main");
	p->keeping = true;
	return buf_printf(&p->kept, "%s\n", line);
}

static int end_paragraph(struct paragraph *p, struct buf *out)
{
	int r = 0;

	if (p->deb && p->main && !p->disabled && p->suites.len)
		r = buf_printf(out, "%sTypes: deb\nSuites:%s\n%s", out->len ? "\n" : "",
			       p->suites.data, p->kept.data ? p->kept.data : "");
	buf_deinit(&p->kept);
	buf_deinit(&p->suites);
	*p = (struct paragraph){.deb = false};
	return r;
}

int apt_sources_filter_deb822(const char *text, const char *release, struct buf *out)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy, *line;
	struct paragraph p = {.deb = false};
	int r = copy ? 0 : -ENOMEM, e;

	while (r == 0 && (line = strsep(&rest, "\n")))
		r = line[strspn(line, BLANKS)] ? take_line(&p, line, release)
					       : end_paragraph(&p, out);
	e = end_paragraph(&p, out);
	return r < 0 ? r : e;
}

# SPDX-License-Identifier: Apache-2.0
# fish completion for dormd(8), from its own table of settings
if command -sq dormd
	for line in (dormd --describe words 2>/dev/null)
		set -l row (string split ' ' -- $line)
		set -l name (string sub -s 3 -- $row[1])
		if test (count $row) -eq 1
			complete -c dormd -l $name
		else if test $row[2] = choice
			complete -c dormd -l $name -x -a "$row[3..-1]"
		else
			complete -c dormd -l $name -r
		end
	end
end
